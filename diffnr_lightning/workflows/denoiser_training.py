"""Train a denoiser on clean volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.cases.volume_sources import (
    left_out,
    refuse_held_back,
    volume_sources,
)
from diffnr_lightning.workflows.command_line.signature import (
    Checked,
    at_least,
    exists,
    folder_to_be,
)
from diffnr_lightning.workflows.runs.built import FORMAT, built
from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.training.trainer_options import trainer_options

Callback = deferred("lightning.pytorch.callbacks.callback.Callback")
CleanSliceData = deferred("diffnr_lightning.data.clean_slices.CleanSliceData")
CleanVolumeData = deferred("diffnr_lightning.data.clean_slices.CleanVolumeData")
CompactDenoiser = deferred("diffnr_lightning.priors.denoisers.unet_denoiser.CompactDenoiser")
DenoiserTraining = deferred("diffnr_lightning.modules.denoiser_training.DenoiserTraining")
Logger = deferred("lightning.pytorch.loggers.logger.Logger")
Module = deferred("torch.nn.modules.module.Module")

logger = logging.getLogger("diffnr")


def train_denoiser(
    out: Annotated[Path, folder_to_be("run")],
    volumes: Annotated[list[str], Checked(volume_sources)],
    exclude: list[str] | None = None,
    data: Callable[[dict[str, str]], CleanVolumeData] = CleanSliceData,
    denoiser: Callable[[], Module] = CompactDenoiser,
    module: Callable[[Module], DenoiserTraining] = DenoiserTraining,
    iterations: int = 10_000,
    start: Annotated[Path | None, exists("start")] = None,
    validate_every: Annotated[int, at_least(1, "validate_every")] = 1000,
    checkpoint_every: Annotated[int, at_least(1, "checkpoint_every")] = 250,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    device: str | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    curves: Logger | None = None,
    callbacks: dict[str, Callback] | None = None,
    seed: Annotated[int, at_least(0, "seed")] = 0,
    resolved: dict[str, Any] | None = None,
) -> Path:
    """Train a denoiser, the prior of diffusion solvers, on clean volumes.

    A finished run is left alone; an interrupted one goes on to the same weights.

    Args:
        out: run folder: denoiser/ (a pipeline as diffusers writes it, with its model card), curves, checkpoint, config
            and environment.
        volumes: files, glob patterns, sets of a split (`split:train[kind=head,limb]`) or of a data set
            (`luna16:train`), or generated objects: `phantom:` (chests), `specimen:` or `ellipsoids:` with SEED or
            FIRST-LAST. What a split keeps for development or test is refused.
        exclude: names of volumes, patterns of names, or sets of a split (`split:test`) that must not be learned from.
        data: what is drawn of the volumes: stacks of slices (CleanSliceData) or patches (CleanPatchData).
        denoiser: the network.
        module: loss and learning rates.
        iterations: batches; `data` and `module` have to be given the same number.
        start: folder of a denoiser to start from instead; arguments of `denoiser` other than those in it are refused.
        validate_every: batches between two validations.
        checkpoint_every: batches between two checkpoints.
        precision: of the computation.
        device: where to compute: cpu, cuda or cuda:N, as of the other commands; null leaves it to `accelerator` and
            `devices`, which also name several.
        accelerator: of Lightning's Trainer.
        devices: of Lightning's Trainer.
        strategy: of Lightning's Trainer, such as ddp.
        num_nodes: of Lightning's Trainer.
        curves: Lightning logger; it is given settings and commit, pictures of held-out slices and, where it keeps such,
            the weights with their card. null writes curves/metrics.csv.
        callbacks: further Lightning callbacks, by name.
        seed: of the first weights.
        resolved: filled in by the command line.

    Returns:
        The run folder.

    Raises:
        FileNotFoundError: a file or pattern that names no volume, or no denoiser to start from.
        ValueError: a volume that a split keeps, a denoiser of a class that no folder keeps or that is not that of
            `start`, data that it cannot take, numbers of iterations that disagree, a strategy that splits the weights,
            or a run of other settings in the folder.
    """
    sources = _learned_from(volumes, exclude or [])
    if strategy == "fsdp":
        raise ValueError("strategy is 'fsdp', but a denoiser has no frozen weights; use ddp.")
    machines = trainer_options(device, accelerator, devices, strategy, num_nodes, precision)

    import lightning

    from diffnr_lightning.priors import refuse_unkept
    from diffnr_lightning.workflows.training.started_prior import started_denoiser
    from diffnr_lightning.workflows.training.training_run import agreed_iterations, train_in_folder

    lightning.seed_everything(seed, verbose=False)
    described = (resolved or {}).get("denoiser")
    network = denoiser() if start is None else started_denoiser(start, described)
    refuse_unkept(network)
    network.train().requires_grad_(True)
    task, batches = module(network), data(sources)
    agreed_iterations(iterations, batches, task)
    batches.check_denoiser(network)
    plain = {"iterations": iterations, "seed": seed, "volumes": list(sources)}
    options = {"precision": precision, "start": start}
    plain["built"] = built({**FORMAT, "data": batches, "module": task, **options})
    batches.split()
    # A pattern may match further volumes by the time a training goes on.
    run = RunFolder(out, resolved or plain, {"names of volumes": batches.content})
    if not run.begin():
        return out
    train_in_folder(
        run,
        task,
        batches,
        lambda scores: _finish(run, task, batches, scores),
        job="train-denoiser",
        title="training",
        iterations=iterations,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        curves=curves,
        callbacks=callbacks,
        **machines,
    )
    return out


def _learned_from(volumes: list[str], exclude: list[str]) -> dict[str, str]:
    """Return the sources of the volumes to learn from by their names; refuse those that splits keep."""
    sources = volume_sources(volumes)
    unwanted = left_out(sources, exclude)
    sources = {name: source for name, source in sources.items() if name not in unwanted}
    if not sources:
        raise ValueError("exclude leaves no volume to learn from; shorten it.")
    refuse_held_back(sources.values())
    return sources


def _finish(
    run: RunFolder, task: DenoiserTraining, data: CleanVolumeData, scores: dict[str, float]
) -> tuple[Path, Path]:
    """Write the denoiser, its card and, last, metrics; all say which volumes were held out."""
    from diffnr_lightning.workflows.training.model_card import CARD, write_model_card

    metrics = {
        "iterations": task.iteration,
        "volumes": len(data.sources),
        "held_out": data.held_out_volumes,
        "validation": scores,
    }
    folder = run.path / "denoiser"
    task.export(folder, metrics)
    card = write_model_card(folder / CARD, run, "train-denoiser", task.denoiser, folder, metrics)
    run.finish(metrics)
    logger.info("%s: %s", folder, by_level(scores))
    return folder, card


def by_level(scores: dict[str, float]) -> str:
    """Say how much of the noise was left at every step, and how much the best linear filter leaves."""
    steps = [name.removeprefix("val_noise_") for name in scores if name.startswith("val_noise_")]
    if not steps:
        return "not validated, as nothing is held out"
    parts = [
        f"{int(step)}: {scores[f'val_noise_{step}']:.3g} ({scores[f'val_linear_{step}']:.3g})"
        for step in steps
    ]
    return "share of the noise that is left by step (by the best linear filter): " + ", ".join(
        parts
    )
