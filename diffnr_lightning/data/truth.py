"""Whether a true volume and its projections belong together, and in which unit they are."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, check_scan_sees_grid

LOGGER = logging.getLogger("diffnr")
# The check is made coarsely: so many views, pixels and voxels along an edge.
VIEWS, PIXELS, VOXELS = 6, 32, 48
# Noise, clipping and matter outside the volume change the scale, but not by this much.
LARGEST_FACTOR = 3.0
# A factor farther from one than this is worth a word where the images agree otherwise.
EXACT_FACTOR = 1.15
# What the truth leaves unexplained of projections that belong to it (relative L2).
LARGE_MISFIT = 0.2
# A turn that leaves less than this share of that is meant.
BETTER_TURN = 0.6
# A normalised truth has its largest value about one.
NORMALISED_PEAK = (0.5, 2.0)


def check_truth(
    volume: Tensor,
    grid: VolumeGrid,
    projections: Tensor,
    scan: ScanGeometry,
    where: str,
    unit: str = "the unit of the volume times that of its lengths",
) -> None:
    """Compare the projections with those of the truth, coarsely.

    Args:
        volume: (Z, Y, X) truth.
        grid: its voxels.
        projections: (V, H, W) line integrals.
        scan: their geometry.
        where: how an error names the file.
        unit: in which line integrals are expected.

    Raises:
        ValueError: a truth below zero, projections of another scale or sign, or a truth that no
            ray meets.
    """
    # Its kernels take longer to import than a case that is refused should take to be read.
    from diffnr_lightning.projectors import project

    low, high = float(volume.min()), float(volume.max())
    if -low > 0.5 * high:
        raise ValueError(
            f"{where} has a truth from {low:.4g} to {high:.4g}; attenuation from 0 to 1 is "
            "expected, not HU: (HU + 1000) / 2024, for example."
        )
    chosen = np.unique(np.linspace(0, len(scan) - 1, VIEWS).astype(int))
    measured, some = _coarse_views(projections[torch.from_numpy(chosen)], scan[chosen])
    coarse, coarse_grid = _coarse_volume(volume, grid)
    check_scan_sees_grid(some, coarse_grid)
    expected = project(coarse, coarse_grid, some, "reference")
    if not expected.any():
        raise ValueError(f"{where}: no ray meets the truth; check the scanner's lengths.")
    factor, misfit = _explained(measured, expected)
    if torch.corrcoef(torch.stack([measured.ravel(), expected.ravel()]))[0, 1] < 0:
        raise ValueError(
            f"{where} has projections that are small where those of its truth are large; either "
            "they are intensities instead of line integrals -log(I / I0), or angles, offsets or "
            "distances are wrong."
        )
    if not 1 / LARGEST_FACTOR < factor < LARGEST_FACTOR:
        raise ValueError(
            f"{where} has projections {factor:.3g} times as large as those of its truth; line "
            f"integrals in {unit} are expected."
        )
    mirrored = project(coarse.flip(1), coarse_grid, some, "reference")
    turn = _better_turn(measured, expected, mirrored, misfit)
    if misfit > LARGE_MISFIT or turn:
        LOGGER.warning(
            "%s: the truth leaves %.0f %% of the projections unexplained; check angles, offsets "
            "and order of rows%s",
            where, 100 * misfit, turn,
        )  # fmt: skip
    elif not 1 / EXACT_FACTOR < factor < EXACT_FACTOR:
        LOGGER.warning(
            "%s: the projections are %.3g times those of the truth, and so will be the result",
            where, factor,
        )  # fmt: skip


def normalised(volume: Tensor, where: str) -> float:
    """Return what a truth is divided by so that it is attenuation from 0 to about 1; else 1.

    Args:
        volume: (Z, Y, X) truth.
        where: how the warning names the file.
    """
    peak = float(volume.max())
    if NORMALISED_PEAK[0] <= peak <= NORMALISED_PEAK[1]:
        return 1.0
    LOGGER.warning(
        "%s: the largest value of the truth is %.4g, and 1 is expected; truth and projections are "
        "divided by it, and the result is in that unit",
        where, peak,
    )  # fmt: skip
    return peak


def _explained(measured: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the factor that fits `expected` to `measured` and the relative rest."""
    factor = float((measured * expected).sum() / expected.square().sum())
    rest = (measured - factor * expected).norm() / measured.norm()
    return factor, float(rest)


def _better_turn(measured: Tensor, expected: Tensor, mirrored: Tensor, misfit: float) -> str:
    """Return how the projections would agree with the truth by far better, or nothing."""
    # A scan in the other sense is that of the mirror image, seen in a mirror.
    rests = {
        "with their rows upside down": _explained(measured.flip(1), expected)[1],
        "with their columns reversed": _explained(measured.flip(2), expected)[1],
        "with the angles in the other sense": _explained(measured, mirrored.flip(2))[1],
    }
    name = min(rests, key=rests.__getitem__)
    return f"; {name} they would agree" if rests[name] < BETTER_TURN * misfit else ""


def _coarse_views(projections: Tensor, scan: ScanGeometry) -> tuple[Tensor, ScanGeometry]:
    """Average pixels in blocks; rows and columns that fill none are left out."""
    rows, columns = scan.detector_shape
    high, wide = (math.ceil(n / PIXELS) for n in (rows, columns))
    means = torch.nn.functional.avg_pool2d(projections[:, None], (high, wide))[:, 0]
    return means, scan.binned(high, wide)


def _coarse_volume(volume: Tensor, grid: VolumeGrid) -> tuple[Tensor, VolumeGrid]:
    """Average voxels in blocks; those that fill none are left out."""
    blocks = [math.ceil(n / VOXELS) for n in grid.shape]
    means = torch.nn.functional.avg_pool3d(volume[None, None], blocks)[0, 0]
    voxel = [block * edge for block, edge in zip(blocks, grid.voxel_mm, strict=True)]
    cut = [
        0.5 * edge * (n * block - whole)
        for edge, n, block, whole in zip(
            grid.voxel_mm, means.shape, blocks, grid.shape, strict=True
        )
    ]
    centre = tuple(c + shift for c, shift in zip(grid.centre_mm, cut[::-1], strict=True))
    return means, VolumeGrid(tuple(means.shape), tuple(voxel), centre)
