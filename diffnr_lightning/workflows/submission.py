"""Hand commands over to the scheduler of a cluster."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from diffnr_lightning.reports.terminal import Terminal
from diffnr_lightning.workflows.command_line.settings import parse
from diffnr_lightning.workflows.machine.workers import THREADS, cores_of_task, cores_seen
from diffnr_lightning.workflows.runs.folder_lock import folder_lock

SHARDED = ("curate", "sweep")
"""Commands of which several jobs share the work."""

DISTRIBUTED = ("finetune", "train-denoiser")
"""Commands whose processes may be the tasks of one job."""

SUBMITTED = (*SHARDED, "reconstruct", *DISTRIBUTED)

MOST_TIMEOUTS = 100
"""Times that a job goes back into the queue when its time is over; one without headway has an end too."""

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What submitit lets the scheduler send to all processes of a job some time before it ends them."""

ENDED_BY_SIGTERM = 128 + signal.SIGTERM
SECONDS_TO_REQUEUE = 60.0
SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_WITHOUT_ANSWER = 600.0
"""Of the queue, until nobody waits for it any more; a controller that starts again takes minutes."""

SECONDS_FOR_RESULTS = 15.0
"""After a job has left the queue, until a shared file system shows what it wrote last."""


UNNUMBERED = re.compile(r"(\.submission_file_)?[0-9a-f]{32}\.(pkl|sh)")
"""Files of submitit until the scheduler has given them the number of a job; running jobs write others beside them."""


class CommandLine:
    """Run a `diffnr` command in a job, and again where the scheduler stopped it.

    Every command that may be submitted goes on where it was killed, so that nothing else is kept.

    Args:
        arguments: of `diffnr`, the command first.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def __call__(self) -> None:
        """Run the command.

        Raises:
            RuntimeError: it failed.
            SystemExit: the scheduler has ended it, and leaves or sets the job in the queue.
        """
        command = [sys.executable, "-m", "diffnr_lightning.cli", *self.arguments]
        tied = _end_with_parent if sys.platform == "linux" else None  # others have no such signal
        environment = {**_threads(), **os.environ}
        code = subprocess.run(command, check=False, env=environment, preexec_fn=tied).returncode
        if -code in WARNINGS:
            # submitit queues the job again when it is warned, which the first task does for all: none may end before.
            time.sleep(SECONDS_TO_REQUEUE)
        if code in (-signal.SIGTERM, ENDED_BY_SIGTERM):
            # No error, which submitit would keep as the result of a job that is to start again.
            raise SystemExit(ENDED_BY_SIGTERM)
        if code:
            raise RuntimeError(_ending(self.arguments, code))

    def checkpoint(self) -> Any:
        """Return what submitit puts into the queue when the job is preempted or its time is over."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _end_with_parent() -> None:
    """Let the kernel kill this process when its parent is killed, which can tell nobody then."""
    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _threads() -> dict[str, str]:
    """Return numbers of threads where the scheduler has given fewer cores than it lets a job see."""
    cores = cores_of_task()
    return dict.fromkeys(THREADS, str(cores)) if cores < cores_seen() else {}


def _ending(arguments: Sequence[str], code: int) -> str:
    """Say how a command ended that did not succeed."""
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    task = f" (task {os.environ.get('SLURM_PROCID')} of {tasks})" if tasks > 1 else ""
    command = f"diffnr {shlex.join(arguments)}{task}"
    if code > 0:
        return f"{command} ended with exit code {code}; what it said stands above."
    killed = signal.Signals(-code).name
    memory = ", as by the kernel when memory is short" if code == -signal.SIGKILL else ""
    return f"{command} was ended by {killed}{memory}; submitted or requeued again, the job goes on from what is kept."


def submit(
    command: str,
    folder: Path = Path("jobs"),
    jobs: int = 1,
    cluster: Literal["slurm", "local"] = "slurm",
    options: dict[str, Any] | None = None,
    wait: bool = False,
) -> list[str]:
    """Hand a command over to SLURM, as one job or as an array of jobs that share the work.

    A job that is preempted or runs out of time goes back into the queue, up to a hundred times for want of time, and
    takes up its work there.

    Args:
        command: what would stand behind `diffnr`, in quotes: curate, sweep, finetune, reconstruct or
            train-denoiser with their options.
        folder: of scripts and logs.
        jobs: into which a `curate` or `sweep` is divided, each with its own `--shard`.
        cluster: slurm, or local, which runs the jobs as processes of this machine.
        options: of the jobs, as submitit names them: timeout_min (5 where nothing is said), nodes, tasks_per_node,
            gpus_per_node, cpus_per_task, mem_gb, slurm_partition, slurm_account and so on.
        wait: until all jobs have ended.

    Returns:
        The numbers of the jobs.

    Raises:
        ImportError: submitit is not installed.
        ChildProcessError: `squeue` does not answer while jobs are waited for.
        ValueError: a command that cannot be submitted, divided or run as several tasks, or whose own options are
            wrong, an unknown option or one that the cluster refuses, a machine without SLURM, or jobs that failed.
    """
    shares = _shares(command, jobs)
    options = options or {}
    tasks = _tasks(options, cluster)
    _refuse_tasks(shares[0][0], tasks)
    _refuse_other_processes(_checked(shares[0]), tasks)
    executor = _executor(folder, cluster, options)
    submitted = _handed_over(executor, shares, options)
    console = Terminal()
    for job, share in zip(submitted, shares, strict=True):
        # Brackets of a set such as split:test[kind=head] are no markup.
        console.out(f"{job.job_id}  diffnr {shlex.join(share)}", highlight=False)
    if wait:
        if cluster == "slurm":
            _wait_for_queue([job.job_id for job in submitted])
        failed = [job.job_id for job in submitted if not _succeeded(job, cluster)]
        if failed:
            raise ValueError(
                f"{len(failed)} of {jobs} jobs failed ({', '.join(failed)}); read their logs in {folder} and submit "
                "the same command again: what is finished is not done twice."
            )
    return [job.job_id for job in submitted]


def _shares(command: str, jobs: int) -> list[list[str]]:
    """Return the arguments of each job."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ValueError(
            f"command is {command!r} ({error}); quotes that close are expected."
        ) from None
    known = ", ".join(SUBMITTED)
    if not arguments or arguments[0] not in SUBMITTED:
        raise ValueError(f"command is {command!r}; one that begins with {known} is expected.")
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; at least one is expected.")
    if jobs == 1:
        return [arguments]
    sharded = any(word.split("=")[0] == "--shard" for word in arguments)
    if arguments[0] not in SHARDED or sharded:
        raise ValueError(
            f"jobs is {jobs} and command {command!r}; only {' and '.join(SHARDED)} without --shard can be divided."
        )
    return [[*arguments, "--shard", f"{k}/{jobs}"] for k in range(jobs)]


def _tasks(options: Mapping[str, Any], cluster: str) -> list[int]:
    """Return nodes of a job, and tasks on each; names that begin with the cluster's win, as in submitit."""

    def first_given(*names: str) -> int:
        return next((options[name] for name in names if options.get(name)), 1)

    per_node = (f"{cluster}_ntasks_per_node", f"{cluster}_tasks_per_node", "tasks_per_node")
    return [first_given(f"{cluster}_nodes", "nodes"), first_given(*per_node)]


def _refuse_tasks(command: str, tasks: list[int]) -> None:
    """Refuse several tasks of a job where all would do the same work."""
    if command not in DISTRIBUTED and tasks != [1, 1]:
        raise ValueError(
            f"nodes and tasks_per_node are {tasks[0]} and {tasks[1]} for {command}, each task of which would do the "
            f"same; one of each is expected, and --jobs to divide {' or '.join(SHARDED)}."
        )


def _checked(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a command; refuse what every job would refuse, hours later. Nothing is built here."""
    workflows = importlib.import_module("diffnr_lightning.workflows")
    command, *words = arguments
    try:
        function = getattr(workflows, command.replace("-", "_"))
        return parse(function, words, prog=f"diffnr {command}", build=False).resolved
    except (ValueError, OSError) as error:
        raise ValueError(f"command is {shlex.join(arguments)!r}: {error}") from error


def _refuse_other_processes(settings: Mapping[str, Any], tasks: list[int]) -> None:
    """Refuse a training of another number of processes than of tasks; one task starts those of its node itself."""
    asked = [settings.get("num_nodes", 1), settings.get("devices", 1)]
    counted = str(asked[1]).isdigit()  # "auto" is known on the node alone
    if asked != tasks and counted and (tasks != [1, 1] or asked[0] != 1):
        raise ValueError(
            f"nodes and tasks_per_node are {tasks[0]} and {tasks[1]}, and the command's num_nodes and devices "
            f"{asked[0]} and {asked[1]}; a task for each device is expected: give the command --num_nodes "
            f"{tasks[0]} --devices {tasks[1]}, or other options."
        )


def _handed_over(executor: Any, shares: Sequence[list[str]], options: dict[str, Any]) -> list[Any]:
    """Return submitit's jobs, one for each share; what a refused submission has written is taken away again."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = executor.folder
    folder.mkdir(parents=True, exist_ok=True)
    # Submissions take turns: by their names nobody tells whose the files are that have no number of a job yet.
    with folder_lock(folder / ".submitting", wait=True):
        there = set(folder.iterdir())
        try:
            # submitit prints what sbatch says as well.
            with redirect_stderr(StringIO()), executor.batch():
                jobs = [executor.submit(CommandLine(share)) for share in shares]
            return jobs
        except (FailedJobError, FailedSubmissionError) as error:
            for path in set(folder.iterdir()) - there:
                if UNNUMBERED.fullmatch(path.name):
                    path.unlink()
            reason = " ".join(str(error).split()).rstrip(".")
    with suppress(OSError):  # other jobs' files are in it
        folder.rmdir()
    raise ValueError(
        f"options are {options} for {len(shares)} jobs, which the cluster refuses ({reason}); `sinfo` shows what it "
        "offers."
    )


def _slurm_options(options: Mapping[str, Any], cluster: str = "slurm") -> dict[str, Any]:
    """Return options of submitit, and those that resuming needs where a cluster has other defaults.

    Jobs ask to be queued again, which some clusters do only then. A task that fails ends the others, which would wait
    for it. Since SLURM 22.05 `srun` no longer asks for the cores of the job by itself. On several nodes Lightning has
    to know the tasks of each, which submitit leaves out where nobody gives them.
    """
    nodes, per_node = _tasks(options, cluster)
    srun = ["--kill-on-bad-exit=1"]
    if cores := options.get("slurm_cpus_per_task") or options.get("cpus_per_task"):
        srun.append(f"--cpus-per-task={cores}")
    return {
        **options,
        **({} if nodes == 1 else {"tasks_per_node": per_node}),
        "slurm_srun_args": [*srun, *_words(options.get("slurm_srun_args") or ())],
        "slurm_additional_parameters": {
            "requeue": True,
            **(options.get("slurm_additional_parameters") or {}),
        },
    }


def _words(arguments: str | Sequence[str]) -> Sequence[str]:
    """Return arguments one by one, which may be given as on a command line."""
    return shlex.split(arguments) if isinstance(arguments, str) else arguments


def _wait_for_queue(numbers: Sequence[str]) -> None:
    """Wait until none of some jobs is in SLURM's queue, where those that are to start again are too.

    The queue knows of all that has not ended, on clusters without accounting as well.

    Raises:
        ChildProcessError: `squeue` fails, again and again.
    """
    ask = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    answered = time.monotonic()
    while True:
        told = subprocess.run(ask, text=True, capture_output=True, check=False)
        if told.returncode == 0:
            answered = time.monotonic()
            if not set(numbers) & set(told.stdout.split()):
                return
        # A controller that does not answer now may do so soon.
        elif time.monotonic() - answered > SECONDS_WITHOUT_ANSWER:
            said = told.stderr.strip().splitlines() or [f"exit code {told.returncode}"]
            raise ChildProcessError(
                f"squeue has failed for {SECONDS_WITHOUT_ANSWER / 60:.0f} minutes ({said[-1].rstrip('.')}) and jobs "
                f"{', '.join(numbers)} are not waited for any longer; they go on in the queue, and their logs tell "
                "how they end."
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _succeeded(job: Any, cluster: str) -> bool:
    """Whether all tasks of a job have come to their end; one that was killed has no result."""
    if cluster == "slurm":
        results = [job.task(k).paths.result_pickle for k in range(job.num_tasks)]
        until = time.monotonic() + SECONDS_FOR_RESULTS
        while not all(result.exists() for result in results):
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
    return job.exception() is None


def _executor(folder: Path, cluster: str, options: dict[str, Any]) -> Any:
    """Return submitit's executor, its options set."""
    try:
        import submitit
    except ImportError as error:
        raise ImportError(
            "submit needs submitit, which is not installed; pip install 'diffnr-lightning[cluster]'."
        ) from error
    made = not folder.exists()
    try:
        executor = submitit.AutoExecutor(
            folder=folder, cluster=cluster, slurm_max_num_timeout=MOST_TIMEOUTS
        )
    except RuntimeError:
        raise ValueError(
            f"cluster is {cluster!r} and srun is not found; log in to a node of the cluster, or give --cluster local."
        ) from None
    try:
        executor.update_parameters(**{"name": "diffnr", **_slurm_options(options, cluster)})
    except (NameError, AssertionError, TypeError) as error:
        if made:
            folder.rmdir()  # the executor had made it
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"options are {options}: {reason}; names and types of submitit are expected."
        ) from None
    return executor
