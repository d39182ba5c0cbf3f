"""Convolution with a Gaussian along some axes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def smoothed(
    array: Tensor,
    deviation: float,
    axes: tuple[int, ...],
    border: Literal["continued", "zero"] = "continued",
) -> Tensor:
    """Convolve with a Gaussian.

    Args:
        array: any shape.
        deviation: standard deviation in steps of the array; 0 returns it as it is.
        axes: along which.
        border: whether the outermost value goes on outwards, or zeros do; with zeros it is its own adjoint.
    """
    if deviation == 0:
        return array
    reach = max(1, round(4 * deviation))
    taps = [math.exp(-0.5 * (offset / deviation) ** 2) for offset in range(reach + 1)]
    taps = [tap / (2 * sum(taps) - taps[0]) for tap in taps]
    for axis in axes:
        first, last = array.narrow(axis, 0, 1), array.narrow(axis, array.shape[axis] - 1, 1)
        shape = [reach if a == axis else -1 for a in range(array.ndim)]
        ends = [end.expand(shape) for end in (first, last)]
        if border == "zero":
            ends = [torch.zeros_like(end) for end in ends]
        padded = torch.cat([ends[0], array, ends[1]], dim=axis)
        length = array.shape[axis]
        array = padded.narrow(axis, reach, length) * taps[0]
        for offset, tap in enumerate(taps[1:], start=1):
            for start in (reach - offset, reach + offset):
                array.add_(padded.narrow(axis, start, length), alpha=tap)
    return array
