"""What tests see of the machine and the shell that they run in: the same everywhere."""

import re
from collections.abc import MutableMapping

SHOWN = (
    "COLUMNS",
    "DIFFNR_TRACEBACK",
    "FORCE_COLOR",
    "LINES",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
)
"""What a shell, or a service that shows logs in colour, says of how text is to be shown."""
JOBS = ("SLURM_", "SBATCH_", "SRUN_")
"""How variables begin by which a job of SLURM says how many processes and cores it has."""


def forget_screen(environment: MutableMapping[str, str]) -> None:
    """Forget the screen: text that is shown to tests has no colours, a width of 80 and no tracebacks."""
    for name in SHOWN:
        environment.pop(name, None)


def forget_job(environment: MutableMapping[str, str]) -> None:
    """Forget the job of SLURM that tests run in, whose processes Lightning would take for its own."""
    for name in [name for name in environment if name.startswith(JOBS)]:
        del environment[name]


def hide_gpus(environment: MutableMapping[str, str], marks: str) -> None:
    """Let a session see no GPU whose expression of marks (`-m`) does not ask for the mark `gpu`."""
    if not re.search(r"\bgpu\b", re.sub(r"\bnot\s+gpu\b", "", marks)):
        environment["CUDA_VISIBLE_DEVICES"] = ""
