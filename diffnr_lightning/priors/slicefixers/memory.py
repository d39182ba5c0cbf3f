"""Memory that a SliceFixer needs, known before it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from diffnr_lightning.planes import plane_axis
from diffnr_lightning.priors.slicefixers.control_groups import bytes_below_limit

if TYPE_CHECKING:
    from diffnr_lightning.priors.prior import Prior

Precision = Literal["float32", "bfloat16", "float16"]

NUMBERS_PER_PIXEL = {"repair": 1700, "training": 13200, "checkpointed training": 3800}
"""Numbers alive at the worst moment for each pixel of a slice, at SD-Turbo's widths.

Counted over the live tensors of the full-size architecture (a run on the meta device at 256 and 512
pixels): repair peaks in the decoder's last block, training keeps what the backward pass needs."""

NUMBERS_OUTSIDE_TILES = 100
"""Likewise for each pixel of the whole slice where the VAE works on tiles."""

BYTES = {"float32": 4, "bfloat16": 3, "float16": 3}
"""Of a number, on average: normalisations and sums of the half precisions are float32."""

SD_TURBO_WIDTH = 128
"""Channels of SD-Turbo's VAE at full resolution."""

MARGIN = 1.15
"""For the workspaces of convolutions and the gaps that an allocator leaves."""


class Load(NamedTuple):
    """What is to be computed at once.

    Attributes:
        batch: number of slices.
        pixels: of one slice.
        training: with gradients.
        precision: of the frozen part and of what is computed.
        gradient_checkpointing: blocks are computed again in the backward pass.
        tile: edge in pixels of the VAE's tiles, None for whole slices.
        width: channels of the VAE at full resolution.
    """

    batch: int
    pixels: int
    training: bool = False
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    tile: int | None = None
    width: int = SD_TURBO_WIDTH

    def bytes(self) -> int:
        """Bytes needed beside the weights, with a margin."""
        return int(MARGIN * self.counted_bytes())

    def counted_bytes(self) -> int:
        """Bytes of the tensors alive at the worst moment, beside the weights."""
        if not self.training:
            kind = "repair"
        else:
            kind = "checkpointed training" if self.gradient_checkpointing else "training"
        numbers = NUMBERS_PER_PIXEL[kind] * self.pixels
        if self.tile is not None and not self.training and self.tile**2 < self.pixels:
            numbers = NUMBERS_PER_PIXEL[kind] * self.tile**2 + NUMBERS_OUTSIDE_TILES * self.pixels
        share = self.width / SD_TURBO_WIDTH
        return int(share * self.batch * numbers * BYTES[self.precision])


def slices_bytes(
    prior: Prior, shape: tuple[int, int, int], planes: Sequence[str], most: int
) -> int:
    """Bytes that a prior takes, beside its weights, of the slices of a volume that it repairs at once.

    Args:
        prior: 0 is returned of one that does not tell.
        shape: of the volume (Z, Y, X).
        planes: that are repaired, one after the other.
        most: slices at once.
    """
    if not hasattr(prior, "repair_bytes"):
        return 0
    needed = []
    for axis in map(plane_axis, planes):
        edges = (*shape[:axis], *shape[axis + 1 :])
        height, width = edges if prior.size is None else (prior.size, prior.size)
        needed.append(prior.repair_bytes(min(most, shape[axis]), height, width))
    return max(needed)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had on a device; None where that is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    known = [left for left in (_free_of_the_machine(), bytes_below_limit()) if left is not None]
    return min(known, default=None)


def _free_of_the_machine() -> int | None:
    try:
        # Pages that the system would give back count as free here, unlike in SC_AVPHYS_PAGES.
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def refuse_too_large(load: Load, device: torch.device) -> None:
    """Refuse what would run out of memory, before it runs.

    Raises:
        ValueError: more is needed than is free; names the setting that would fit.
    """
    free = free_bytes(device)
    if free is None or load.bytes() <= free:
        return
    task = "training on" if load.training else "repairing"
    edge = round(load.pixels**0.5)
    raise ValueError(
        f"{task} {load.batch} slices of {edge} x {edge} pixels at once in {load.precision} needs "
        f"about {load.bytes() / 2**30:.1f} GiB beside the weights and {device} has "
        f"{free / 2**30:.1f} GiB free; {_what_fits(load, free)}."
    )


def _what_fits(load: Load, free: int) -> str:
    """The mildest change of settings that makes a load fit."""
    changes = [{"precision": "bfloat16"}]
    changes += [{"gradient_checkpointing": True}] if load.training else [{"tile": 256}]
    for change in ({}, *changes, changes[0] | changes[1]):
        changed = load._replace(**change)
        batch = int(free // changed._replace(batch=1).bytes())
        if batch:
            words = [f"{name}={value}" for name, value in change.items()]
            if batch < load.batch:
                words.append(f"a batch size of {batch}")
            return f"it would fit with {' and '.join(words)}"
    return "expected a device with more memory, or smaller slices (size)"
