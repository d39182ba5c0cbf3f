"""What projections can see of a change of a volume, and what they cannot."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.consistency.bidiagonalisation import Bidiagonalisation
from diffnr_lightning.consistency.normalisation import checked_weights
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import backproject, project


class VisiblePart(NamedTuple):
    """A change split into two parts that are perpendicular to each other.

    Attributes:
        seen: (Z, Y, X) what the projections see of the change.
        unseen: (Z, Y, X) what they do not; both together are the change.
        unseen_share: of the change's energy that is not seen, from 0 to 1; 0 of a change that is none.
    """

    seen: Tensor
    unseen: Tensor
    unseen_share: float


@torch.no_grad()
def visible_part(
    change: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    weights: Tensor | None = None,
    tolerance: float = 0.01,
    directions: int = 15,
) -> VisiblePart:
    """Split a change of a volume into what its projections see and what they do not.

    The part that is seen is the projection of the change onto the directions along which CGLS explains the change's
    own projections, from the one that explains most on. What is left over changes the projections by little more
    than `tolerance` where enough directions are taken; with fewer, what they see weakly counts as unseen.

    Args:
        change: (Z, Y, X), such as a repaired volume less the one before.
        grid: its voxels.
        scan: geometry of the projections.
        weights: (V, H, W) inverse variances of the projections: what is seen through noise alone is seen last. Only
            their ratios matter. None takes all rays for alike.
        tolerance: share of the norm of the change's projections at which enough is explained.
        directions: at most. Each takes a projection, a backprojection and memory of a volume.

    Raises:
        ValueError: a tolerance below 0, no direction, or weights of another shape, below zero, or not finite.

    Source: the generalised range and null space of J. Tick et al.; DDNM (Y. Wang et al., ICLR 2023), A+ A by CGLS.
    Deviation: the projection onto the directions of CGLS in the place of its iterate, so that the two parts are
    perpendicular wherever it stops.
    """
    if tolerance < 0 or directions < 1:
        raise ValueError(
            f"visible_part got tolerance={tolerance} and directions={directions}; at least 0 and 1 are expected."
        )
    energy = energy_of(change)
    seen = _seen_part(change, grid, scan, weights, tolerance, directions)
    unseen = change - seen
    return VisiblePart(seen, unseen, energy_of(unseen) / energy if energy > 0 else 0.0)


def _seen_part(
    change: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None,
    tolerance: float,
    directions: int,
) -> Tensor:
    """Return what the projections see of a change; the directions are let go of with it."""
    root: Tensor | float = 1.0
    if weights is not None:
        weights = checked_weights(weights, scan, change)
        root = (weights / weights.max().clamp_min(1e-30)).sqrt()
    shown = root * project(change, grid, scan)
    seen = torch.zeros_like(change)
    if not shown.any():
        return seen
    krylov = Bidiagonalisation(
        lambda volume: root * project(volume, grid, scan),
        lambda rays: backproject(root * rays, grid, scan),
        shown,
    )
    while len(krylov.directions) < directions and krylov.grow():
        direction = krylov.directions[-1]
        seen.add_(direction, alpha=float(torch.dot(direction.flatten(), change.flatten())))
        if krylov.left_over <= tolerance:
            break
    return seen


def energy_of(volume: Tensor) -> float:
    """Return the sum of the squares of a volume (Z, Y, X), slice by slice in float64."""
    return float(torch.stack([plane.double().square().sum() for plane in volume]).sum())


def with_unseen_of(
    volume: Tensor,
    repaired: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None = None,
) -> Tensor:
    """Return a volume with that part of its repair which the projections do not see.

    Args:
        volume: (Z, Y, X) before the repair, such as a fit to the projections.
        repaired: (Z, Y, X) after it.
        grid: their voxels.
        scan: geometry of the projections.
        weights: as in `visible_part`.

    Source: the range-null space decomposition of DDNM (Y. Wang et al., ICLR 2023).
    """
    return volume + visible_part(repaired - volume, grid, scan, weights=weights).unseen
