"""A SLURM of one node for all tests of this folder."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from one_node_slurm import OneNodeSlurm, missing_programs, one_node_slurm

from diffnr_lightning.workflows import submission


@pytest.fixture(scope="session")
def running_slurm():
    """The cluster, in a folder whose path is short enough for a socket."""
    if missing := missing_programs():
        pytest.skip(
            f"{', '.join(missing)} are not here; `apt-get install slurm-wlm munge` (Debian, Ubuntu) brings them"
        )
    folder = Path(tempfile.mkdtemp(prefix="slurm_"))
    try:
        with one_node_slurm(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def slurm(running_slurm: OneNodeSlurm, repository, tmp_path, monkeypatch) -> OneNodeSlurm:
    """The cluster, as the commands of this process and of its jobs find it; the working folder is the test's."""
    for name in set(os.environ) - set(running_slurm.environment):
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_")):
            monkeypatch.delenv(name)
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, running_slurm.environment[name])
    monkeypatch.setenv("PYTHONPATH", str(repository))
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(submission, "SECONDS_BETWEEN_LOOKS", 0.5)  # here nobody else asks
    monkeypatch.chdir(tmp_path)
    yield running_slurm
    running_slurm.cancel_all()
