"""What the iterative solvers share: checks of their input and the volume they start from."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid

Progress = Callable[[int, int, str], None]


def start_volume(
    projections: Tensor, grid: VolumeGrid, scan: ScanGeometry, initial: Tensor | None
) -> Tensor:
    """Check the input of a solver and return a volume that it may overwrite: zeros or a copy.

    Args:
        projections: (V, H, W).
        grid: voxels of the volume that is wanted.
        scan: the views.
        initial: (Z, Y, X), or None for zeros.

    Raises:
        ValueError: shapes that disagree, or projections that are not finite.
        TypeError: something that is not a tensor of floats.
    """
    for name, array, expected, axes in (
        ("projections", projections, (len(scan), *scan.detector_shape), "(V, H, W)"),
        ("initial", initial, grid.shape, "(Z, Y, X)"),
    ):
        if array is None and name == "initial":
            continue
        if not isinstance(array, Tensor) or not array.is_floating_point():
            kind = array.dtype if isinstance(array, Tensor) else type(array).__name__
            raise TypeError(f"{name} is {kind}; a floating torch tensor is expected.")
        if tuple(array.shape) != tuple(expected):
            raise ValueError(
                f"{name} has shape {tuple(array.shape)}; {tuple(expected)} {axes} is expected."
            )
        if not torch.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite numbers; mask or repair them first.")
    if initial is None:
        return projections.new_zeros(grid.shape)
    return initial.detach().to(projections, copy=True).contiguous()


def check_iterations(iterations: int, relaxation: float) -> None:
    """Refuse numbers of iterations and relaxations with which nothing converges.

    Raises:
        ValueError: fewer than one iteration, or a relaxation outside (0, 2).
    """
    check_counts(iterations=iterations)
    if not 0.0 < relaxation < 2.0:
        raise ValueError(f"relaxation is {relaxation}; a number between 0 and 2 is expected.")


def check_counts(**counts: int) -> None:
    """Refuse to do something less than once.

    Raises:
        ValueError: naming the first such one.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; at least one is expected.")


def check_amounts(**amounts: float) -> None:
    """Refuse amounts that are negative or not finite.

    Raises:
        ValueError: naming the first such one.
    """
    for name, value in amounts.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; a finite number of at least 0 is expected.")
