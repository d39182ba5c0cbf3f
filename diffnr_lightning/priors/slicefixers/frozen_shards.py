"""Split a SliceFixer's frozen backbone over the processes that train it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from diffnr_lightning.priors.slicefixers.turbo_backbone import TurboBackbone


def split_frozen(network: nn.Module, mesh: DeviceMesh) -> None:
    """Leave each process a share of the frozen weights; a block gathers its own when it computes.

    What is trained stays whole on each process (some 60 MB of the real model against 2 GB of frozen
    weights in bfloat16), so that average, clipping, checkpoints and export are those of one
    process; `average_gradients` keeps it equal.

    Args:
        network: holds a `TurboBackbone`; one that is split already is left alone.
        mesh: of all processes, one-dimensional.

    Raises:
        ValueError: the network has no such backbone.
    """
    backbone = frozen_backbone(network)
    if is_split(network):
        return
    trained = set(backbone.trained().values())
    for part in (*backbone.blocks(), backbone):
        fully_shard(part, mesh=mesh, ignored_params=trained)


def frozen_backbone(network: nn.Module) -> TurboBackbone:
    """Return the part of a network that can be split.

    Raises:
        ValueError: there is none, as nothing in the network is frozen.
    """
    for module in network.modules():
        if isinstance(module, TurboBackbone):
            return module
    raise ValueError(
        f"strategy fsdp splits frozen weights, of which a {type(network).__name__} has none: use "
        "ddp."
    )


def is_split(network: nn.Module) -> bool:
    """Whether frozen weights of the network are split over processes."""
    return bool(_parts(network))


def gather_frozen(network: nn.Module) -> None:
    """Let every process hold the network whole, so that it may compute by itself.

    All processes have to call it together, and `release_frozen` afterwards; between, none waits for
    another, however often each computes. Does nothing to a network that is not split.
    """
    for part in _parts(network):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release_frozen(network: nn.Module) -> None:
    """Leave each process its own share again."""
    for part in _parts(network):
        part.reshard()
        part.set_reshard_after_forward(True, recurse=False)


def _parts(network: nn.Module) -> list[FSDPModule]:
    return [module for module in network.modules() if isinstance(module, FSDPModule)]


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; one that is missing counts as zero."""
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    # One message: a thousand small ones would wait for each other.
    mean = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(mean)
    mean /= dist.get_world_size()
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
