"""What lies around the voxels of a volume and attenuates its rays all the same."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import Orbit, ScanGeometry, VolumeGrid, nominal_orbit
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.inputs import Progress
from diffnr_lightning.solvers.truncation import axial_reach, meets_the_ends, object_radius
from diffnr_lightning.solvers.weighted_tv import weighted_tv

logger = logging.getLogger("diffnr")

# Of each edge, by which the grid is enlarged: as far as continued rows reach and a little farther, along the axis as
# far as rays to the detector go, within limits. Of a chest in a field of 70 % of its width, whose rows say 2.2, 0.6,
# which just holds it, leaves 26.64 dB, 1 leaves 26.49 and 1.5 leaves 26.08 (24 views, 128^3, 1e5 photons, as below).
_LEAST, _LARGEST = 0.1, 1.0
_MARGIN = 1.1
_VIEWS = 16  # whose rows are continued
# Voxels are so many times as long: 2 and 4 leave 36.15 and 33.07 dB of a head, 26.72 and 26.52 dB of a limb.
_COARSENESS = 2
# What is left unexplained has to fall to this share of what a volume on the grid alone leaves, or nothing lies around
# it. It is 0.03 of truncated scans of a head and a limb (development set, 24 views, 1e5 photons; the log says it), 0.14
# and 0.19 with the noise of the LUNA16 recipe, 1.0 to 1.2 of specimens that fill the grid and end with it; 0.43 of a
# head that goes on above it (training set). Nearer to the blocks, so that a little that lies outside is not missed.
_NEEDED = 0.9
# Share of the way to the nearest source that the enlarged grid may take up.
_CLEAR = 0.9


class Surroundings(NamedTuple):
    """Hold an estimate of what lies around a grid.

    Attributes:
        volume: (Z, Y, X) on a coarse grid that reaches out further; zero where the grid is.
        grid: its voxels.
    """

    volume: Tensor
    grid: VolumeGrid

    def project(self, scan: ScanGeometry) -> Tensor:
        """Return the line integrals (V, H, W) through it in the views of a scan."""
        return project(self.volume, self.grid, scan)


@torch.no_grad()
def surroundings(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    weights: Tensor | None = None,
    progress: Progress | None = None,
) -> Surroundings | None:
    """Estimate what lies around a grid by `weighted_tv` on a coarse one of twice its edges.

    Of an object that reaches beyond the detector no volume on the grid explains the projections: what is outside is
    piled up at its edges, and streaks run from there through the middle. With the line integrals of the surroundings
    taken away, every method explains them again. They need not be known finely, since each ray sees them as a whole.
    So it is of an object that goes on above or below the grid, which rays of a cone beam pass on their way to the
    outermost rows. A block that fills the grid and ends with it may reach to the detector's edges too, but a volume on
    the grid explains it.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses. Where the source is near, the coarse grid ends in front of it.
        weights: (V, H, W) statistical weights of the rays, see `weighted_tv`.
        progress: called with (done, total, text) after every pass.

    Returns:
        The surroundings; None where a volume on the grid alone explains the projections about as well.

    Raises:
        ValueError: shapes that disagree, or projections that are not finite.
        TypeError: input that is not a tensor of floats.

    Source: A. Ziegler, T. Nielsen, M. Grass, "Iterative reconstruction of a region of interest for transmission
        tomography", Med. Phys. 2008. Deviations: total variation instead of plain maximum likelihood, and voxels of
        twice the length.
    """
    shape = tuple(max(1, round(n / _COARSENESS)) for n in grid.shape)
    edges = tuple(size / n for size, n in zip(grid.size_mm, shape, strict=True))
    coarse = VolumeGrid(shape, edges, grid.centre_mm)
    wide, inner = coarse.enlarged(_shares(projections, grid, scan))
    volume, left = _fitted(projections, wide, scan, weights, progress)
    alone = _fitted(projections, coarse, scan, weights, progress)[1]
    share = left / alone if alone > 0 else 1.0  # projections of nothing
    logger.info(
        "surroundings: a grid that reaches out further leaves %.2f of what the grid alone leaves unexplained",
        share,
    )
    if share > _NEEDED:
        return None
    volume[inner] = 0.0
    return Surroundings(volume, wide)


def _fitted(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None,
    progress: Progress | None,
) -> tuple[Tensor, float]:
    """Return a volume (Z, Y, X) on a coarse grid, and the weighted mean square that it leaves unexplained."""
    volume = weighted_tv(projections, grid, scan, weights=weights, progress=progress)
    residual = (project(volume, grid, scan) - projections).square_()
    return volume, float((residual if weights is None else residual.mul_(weights)).mean())


def _shares(projections: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> np.ndarray:
    """Return by how much of its edges (z, y, x) the grid is enlarged: it holds what rays see, but no source."""
    some = slice(None, None, max(1, len(scan) // _VIEWS))
    projections, scan = projections[some], scan[some]
    reach = object_radius(projections, scan)
    orbit = nominal_orbit(scan).orbit
    # The object turns about the axis, wherever the grid lies; only half of what is added lies on the far side.
    beside = 2.0 * _from_axis(grid, orbit)[::-1] / grid.size_mm
    shares = 2.0 * _MARGIN * reach / min(grid.size_mm[1:]) - 1.0 + beside
    shares = shares.clip(min=_LEAST)
    if meets_the_ends(projections, scan):
        axis = int(np.argmax(np.abs(orbit.axis_direction)))
        aside = abs(float(orbit.axis_point_mm[axis]) - grid.centre_mm[axis])
        ends = 2.0 * (aside + axial_reach(scan, reach)) / grid.size_mm[2 - axis] - 1.0
        shares[2 - axis] = max(_LEAST, ends)
    shares = shares.clip(max=_LARGEST)
    if scan.beam != "cone":
        return shares
    half = 0.5 * np.asarray(grid.size_mm[::-1])
    away = (np.abs(scan.source_mm - np.asarray(grid.centre_mm)) / half).max(axis=1).min()
    return shares.clip(max=max(0.0, _CLEAR * float(away) - 1.0))


def _from_axis(grid: VolumeGrid, orbit: Orbit) -> np.ndarray:
    """Return how far (x, y, z) the centre of a grid lies beside a rotation axis in mm, on whichever side."""
    away = np.asarray(grid.centre_mm) - orbit.axis_point_mm
    direction = np.asarray(orbit.axis_direction)
    return np.abs(away - (away @ direction) * direction)
