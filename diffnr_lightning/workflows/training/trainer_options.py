"""Where Lightning's Trainer computes, from the options that the trainings share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffnr_lightning.workflows.machine.device import use_device

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy


def trainer_options(
    device: str | None,
    accelerator: str,
    devices: int | str,
    strategy: str,
    num_nodes: int,
    precision: str,
) -> dict[str, Any]:
    """Return the options of Lightning's Trainer for those of a command.

    Args:
        device: cpu, cuda or cuda:N; None leaves it to accelerator and devices.
        accelerator: as Lightning names it.
        devices: of a node.
        strategy: by name.
        num_nodes: of the run.
        precision: of the computation.

    Raises:
        ValueError: what `trainer_device` and `trainer_strategy` refuse.
    """
    if device is not None:
        accelerator, devices = trainer_device(device, devices)
    return {
        "accelerator": accelerator,
        "devices": devices,
        "strategy": trainer_strategy(strategy, devices, num_nodes, precision),
        "num_nodes": num_nodes,
        "precision": precision,
    }


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
