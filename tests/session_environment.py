"""What tests see of the machine and the shell that they run in: the same everywhere."""

import re
from collections.abc import MutableMapping

JOBS = ("SLURM_", "SBATCH_", "SRUN_")
"""How variables begin by which a job of SLURM says how many processes and cores it has."""


def forget_job(environment: MutableMapping[str, str]) -> None:
    """Forget the job of SLURM that tests run in, whose processes Lightning would take for its own."""
    for name in [name for name in environment if name.startswith(JOBS)]:
        del environment[name]


def hide_gpus(environment: MutableMapping[str, str], marks: str) -> None:
    """Let a session see no GPU whose expression of marks (`-m`) does not ask for the mark `gpu`."""
    if not re.search(r"\bgpu\b", re.sub(r"\bnot\s+gpu\b", "", marks)):
        environment["CUDA_VISIBLE_DEVICES"] = ""
