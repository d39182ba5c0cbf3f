"""Pull a volume that something else has made back to the measured projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.sirt import sirt


def align(
    volume: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 10,
    smoothing: float = 1.0,
    support: float = 0.02,
) -> Tensor:
    """Move a volume towards its projections by some SIRT iterations, without taking up their noise.

    The change that SIRT makes is smoothed, and kept only where the volume shows something: noise of
    the projections would otherwise fill the air, where the eye and the structural similarity see it
    first.

    Args:
        volume: (Z, Y, X), such as a repaired volume.
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: geometry of the projections.
        iterations: of SIRT; 0 returns the volume.
        smoothing: standard deviation of the Gaussian that smooths the change, in voxels; 0 leaves it.
        support: voxels at or below this value stay as they are; a negative number moves all.

    Returns:
        (Z, Y, X), not negative where it was moved.

    Raises:
        ValueError: a negative number of iterations or smoothing.
    """
    if iterations < 0 or smoothing < 0:
        raise ValueError(
            f"align got iterations={iterations} and smoothing={smoothing}; numbers of at least 0 are "
            "expected."
        )
    if iterations == 0:
        return volume
    moved = sirt(projections, grid, scan, iterations=iterations, initial=volume)
    change = _smoothed(moved - volume, smoothing)
    return torch.where(volume > support, (volume + change).clamp(min=0), volume)


def _smoothed(volume: Tensor, deviation: float) -> Tensor:
    """Convolve with a Gaussian along the three axes; the border voxels continue outwards."""
    if deviation == 0:
        return volume
    reach = max(1, round(4 * deviation))
    offsets = torch.arange(-reach, reach + 1, device=volume.device, dtype=volume.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    for axis in range(3):
        lines = volume.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        volume = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return volume.contiguous()
