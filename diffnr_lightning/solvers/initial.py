"""The first volume of a scan in any poses: what others are scaled by or start from."""

from __future__ import annotations

import logging

from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, nominal_orbit
from diffnr_lightning.solvers.circular import near_circle
from diffnr_lightning.solvers.fdk import analytic
from diffnr_lightning.solvers.inputs import Progress, start_volume
from diffnr_lightning.solvers.sirt import sirt

_LOG = logging.getLogger("diffnr")


def initial_volume(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 20,
    progress: Progress | None = None,
) -> Tensor:
    """Reconstruct with `analytic` where the views are near a circle, with some iterations of `sirt` elsewhere.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        iterations: of SIRT, where it is taken.
        progress: called with (done, total, text) after every iteration of SIRT.

    Returns:
        (Z, Y, X) in unit; may be negative where it is the analytic one.

    Raises:
        ValueError: shapes that disagree, or fewer than one iteration.
    """
    if near_circle(scan):
        return analytic(projections, grid, scan)
    nominal = nominal_orbit(scan)
    _LOG.info(
        "the rays pass %.3g mm (%.0f %% of the radius of the field of view) from those of the nearest "
        "circle: the first volume comes from %d iterations of SIRT, not from %s",
        nominal.residual_mm,
        100 * nominal.residual_share,
        iterations,
        "FDK" if scan.beam == "cone" else "filtered backprojection",
    )
    return sirt(projections, grid, scan, iterations=iterations, progress=progress)


def first_volume(
    projections: Tensor, grid: VolumeGrid, scan: ScanGeometry, initial: Tensor | None
) -> Tensor:
    """Check the input of a solver and return a volume that it may overwrite: a copy, or that of `initial_volume`.

    Args:
        projections: (V, H, W).
        grid: voxels of the volume that is wanted.
        scan: the views.
        initial: (Z, Y, X), or None for `initial_volume`.

    Raises:
        ValueError: shapes that disagree, or projections that are not finite.
        TypeError: something that is not a tensor of floats.
    """
    volume = start_volume(projections, grid, scan, initial)
    return volume if initial is not None else initial_volume(projections, grid, scan)
