"""Which slices of a volume a denoiser sees together, and what it says of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from diffnr_lightning.draws import generator_at
from diffnr_lightning.solvers.diffusion.sampling import like_weights

StackKind = Literal["single", "centred", "adjacent", "alternating"]
STACKS = ("single", "centred", "adjacent", "alternating")


class SliceStacks(NamedTuple):
    """Stacks of slices of a volume, and the place in them that speaks for each slice.

    Attributes:
        members: (G, C) slices of each stack.
        owners: (Z,) places in the flattened members.
        gap: slices from one channel to the next; 0 for single slices.
    """

    members: Tensor
    owners: Tensor
    gap: int


def single_slices(count: int) -> SliceStacks:
    """Return every slice alone."""
    slices = torch.arange(count)
    return SliceStacks(slices[:, None], slices, 0)


def centred_stacks(count: int, channels: int) -> SliceStacks:
    """Return every slice in the centre of its neighbours, where border slices are repeated.

    Source: B. Song et al., "DiffusionBlend: learning 3D image prior through position-aware diffusion score blending
    for 3D computed tomography reconstruction", NeurIPS 2024.
    """
    slices = torch.arange(count)
    members = slices[:, None] + torch.arange(channels) - channels // 2
    return SliceStacks(members.clamp(0, count - 1), slices * channels + channels // 2, 1)


def adjacent_stacks(count: int, channels: int, offset: int) -> SliceStacks:
    """Return stacks of neighbours side by side, the first of which begins at an offset.

    Slices before and behind them are spoken for by the first and the last stack of the volume.

    Source: as `centred_stacks`, DiffusionBlend++ (adjacent partition).
    """
    starts = [0, count - channels, *range(offset, count - channels + 1, channels)]
    return _stacks((range(start, start + channels) for start in starts), count, 1)


def jumping_stacks(count: int, channels: int) -> SliceStacks:
    """Return stacks of slices that lie as many slices apart as a stack has, each slice in one.

    The last slice is repeated where the slices do not fill their blocks.

    Source: as `centred_stacks`, DiffusionBlend++ (cross-slice partition).
    """
    block = channels**2
    firsts = (base + lane for base in range(0, count, block) for lane in range(channels))
    return _stacks((range(f, f + block, channels) for f in firsts), count, channels)


def stacks_of_step(
    kind: StackKind | None,
    denoiser: nn.Module,
    count: int,
    seed: int,
    index: int,
    turn: int | None = None,
) -> SliceStacks:
    """Return what a denoiser sees together in a step of a sampler.

    Args:
        kind: of all steps; None takes single slices where the denoiser accepts them, adjacent ones otherwise.
        denoiser: see `priors.Denoiser`.
        count: of slices.
        seed: of the offsets.
        index: of the step.
        turn: its number among those of its plane; every second one jumps where the kind is alternating, the first among
            them. None takes the index, where all steps are of one plane.
    """
    kind = kind or ("single" if denoiser.alone else "adjacent")
    if kind == "single":
        return single_slices(count)
    if kind == "centred":
        return centred_stacks(count, denoiser.channels)
    if kind == "alternating" and (index if turn is None else turn) % 2 == 0:
        return jumping_stacks(count, denoiser.channels)
    generator = generator_at(seed, index)
    offset = int(torch.randint(denoiser.channels, (), generator=generator))
    return adjacent_stacks(count, denoiser.channels, offset)


def check_stacks(denoiser: nn.Module, kind: StackKind | None) -> None:
    """Refuse denoisers of something else, and stacks that they do not know.

    Raises:
        ValueError: naming both.
    """
    if denoiser.dimensions != 2:
        raise ValueError(
            f"the denoiser is one of {denoiser.dimensions} dimensions; one of slices is expected."
        )
    if kind is None:
        return
    if kind not in STACKS:
        raise ValueError(f"stacks is {kind!r}; one of {', '.join(STACKS)} is expected.")
    if kind == "single" and not denoiser.alone:
        raise ValueError(
            f"stacks is single and the denoiser sees {denoiser.channels} slices together; one that was trained on "
            "single slices too is expected, or other stacks."
        )
    if kind == "alternating" and denoiser.gaps <= denoiser.channels:
        raise ValueError(
            f"stacks is alternating and the denoiser tells {denoiser.gaps} gaps apart; one that knows a gap of "
            f"{denoiser.channels} slices is expected, or other stacks."
        )


def predicted_noise(
    noisy: Tensor, step: int, denoiser: nn.Module, stacks: SliceStacks, batch_size: int
) -> Tensor:
    """Return the noise (Z, Y, X) that a denoiser finds in the slices of a volume.

    Args:
        noisy: (Z, Y, X), on the denoiser's scale; of any precision, which is that of the noise.
        step: of the schedule.
        denoiser: see `priors.Denoiser`.
        stacks: what it sees together.
        batch_size: stacks at once.
    """
    told, seen = {"gap": stacks.gap}, like_weights(noisy, denoiser)
    parts = [
        denoiser.predict(seen[members], step, told)
        for members in stacks.members.to(noisy.device).split(batch_size)
    ]
    found = torch.cat(parts).flatten(0, 1)[stacks.owners.to(noisy.device)]
    return found.to(noisy.dtype)


def _stacks(rows: Iterable[range], count: int, gap: int) -> SliceStacks:
    """Return stacks of which the later ones speak, and whose slices beyond the last are the last."""
    members = torch.tensor([list(row) for row in rows])
    owners = torch.empty(count, dtype=torch.long)
    places = torch.arange(members.numel()).reshape(members.shape)
    for row, place in zip(members, places, strict=True):
        real = (row >= 0) & (row < count)
        owners[row[real]] = place[real]
    return SliceStacks(members.clamp(0, count - 1), owners, gap)
