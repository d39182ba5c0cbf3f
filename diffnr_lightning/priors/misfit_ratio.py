"""Whether a representation shows an object as well as the solver that it starts from."""

from __future__ import annotations

from torch import Tensor

from diffnr_lightning.consistency import misfit, unexplained
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts

# On the development set at 128^3, 24 views and 1e5 photons Gaussians leave 89 to 97 times as much as weighted TV of
# four specimens of fine parts, which gain 0.4 to 3.3 dB when that alone is repaired, and 2 to 6 times as much of
# bodies, which lose 0.3 to 1.5 dB by it; this is about the middle, in logarithms. Where there is no noise it is up to
# 48 times of bodies, too, so that it says too little alone: of the projections themselves Gaussians leave 3.3 to 6.1 %
# more of these specimens, and 0.6 to 1.3 % more of bodies, whatever the noise.
_TIMES, _SHARE = 20.0, 0.02


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
    """Return whether a volume leaves far more of the projections unexplained than the start does.

    That is 20 times as much by the noise of the rays, and besides 2 % more of the projections themselves (root mean
    squares).

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
    if own <= _TIMES * least:
        return False
    own, least = (misfit(v, projections, grid, scan) for v in (volume, start))
    return own - least > _SHARE**2 * float(projections.square().mean())
