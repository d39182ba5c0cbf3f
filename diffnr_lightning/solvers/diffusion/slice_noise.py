"""Noise of samplers, drawn from (seed, number): independent, or nearly shared by neighbouring slices."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from diffnr_lightning.draws import generator_at

NoiseKind = Literal["independent", "correlated"]


def slice_noise(kind: NoiseKind, like: Tensor, seed: int, number: int) -> Tensor:
    """Return noise of variance 1 for a volume, the same on every device.

    Args:
        kind: independent, or correlated: slices lie on a quarter of a circle between two draws, so that neighbours
            nearly share their noise and each slice alone is as if it were independent.
        like: (Z, Y, X), whose shape, dtype and device are taken.
        seed: of the run.
        number: of the draw in it.

    Source: inter-slice consistent stochasticity (ISCS), ICLR 2026, arXiv 2602.04162: spherical interpolation.
    Deviation: the angle between two draws is taken for a right one, from which it differs by one over the root of the
    pixels.
    """
    generator = generator_at(seed, number)
    if kind == "independent":
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    first, last = torch.randn(2, *like.shape[1:], generator=generator, dtype=like.dtype)
    angles = torch.linspace(0.0, math.pi / 2, len(like), dtype=like.dtype)[:, None, None]
    return (angles.cos() * first + angles.sin() * last).to(like.device)
