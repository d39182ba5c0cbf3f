"""One training in its run folder, whatever is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from diffnr_lightning.callbacks.curve_file import CurveFile
from diffnr_lightning.callbacks.run_record import RunRecord
from diffnr_lightning.callbacks.slice_images import SliceImages
from diffnr_lightning.workflows.command_line.progress import progress_bar
from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.runs.run_logger import log_weights, logged_run
from diffnr_lightning.workflows.training.trainer import quiet_trainer, slurm_tasks

logger = logging.getLogger("diffnr")


def agreed_iterations(iterations: int, data: LightningDataModule, task: LightningModule) -> None:
    """Refuse data or a task for another number of batches than that of the run.

    Raises:
        ValueError: the numbers disagree.
    """
    if not iterations == data.iterations == task.iterations:
        raise ValueError(
            f"iterations are {iterations}, data.iterations {data.iterations} and module.iterations {task.iterations}; "
            "the three have to agree."
        )


def train_in_folder(
    run: RunFolder,
    task: LightningModule,
    data: LightningDataModule,
    finish: Callable[[dict[str, float]], tuple[Path, Path]],
    *,
    job: str,
    title: str,
    iterations: int,
    validate_every: int,
    checkpoint_every: int,
    curves: Logger | None,
    callbacks: dict[str, Callback] | None,
    **trainer_options: Any,
) -> None:
    """Train in a run folder, from its checkpoint on if it has one, and validate at the end.

    Args:
        run: the folder, opened.
        task: what is trained; it has `optimizer_steps` and counts `iteration`.
        data: its batches, one epoch of them.
        finish: called by the first process with the final scores of what is held out, by name; writes the weights and
            their card and returns the two.
        job: the command, for the logger.
        title: of the progress bar.
        iterations: batches of the run.
        validate_every: batches between two validations.
        checkpoint_every: batches between two checkpoints; more, where as many do not end with a step of the optimiser.
        curves: Lightning logger, which gets settings, pictures of held-out slices, and the weights too; None writes
            curves/metrics.csv.
        callbacks: further Lightning callbacks, by name.
        **trainer_options: accelerator, devices and the like.

    Raises:
        ValueError: a progress bar among the callbacks, or devices that are not there.
    """
    watching = list((callbacks or {}).values())
    if curves is not None and not any(isinstance(callback, SliceImages) for callback in watching):
        watching.append(SliceImages(run.path / "pictures"))
    # No checkpoint holds gradients that have not made a step yet.
    accumulated = getattr(task, "accumulate", 1)
    every = accumulated * math.ceil(checkpoint_every / accumulated)
    with progress_bar(title) as progress:
        record = RunRecord(run.checkpoint, every, run.use, progress)
        with run.left_as_found():
            _refuse_progress_bars(watching)
            trainer = _trainer(
                max_steps=task.optimizer_steps,
                max_epochs=1,
                logger=curves or CurveFile(run.path / "curves" / "metrics.csv"),
                callbacks=[*watching, record],
                val_check_interval=min(validate_every, iterations),
                num_sanity_val_steps=0,
                log_every_n_steps=1,
                use_distributed_sampler=False,
                **trainer_options,
            )
        with (
            run.claim() if trainer.is_global_zero else nullcontext(),
            logged_run(curves, run.described, run.path, job, [type(task).__name__]),
        ):
            trainer.fit(task, datamodule=data, ckpt_path=run.resume_from(), weights_only=True)
            scores = {}
            if data.validation:
                _count_all(trainer, task.iteration)
                found = trainer.validate(task, datamodule=data, verbose=False)[0]
                scores = {name: float(value) for name, value in found.items()}
            if trainer.is_global_zero:
                written = finish(scores)
                if curves is not None:
                    log_weights(curves, *written, f"{job}-{run.path.name}", scores)


def _refuse_progress_bars(callbacks: list[Callback]) -> None:
    for callback in callbacks:
        if isinstance(callback, ProgressBar):
            raise ValueError(
                f"callbacks hold a {type(callback).__name__}, but trainings show a progress bar already; leave it out."
            )


def _count_all(trainer: Trainer, iterations: int) -> None:
    """Let Lightning count all batches of a run and their epoch, which it does not do where one is resumed at its end.

    What is logged next is of the step after them; at the step before it would take the place of the last batch in the
    curves.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = iterations
    trainer.fit_loop.epoch_progress.current.completed = 1


def _trainer(accelerator: str, devices: int | str | list[int], **options: Any) -> Trainer:
    """Return the Trainer; refuse in words devices that are not there, and processes that bring back weights alone."""
    try:
        trainer = quiet_trainer(accelerator=accelerator, devices=devices, **options)
    except (MisconfigurationException, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"accelerator is {accelerator!r} and devices is {devices!r}, which Lightning cannot serve here ({reason}); "
            "expected what this machine has, such as --device cpu."
        ) from error
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ValueError(
            f"devices is {devices!r} and strategy {options.get('strategy', 'auto')!r}, which would fork or spawn the "
            "processes, as auto does in a notebook; give strategy ddp in a script or on the command line, or devices 1."
        )
    if trainer.world_size == 1 and (tasks := slurm_tasks()) > 1:
        logger.warning(
            "SLURM has started %d tasks, each of which trains by itself; one run of all needs --devices (%d on one "
            "node), runs of each need an --out of their own.",
            tasks,
            tasks,
        )
    return trainer
