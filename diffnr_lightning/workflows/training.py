"""Finetune a SliceFixer on curated pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.device import use_device
from diffnr_lightning.workflows.run_folder import RunFolder
from diffnr_lightning.workflows.signature import exists, folder_to_be

Callback = deferred("lightning.pytorch.callbacks.callback.Callback")
CompactSliceFixer = deferred("diffnr_lightning.priors.compact.CompactSliceFixer")
Logger = deferred("lightning.pytorch.loggers.logger.Logger")
Module = deferred("torch.nn.modules.module.Module")
SliceFixerFinetuning = deferred(
    "diffnr_lightning.modules.slicefixer_finetuning.SliceFixerFinetuning"
)
SlicePairData = deferred("diffnr_lightning.data.slice_pairs.SlicePairData")
Strategy = deferred("lightning.pytorch.strategies.strategy.Strategy")

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
    validate_every: int = 1000,
    checkpoint_every: int = 500,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    device: str | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    curves: Logger | None = None,
    callbacks: dict[str, Callback] | None = None,
    seed: int = 0,
    resolved: dict[str, Any] | None = None,
) -> Path:
    """Train a SliceFixer on curated pairs.

    A finished run is left alone; an interrupted one goes on to the same weights.

    Args:
        out: run folder: weights.safetensors, their model card, curves, checkpoint, config and environment.
        data: folders of pairs, held-out cases and batches.
        prior: the network, of a class of this package or of your own; see `priors.Prior`.
        module: losses and learning rates.
        iterations: batches; `data` and `module` have to be given the same number.
        start: weights to start from instead of those that `prior` has by itself.
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
        ValueError: a prior that could not be exported, numbers of iterations that disagree, a strategy that splits what
            is trained, fsdp without a number of devices or for a prior without frozen weights, or a run of other
            settings in the folder.
    """
    import lightning
    from lightning.pytorch.strategies import ModelParallelStrategy

    from diffnr_lightning.priors import frozen_backbone, load_prior, network_name
    from diffnr_lightning.workflows.training_run import train_in_folder

    if device is not None:
        accelerator, devices = trainer_device(device, devices)
    lightning.seed_everything(seed, verbose=False)
    network = (
        prior()
        if start is None
        else load_prior(start, allow=start_allow, **(start_overrides or {}))
    )
    network_name(network)  # refuses what could not be exported after the training
    network.train().requires_grad_(True)
    task = module(network)
    if not iterations == data.iterations == task.iterations:
        raise ValueError(
            f"iterations are {iterations}, data.iterations {data.iterations} and module.iterations {task.iterations}; "
            "the three have to agree."
        )
    distribution = trainer_strategy(strategy, devices, num_nodes, precision)
    if isinstance(distribution, ModelParallelStrategy):
        frozen_backbone(network)
    data.setup("fit")  # what is wrong with the pairs is known before anything is written
    run = RunFolder(out, resolved or {"iterations": iterations, "seed": seed})
    if not run.begin():
        return out
    train_in_folder(
        run,
        task,
        data,
        lambda scores: _finish(
            run, task, {"validation": scores, "held_out": data.held_out_volumes}
        ),
        job="finetune",
        title="finetuning",
        iterations=iterations,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        curves=curves,
        callbacks=callbacks,
        accelerator=accelerator,
        devices=devices,
        strategy=distribution,
        num_nodes=num_nodes,
        precision=precision,
    )
    return out


def _finish(run: RunFolder, task: SliceFixerFinetuning, found: dict[str, Any]) -> tuple[Path, Path]:
    """Write weights, their card and, last, metrics; all say which volumes were held out."""
    from diffnr_lightning.files import replacing
    from diffnr_lightning.workflows.model_card import CARD, write_model_card

    weights = run.path / "weights.safetensors"
    metrics = {"iterations": task.iteration, **found}
    with replacing(weights) as part:
        task.export(part, metrics)
    card = write_model_card(run.path / CARD, run, "finetune", task.prior, weights, metrics)
    run.finish(metrics)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in found["validation"].items())
    logger.info("%s: %s", weights, scores or "not validated, as nothing is held out")
    return weights, card


def trainer_device(device: str, devices: int | str) -> tuple[str, int | list[int]]:
    """Return accelerator and devices of a Trainer for one device by its word.

    Args:
        device: cpu, cuda or cuda:N.
        devices: what was asked for beside it.

    Raises:
        ValueError: several devices beside it, or a device that does not exist.
    """
    if devices != 1:
        raise ValueError(
            f"device is {device!r} and devices {devices!r}; give device for one, or devices for several."
        )
    place = use_device(device)
    return ("cpu", 1) if place.type == "cpu" else ("gpu", [place.index])


def trainer_strategy(
    name: str, devices: int | str | list[int], num_nodes: int, precision: str
) -> str | Strategy:
    """Return the strategy for Lightning's Trainer, whose own `fsdp` splits what is trained too and needs a GPU.

    Args:
        name: of the strategy.
        devices: of a node.
        num_nodes: of the run.
        precision: of the computation.

    Raises:
        ValueError: a strategy that splits what is trained, or fsdp without a number of devices or in float16.
    """
    if name.startswith(("deepspeed", "fsdp_")):
        raise ValueError(
            f"strategy is {name!r}, which splits what is trained; its moving average needs it whole: use fsdp or ddp."
        )
    if name != "fsdp":
        return name
    if not str(devices).isdigit():
        raise ValueError(f"devices is {devices!r} with strategy fsdp; their number is expected.")
    if precision.startswith("16"):
        raise ValueError(
            f"precision is {precision!r} with strategy fsdp; expected bf16-mixed or 32-true."
        )
    from lightning.pytorch.strategies import ModelParallelStrategy

    return ModelParallelStrategy(
        data_parallel_size=int(devices) * num_nodes,
        tensor_parallel_size=1,
        save_distributed_checkpoint=False,
    )
