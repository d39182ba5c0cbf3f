"""Lightning's Trainer leaves queues and checkpoints to us."""

import os
import warnings

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.utilities import rank_zero_only

from diffnr_lightning.workflows.training.trainer import quiet_trainer


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    """Leave the job that the tests may run in, and the rank of this process as it was."""
    for name in os.environ:
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(rank_zero_only, "rank", rank_zero_only.rank)


def batch(monkeypatch, tasks, **more):
    """Set what a script sees that was submitted for so many tasks."""
    told = {"NTASKS": tasks, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NAME": "x", **more}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def task(monkeypatch, number, tasks, **more):
    """Set what a task of `srun` sees."""
    own = {"PROCID": number, "LOCALID": number, "STEP_NUM_TASKS": tasks, "NTASKS_PER_NODE": tasks}
    batch(monkeypatch, tasks, **own, **more)


def trained_on(devices, **options):
    strategy = "auto" if devices == 1 else "ddp"
    return quiet_trainer(
        **{"accelerator": "cpu", "strategy": strategy, "logger": False, **options}, devices=devices
    )


def environment_of(trainer):
    return trainer._accelerator_connector.cluster_environment


def test_lightning_queues_no_job_again(monkeypatch):
    task(monkeypatch, 1, 2)
    trainer = trained_on(2)
    assert isinstance(environment_of(trainer), SLURMEnvironment)
    assert environment_of(trainer).auto_requeue is False
    assert (trainer.world_size, trainer.global_rank) == (2, 1)


def test_one_task_starts_the_processes_of_its_devices(monkeypatch):
    for tasks in (1, 8):  # without srun there is one process, however many tasks a script asks for
        batch(monkeypatch, tasks)
        trainer = trained_on(4)
        assert isinstance(environment_of(trainer), LightningEnvironment)
        assert trainer.world_size == 4
    task(monkeypatch, 0, 1)
    assert trained_on(4).world_size == 4


def test_one_process_is_the_first_in_every_task(monkeypatch):
    task(monkeypatch, 3, 8)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    rank_zero_only.rank = 3
    trainer = trained_on(1)
    assert isinstance(environment_of(trainer), LightningEnvironment)
    assert trainer.is_global_zero and rank_zero_only.rank == 0


@pytest.mark.parametrize(
    ("tasks", "devices", "nodes"), [(2, 4, 1), (4, 2, 1), (1, 2, 2), (2, 2, 2)]
)
def test_another_number_of_tasks_is_refused(monkeypatch, tasks, devices, nodes):
    task(monkeypatch, 0, tasks)
    told = f"devices is {devices} and num_nodes {nodes}, and SLURM has started {tasks} tasks"
    with pytest.raises(ValueError, match=told):
        trained_on(devices, num_nodes=nodes)


def test_tasks_on_nodes_that_nobody_knows_are_refused(monkeypatch):
    task(monkeypatch, 0, 2)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ValueError, match="2 tasks without --ntasks-per-node"):
        trained_on(2)


def test_torchrun_comes_before_slurm(monkeypatch):
    batch(monkeypatch, 1)
    elastic = {"TORCHELASTIC_RUN_ID": "x", "RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2}
    for name, value in elastic.items():
        monkeypatch.setenv(name, str(value))
    trainer = trained_on(2)
    assert isinstance(environment_of(trainer), TorchElasticEnvironment)
    assert trainer.global_rank == 1


def test_convolutions_repeat(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    quiet_trainer(accelerator="cpu", devices=1, logger=False)
    assert torch.backends.cudnn.deterministic


def test_a_node_without_a_job_is_no_reason_to_warn(tmp_path, monkeypatch):
    srun = tmp_path / "srun"
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with warnings.catch_warnings(record=True) as told:
        quiet_trainer(accelerator="cpu", devices=1, logger=False)
    assert not [warning for warning in told if "srun" in str(warning.message)]


def test_checkpoints_of_lightnings_own_jobs_are_nobodys(tmp_path, monkeypatch):
    batch(monkeypatch, 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").touch()
    trainer = quiet_trainer(accelerator="cpu", max_steps=1, logger=False)
    module = BoringModel()
    trainer.fit(module)
    trainer.validate(module, verbose=False)
    assert trainer.global_step == 1
