"""The command ``diffnr``: one subcommand for each workflow.

Nothing heavy is imported before a command is known, so that ``diffnr --help`` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import select
import sys
from collections.abc import Sequence

from diffnr_lightning import __version__

WORKFLOWS = "diffnr_lightning.workflows"

# Name -> first line of the workflow's docstring (tests/test_cli.py compares them): reading it from
# the function would import torch for a mere --help.
COMMANDS = {
    "simulate": "Scan a volume, or a generated object, and write the case.",
    "ingest": "Turn measured projections into a case.",
    "reconstruct": "Reconstruct the volume of a case.",
    "evaluate": "Print one table of finished runs under every metric protocol.",
    "sweep": (
        "Scan volumes in several ways and with several numbers of views, and reconstruct each scan by several methods."
    ),
    "table": "Make the runs of a table of a paper and show published numbers beside ours.",
    "curate": (
        "Scan volumes, stop reconstructions early, and keep what they look like beside the truth."
    ),
    "finetune": "Train a SliceFixer on curated pairs.",
    "train-denoiser": "Train a denoiser, the prior of diffusion solvers, on clean volumes.",
    "report": "Write one self-contained HTML page that compares runs.",
    "submit": (
        "Hand a command over to SLURM, as one job or as an array of jobs that share the work."
    ),
    "demo": "Reconstruct a generated chest in several ways and compare them.",
    "doctor": "Show versions, devices and what will run where.",
}
# Command -> the option that its first word gives where it is none: `diffnr table diffnr/1`.
FIRST_WORD = {"table": "name"}
RESUMABLE = {"reconstruct", "sweep", "table", "curate", "finetune", "train-denoiser", "demo"}

EXPECTED_ERRORS = (ValueError, TypeError, OSError)
USAGE_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        Exit code: 0, 2 after bad input, 130 after an interruption, 143 after SIGTERM.
    """
    code = 0
    try:
        code = _outcome(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        # Python finds nothing any more that it cannot write as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _outcome(arguments: list[str]) -> int:
    """Run one command and return its exit code.

    Raises:
        BrokenPipeError: nobody reads what it prints.
    """
    show_traceback = os.environ.get("DIFFNR_TRACEBACK") == "1"
    if "--traceback" in arguments:
        arguments.remove("--traceback")
        show_traceback = True
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"diffnr {__version__}")
        return 0
    command, options = arguments[0], arguments[1:]
    if command in FIRST_WORD and options and not options[0].startswith("-"):
        options = [f"--{FIRST_WORD[command]}", *options]
    if command not in COMMANDS:
        _complain(
            "diffnr", f"unknown command {command!r}; one of {', '.join(COMMANDS)} is expected."
        )
        return USAGE_ERROR
    prog = f"diffnr {command}"
    try:
        _run(command, options, prog)
    except KeyboardInterrupt:
        return _interrupted(command, prog)
    except SystemExit as end:
        # Lightning answers Ctrl-C with an exit of its own.
        if isinstance(end.__context__, KeyboardInterrupt):
            return _interrupted(command, prog)
        # Nor has its answer to SIGTERM a code, which would pass for success.
        if type(end).__name__ == "SIGTERMException":
            _interrupted(command, prog)
            return TERMINATED
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (*EXPECTED_ERRORS, ImportError) as error:
        of_nobody = isinstance(error, BrokenPipeError) and _nobody_reads()
        if of_nobody or show_traceback or not _is_for_users(error):
            raise
        _complain(prog, _one_sentence(error))
        return USAGE_ERROR
    return 0


def _run(command: str, options: list[str], prog: str) -> None:
    function = getattr(importlib.import_module(WORKFLOWS), command.replace("-", "_"))
    from diffnr_lightning.workflows.command_line.settings import parse

    _set_up_messages()
    function(**parse(function, options, prog=prog).arguments)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: diffnr COMMAND [--config FILE.yaml ...] [OPTIONS]",
            "",
            "Sparse-view CT reconstruction with neural representations and repairing priors.",
            "",
            "commands:",
            *lines,
            "",
            "`diffnr COMMAND --help` lists the options of a command, `--print_config` prints them",
            "as YAML, `--traceback` (or DIFFNR_TRACEBACK=1) shows where an error came from.",
        ]
    )


def _set_up_messages() -> None:
    """Show our messages plainly."""
    logger = logging.getLogger("diffnr")
    handler = logging.StreamHandler()  # to the stderr of now, which may not be that of last time
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


def _is_for_users(error: BaseException) -> bool:
    """Tell errors in words from defects: of import errors, those that name an extra."""
    return not isinstance(error, ImportError) or "diffnr-lightning[" in str(error)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that its reader has closed, as `head` does; other pipes break by faults."""
    try:
        sys.stdout.flush()
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        # Unbuffered output (PYTHONUNBUFFERED) has nothing left to write.
        return any(event & select.POLLERR for _, event in output.poll(0))
    except BrokenPipeError:
        return True
    except (OSError, ValueError, AttributeError):  # no file, as in a notebook; no `poll` (Windows)
        return False


def _one_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}."
    return text or f"{type(error).__name__}."


def _interrupted(command: str, prog: str) -> int:
    if command == "submit":
        hint = "jobs that SLURM has taken go on: `squeue --me` shows them, and `scancel` ends them"
    else:
        hint = "the same command resumes" if command in RESUMABLE else "nothing was kept"
    print(f"{prog}: interrupted; {hint}.", file=sys.stderr)
    return INTERRUPTED


def _complain(prog: str, sentence: str) -> None:
    print(f"{prog}: error: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
