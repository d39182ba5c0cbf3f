"""Tests run alike on every machine: what the environment says of it is not seen."""

import os

import pytest
import torch
from session_environment import forget_job, forget_screen, hide_gpus

WITHOUT = [
    "not gpu and not slow and not data and not slurm",
    "slow",
    "not  gpu or data",
    "",
    "gpus",
]
WITH = ["gpu", "gpu and not slow", "slow or gpu", "not slow and gpu"]


@pytest.mark.parametrize("marks", [*WITHOUT, *WITH])
def test_gpus_are_seen_by_tests_that_ask_for_them(marks):
    environment = {"CUDA_VISIBLE_DEVICES": "0,1"}
    hide_gpus(environment, marks)
    assert environment["CUDA_VISIBLE_DEVICES"] == ("0,1" if marks in WITH else "")


def test_this_session_sees_none(request):
    if "gpu" in request.config.getoption("markexpr").replace("not gpu", ""):
        pytest.skip("the marks of this session ask for GPUs")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


def test_the_screen_is_forgotten():
    environment = {"PATH": "/bin", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "40"}
    forget_screen(environment)
    assert environment == {"PATH": "/bin"}
    assert not {"FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "DIFFNR_TRACEBACK"} & set(os.environ)


def test_the_job_that_tests_run_in_is_forgotten():
    job = {"SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "3", "SBATCH_QOS": "x", "SRUN_DEBUG": "3"}
    environment = {"PATH": "/bin", "OMP_NUM_THREADS": "1", **job}
    forget_job(environment)
    assert environment == {"PATH": "/bin", "OMP_NUM_THREADS": "1"}
    assert not [name for name in os.environ if name.startswith("SLURM_")]
