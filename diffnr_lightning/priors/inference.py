"""How a network is asked on a processor: in which precision, and how its weights lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from diffnr_lightning.priors.denoisers.denoiser import Denoiser
from diffnr_lightning.priors.denoisers.patch_denoiser import PatchDenoiser
from diffnr_lightning.priors.denoisers.unet_denoiser import UNetDenoiser
from diffnr_lightning.priors.slicefixers.compact import CompactSliceFixer

InferencePrecision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 on processors that have instructions for it, float32 on all others and on GPUs."""

INSTRUCTIONS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
"""How torch tells of instructions for products of bfloat16: in tiles (AMX), or in vectors (AVX-512 BF16)."""

MEASURED = (CompactSliceFixer, UNetDenoiser, PatchDenoiser)
"""Networks whose answers in bfloat16 are known to serve as well; `auto` asks all others in float32."""


def multiplies_bfloat16() -> bool:
    """Return whether torch has instructions for products of bfloat16 on this processor.

    Measured on one core, 16 slices of 128^2 pixels: with tiles (Xeon) the compact SliceFixer takes 0.13 s instead of
    0.38 s, the denoiser ``slices`` 0.40 s instead of 1.2 s; with vectors (EPYC, Zen 4) 0.14 s instead of 0.26 s and
    0.25 s instead of 0.50 s. Processors that have neither may take many times as long for bfloat16 as for float32.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    # A torch that cannot tell of some has them not.
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in INSTRUCTIONS)


def check_precision(precision: InferencePrecision) -> None:
    """Raise ValueError if there is no such precision."""
    if precision not in get_args(InferencePrecision):
        raise ValueError(
            f"precision is {precision!r}; 'auto', 'float32' or 'bfloat16' is expected."
        )


def in_bfloat16(network: Any, precision: InferencePrecision, device: torch.device) -> bool:
    """Return whether a network is asked in bfloat16.

    Args:
        network: a prior or a denoiser.
        precision: that is wanted.
        device: where the network lies.
    """
    if precision == "auto":
        return isinstance(network, MEASURED) and device.type == "cpu" and multiplies_bfloat16()
    return precision == "bfloat16"


def computing(
    network: Any, precision: InferencePrecision, device: torch.device
) -> AbstractContextManager[None]:
    """Return the context in which a network is asked; results may be bfloat16 in it."""
    if in_bfloat16(network, precision, device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@contextmanager
def lent(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a network to a device, and back when it has been asked: what comes next has the memory of the device."""
    home = next((parameter.device for parameter in network.parameters()), device)
    weights = [(parameter, parameter.data) for parameter in network.parameters()]
    network.to(device)
    try:
        yield
    finally:
        # Asking changes no weights: a copy back, as of buffers, would take its time in every pass.
        for parameter, data in weights:
            parameter.data = data
        network.to(home)


def quicken(denoiser: Denoiser, precision: InferencePrecision) -> None:
    """Let a denoiser answer in a precision, and faster on a processor, where no gradient is asked for.

    Args:
        denoiser: changed in place: its method `predict`, and how its weights lie in memory.
        precision: that is wanted.

    Raises:
        ValueError: a precision that there is not.
    """
    check_precision(precision)
    predict = denoiser.predict

    def quick(noisy: Tensor, *further: Any, **named: Any) -> Tensor:
        if torch.is_grad_enabled():
            return predict(noisy, *further, **named)
        with computing(denoiser, precision, noisy.device):
            return predict(noisy, *further, **named).to(noisy.dtype)

    if isinstance(denoiser, UNetDenoiser):
        # A quarter less time of a processor, in float32.
        denoiser.to(memory_format=torch.channels_last)
    denoiser.predict = quick
