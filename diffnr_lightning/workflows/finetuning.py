"""Finetune a SliceFixer on curated pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.command_line.signature import at_least, exists, folder_to_be
from diffnr_lightning.workflows.runs.built import FORMAT, built
from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.training.trainer_options import trainer_options

Callback = deferred("lightning.pytorch.callbacks.callback.Callback")
CompactSliceFixer = deferred("diffnr_lightning.priors.slicefixers.compact.CompactSliceFixer")
Logger = deferred("lightning.pytorch.loggers.logger.Logger")
Module = deferred("torch.nn.modules.module.Module")
SliceFixerFinetuning = deferred(
    "diffnr_lightning.modules.slicefixer_finetuning.SliceFixerFinetuning"
)
SlicePairData = deferred("diffnr_lightning.data.slice_pairs.SlicePairData")

logger = logging.getLogger("diffnr")


def finetune(
    out: Annotated[Path, folder_to_be("run")],
    data: SlicePairData,
    prior: Callable[[], Module] = CompactSliceFixer,
    module: Callable[[Module], SliceFixerFinetuning] = SliceFixerFinetuning,
    iterations: int = 20_000,
    start: Annotated[Path | None, exists("start")] = None,
    start_overrides: dict[str, Any] | None = None,
    start_allow: tuple[str, ...] = (),
    validate_every: Annotated[int, at_least(1, "validate_every")] = 1000,
    checkpoint_every: Annotated[int, at_least(1, "checkpoint_every")] = 500,
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
    """Train a SliceFixer on curated pairs.

    A finished run is left alone; an interrupted one goes on to the same weights.

    Args:
        out: run folder: weights.safetensors, their model card, curves, checkpoint, config and environment.
        data: folders of pairs, held-out cases and batches.
        prior: the network, of a class of this package or of your own; see `priors.Prior`. What its constructor freezes
            stays frozen.
        module: losses and learning rates.
        iterations: batches; `data` and `module` have to be given the same number.
        start: weights to start from instead of those that `prior` has by itself; arguments of `prior` other than those
            in the file are refused, and those that it does not hold, such as gradient_checkpointing, are applied.
        start_overrides: arguments of the network that replace those in the file `start`, see `load_prior`.
        start_allow: packages or modules, beside this one, whose classes the file `start` may name.
        validate_every: batches between two validations.
        checkpoint_every: batches between two checkpoints.
        precision: of the computation.
        device: where to compute: cpu, cuda or cuda:N, as of the other commands; null leaves it to `accelerator` and
            `devices`, which also name several.
        accelerator: of Lightning's Trainer.
        devices: of Lightning's Trainer.
        strategy: of Lightning's Trainer, such as ddp; `ddp_find_unused_parameters_true` with a discriminator; `fsdp`
            splits the frozen backbone over the processes, see `priors.split_frozen`.
        num_nodes: of Lightning's Trainer.
        curves: Lightning logger; it is given settings and commit, pictures of held-out slices and, where it keeps such,
            the weights with their card. null writes curves/metrics.csv.
        callbacks: further Lightning callbacks, by name.
        seed: of the first weights.
        resolved: filled in by the command line.

    Returns:
        The run folder.

    Raises:
        ValueError: a prior that could not be exported or is not that of `start`, numbers of iterations or of
            neighbouring slices that disagree, crops that the networks do not take, a strategy that splits what is
            trained, fsdp without a number of devices or for a prior without frozen weights, or a run of other settings
            in the folder.
    """
    import lightning

    from diffnr_lightning.priors import frozen_backbone, network_name
    from diffnr_lightning.workflows.training.started_prior import started_prior
    from diffnr_lightning.workflows.training.training_run import agreed_iterations, train_in_folder

    machines = trainer_options(device, accelerator, devices, strategy, num_nodes, precision)
    lightning.seed_everything(seed, verbose=False)
    if start is None:
        network = prior().train()
    else:
        described = (resolved or {}).get("prior")
        network = started_prior(start, described, start_overrides or {}, start_allow)
    network_name(network)  # refuses what could not be exported after the training
    if not any(parameter.requires_grad for parameter in network.parameters()):
        network.requires_grad_(True)  # `load_prior`, which may serve as the prior, freezes all
    task = module(network)
    agreed_iterations(iterations, data, task)
    if data.context != (sees := getattr(network, "context", None)):
        raise ValueError(
            f"data.context is {data.context}, and the prior sees {sees} neighbouring slices on each side; the two have "
            "to agree."
        )
    _refuse_crops(data.drawing["crop"], network, task)
    if strategy == "fsdp":
        frozen_backbone(network)  # refuses a network that has none to split
    plain = {"iterations": iterations, "seed": seed}
    started = {"start": start, "overrides": start_overrides, "allow": start_allow}
    plain["built"] = built(
        {**FORMAT, "data": data, "module": task, "precision": precision, **started}
    )
    data.setup("fit")  # what is wrong with the pairs is known before anything is written
    # Folders may be moved, or filled further, while a training waits to go on.
    inputs = {"data.init_args.folders": data.content}
    run = RunFolder(out, resolved or plain, inputs)
    if not run.begin():
        return out
    train_in_folder(
        run,
        task,
        data,
        lambda scores: _finish(run, task, data, scores),
        job="finetune",
        title="finetuning",
        iterations=iterations,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        curves=curves,
        callbacks=callbacks,
        **machines,
    )
    return out


def _refuse_crops(crop: int, network: Module, task: SliceFixerFinetuning) -> None:
    """Refuse crops of another size than the prior repairs, and too small ones for a discriminator, which begins late.

    Args:
        crop: edge in pixels.
        network: the prior.
        task: with the discriminator.

    Raises:
        ValueError: naming what does not fit.
    """
    size = getattr(network, "size", None)
    if size not in (None, crop):
        raise ValueError(
            f"data.crop is {crop}, and the prior repairs slices that are resized to {size} pixels, in which it would "
            "not know what it has learned; the two have to agree."
        )
    smallest = getattr(task.discriminator, "smallest", 1)
    if crop < smallest:
        raise ValueError(
            f"data.crop is {crop}, and the discriminator takes slices of at least {smallest} pixels; enlarge the "
            "crops, or set module.lambda_gan to 0."
        )


def _finish(
    run: RunFolder, task: SliceFixerFinetuning, data: SlicePairData, scores: dict[str, float]
) -> tuple[Path, Path]:
    """Write weights, their card and, last, metrics; all say which volumes were held out, and what was learned from."""
    from diffnr_lightning.files import replacing
    from diffnr_lightning.priors import LEARNED_FROM, LEARNED_KINDS
    from diffnr_lightning.workflows.training.model_card import CARD, write_model_card

    weights = run.path / "weights.safetensors"
    metrics = {
        "iterations": task.iteration,
        "validation": scores,
        "held_out": data.held_out_volumes,
        LEARNED_FROM: data.methods,
        LEARNED_KINDS: data.kinds,
    }
    with replacing(weights) as part:
        task.export(part, metrics)
    card = write_model_card(run.path / CARD, run, "finetune", task.prior, weights, metrics)
    run.finish(metrics)
    told = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    logger.info("%s: %s", weights, told or "not validated, as nothing is held out")
    return weights, card
