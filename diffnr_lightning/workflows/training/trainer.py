"""Lightning's Trainer as every command uses it."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from diffnr_lightning.workflows.machine.device import repeat_convolutions
from diffnr_lightning.workflows.runs.run_logger import log_here

LIGHTNING_FOLDER = "lightning_logs"
"""Where callbacks of Lightning write that are told no folder. In the working folder itself, which is its default, it
would take checkpoints of its own kind of job, hpc_ckpt_*.ckpt, for those of any run."""


def quiet_trainer(
    devices: int | str | list[int] = 1, num_nodes: int = 1, **options: Any
) -> lightning.Trainer:
    """Return a Trainer whose checkpoints, progress and messages are left to us, and whose convolutions repeat.

    Args:
        devices: of a node.
        num_nodes: of the run.
        options: further ones of `lightning.Trainer`.

    Raises:
        ValueError: several processes, of which SLURM has started another number.
    """
    # Here and not before: Lightning sets the level of its loggers when it is imported.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Data of one scan are tensors in memory: workers for them would only cost.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning's own use of torch, which a user cannot change.
    warnings.filterwarnings("ignore", message=".*treespec.*", module="lightning.*")
    # A node of a cluster where one works without a job.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # Which batches come next follows from the iteration.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # Batches know best how they move.
    warnings.filterwarnings("ignore", message=".*overridden `transfer_batch_to_device`.*")
    alone = num_nodes == 1 and (devices in (1, "1") or _is_list_of_one(devices))
    processes = _alone() if alone else _together()
    repeat_convolutions()
    trainer = lightning.Trainer(
        devices=devices,
        num_nodes=num_nodes,
        plugins=[] if processes is None else [processes],
        default_root_dir=LIGHTNING_FOLDER,
        # Lightning adds one of its own where none is given.
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in options.get("callbacks", ())),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    if not alone and processes is not None:
        _refuse_other_tasks(trainer, devices)
    return trainer


def _is_list_of_one(devices: int | str | list[int]) -> bool:
    return isinstance(devices, list) and len(devices) == 1


def _alone() -> ClusterEnvironment | None:
    """Return the environment of one process; None leaves it to Lightning."""
    log_here()
    return None if TorchElasticEnvironment.detect() else LightningEnvironment()


def _together() -> ClusterEnvironment | None:
    """Return the environment of several processes; None leaves it to Lightning.

    Raises:
        ValueError: tasks of SLURM of which Lightning cannot tell how they lie on nodes.
    """
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return None
    if (tasks := slurm_tasks()) == 1:
        return LightningEnvironment()  # it starts the processes
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"SLURM has started {tasks} tasks without --ntasks-per-node, which Lightning needs to know; give it in the "
            "place of --ntasks."
        )
    # By itself Lightning would keep checkpoints in the working folder, and any run that is started there would go on
    # from them. Whoever submits queues a job again.
    return SLURMEnvironment(auto_requeue=False)


def slurm_tasks() -> int:
    """Return how many tasks SLURM has started; one without `srun`, however many a script asks for."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def _refuse_other_tasks(trainer: lightning.Trainer, devices: int | str | list[int]) -> None:
    tasks, nodes = slurm_tasks(), trainer.num_nodes
    if tasks != trainer.num_devices * nodes and (tasks, nodes) != (1, 1):
        raise ValueError(
            f"devices is {devices!r} and num_nodes {nodes}, and SLURM has started {tasks} tasks; expected a task for "
            "each device of each node, or one task on one node: give --devices and --num_nodes, or srun's "
            "--ntasks-per-node and --nodes, to match."
        )
