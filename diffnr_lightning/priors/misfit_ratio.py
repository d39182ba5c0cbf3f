"""Whether a representation shows an object as well as the solver that it starts from."""

from __future__ import annotations

from torch import Tensor

from diffnr_lightning.consistency import unexplained
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts

# On the development set at 128^3, 24 views and 1e5 photons or more Gaussians leave 89 to 97 times as much as weighted
# TV of four specimens of fine parts, which gain 0.4 to 3.3 dB when that alone is repaired, and 2 to 48 times as much of
# bodies, which lose 0.3 to 1.5 dB by it; this is the middle, in logarithms.
_MOST = 65.0


def cannot_show(
    volume: Tensor,
    start: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    weights: Tensor,
    photons: PhotonCounts | None = None,
) -> bool:
    """Return whether a volume leaves 65 times as much of the projections unexplained as the start does.

    Args:
        volume: (Z, Y, X) of a representation, in normalised attenuation.
        start: (Z, Y, X) of the solver that it started from.
        projections: (V, H, W) measured, line integrals of it in mm.
        grid: voxels of the volumes.
        scan: geometry of the projections.
        weights: (V, H, W) inverse variances of the projections.
        photons: what was counted.

    Raises:
        ValueError: weights of another shape, below zero, or not finite.
    """
    own, least = (
        unexplained(v, projections, grid, scan, weights=weights, photons=photons)
        for v in (volume, start)
    )
    return own > _MOST * least
