"""What the projections say against a volume, as a volume."""

from __future__ import annotations

from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.fdk import analytic


def backprojected_residual(
    volume: Tensor, projections: Tensor, grid: VolumeGrid, scan: ScanGeometry
) -> Tensor:
    """Filtered backprojection of what the projections of a volume lack of the measured ones.

    With all views of the circle and no noise it is the error of the volume. With few views it is that
    error plus streaks and noise: edges that a smooth representation has lost stand out of it.

    Args:
        volume: (Z, Y, X).
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: a scan near a circle; see `circular.LARGEST_RESIDUAL`.

    Returns:
        (Z, Y, X) in the unit of the volume, of either sign.

    Raises:
        ValueError: a scan that is not near a circle, or wrong shapes.
    """
    # A residual may be of any sign at the edge of the detector: nothing that a body would continue.
    return analytic(projections - project(volume, grid, scan), grid, scan, extend=False)
