"""Hand commands over to the scheduler of a cluster."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

SHARDED = ("curate", "sweep")
"""Commands of which several jobs share the work."""

SUBMITTED = (*SHARDED, "finetune", "reconstruct", "train-denoiser")


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
        """
        command = [sys.executable, "-m", "diffnr_lightning.cli", *self.arguments]
        code = subprocess.run(command, check=False).returncode
        if code:
            raise RuntimeError(f"diffnr {shlex.join(self.arguments)} ended with exit code {code}.")

    def checkpoint(self) -> Any:
        """Return what submitit puts into the queue when the job is preempted or its time is over."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    command: str,
    folder: Path = Path("jobs"),
    jobs: int = 1,
    cluster: Literal["slurm", "local"] = "slurm",
    options: dict[str, Any] | None = None,
    wait: bool = False,
) -> list[str]:
    """Hand a command over to SLURM, as one job or as an array of jobs that share the work.

    A job that is preempted or runs out of time goes back into the queue and takes up its work there.

    Args:
        command: what would stand behind `diffnr`, in quotes: curate, sweep, finetune, reconstruct or
            train-denoiser with their options.
        folder: of scripts and logs.
        jobs: into which a `curate` or `sweep` is divided, each with its own `--shard`.
        cluster: slurm, or local, which runs the jobs as processes of this machine.
        options: of the jobs, as submitit names them: timeout_min, nodes, tasks_per_node, gpus_per_node, cpus_per_task,
            mem_gb, slurm_partition, slurm_account and so on.
        wait: until all jobs have ended.

    Returns:
        The numbers of the jobs.

    Raises:
        ImportError: submitit is not installed.
        ValueError: a command that cannot be submitted or divided, an unknown option, a machine without SLURM, or jobs
            that failed.
    """
    shares = _shares(command, jobs)
    executor = _executor(folder, cluster, options or {})
    with executor.batch():
        submitted = [executor.submit(CommandLine(share)) for share in shares]
    console = Console()
    for job, share in zip(submitted, shares, strict=True):
        console.print(f"{job.job_id}  diffnr {shlex.join(share)}", highlight=False, soft_wrap=True)
    if wait:
        failed = [job.job_id for job in submitted if job.exception() is not None]
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
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    except RuntimeError:
        raise ValueError(
            f"cluster is {cluster!r} and srun is not found; log in to a node of the cluster, or give --cluster local."
        ) from None
    try:
        executor.update_parameters(**{"name": "diffnr", **options})
    except (NameError, AssertionError, TypeError) as error:
        if made:
            folder.rmdir()  # the executor had made it
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"options are {options}: {reason}; names and types of submitit are expected."
        ) from None
    return executor
