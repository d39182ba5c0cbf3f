"""The volume nearest to a given one that explains its projections as well as their noise allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.consistency.bidiagonalisation import Bidiagonalisation
from diffnr_lightning.consistency.discrepancy import (
    Discrepancy,
    discrepancy,
    unresolved_variance,
)
from diffnr_lightning.consistency.normalisation import checked_weights
from diffnr_lightning.consistency.smoothing import smoothed
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.projectors import backproject, project

# The nearest volume is found when another direction makes the change shorter by no more than this share.
_SETTLED = 0.01
# The level is hit to rounding after so many halvings of an interval of this many natural logarithms to either side.
_HALVINGS, _LOGARITHMS = 60, 40.0
# A change that predicts worse counts is halved, so often at most: a volume ten times as dense as the object needs three
# halvings, and one that the last does not help stays as it is.
_SHORTER = 6
_AXES = (0, 1, 2)


class Agreement(NamedTuple):
    """What became of a volume that was made to agree with projections.

    Attributes:
        volume: (Z, Y, X).
        level: mean square of the normalised residuals that was allowed.
        reached: whether it came down to that, to first order in the change.
        before: mean square before, over the rays through the volume's support, or over all where it has none.
        after: the same afterwards.
        stiffness: lambda, in the unit of the inverse variances times mm^2; infinite where nothing was changed.
        directions: how many the search went along.
    """

    volume: Tensor
    level: float
    reached: bool
    before: float
    after: float
    stiffness: float
    directions: int

    def __str__(self) -> str:
        """Say what was unexplained before and after."""
        allowed = f"{self.level:.3g} {'are allowed' if self.reached else 'cannot be reached'}"
        return f"normalised residuals of mean square {self.before:.3g} come to {self.after:.3g}; {allowed}"

    def findings(self) -> dict[str, Any]:
        """Return everything but the volume, as JSON holds it: an infinite stiffness is None."""
        kept = self._asdict()
        del kept["volume"]
        return kept | {"stiffness": self.stiffness if math.isfinite(self.stiffness) else None}


@torch.no_grad()
def agree(
    volume: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    weights: Tensor,
    photons: PhotonCounts | None = None,
    level: float = 1.0,
    directions: int = 15,
    smoothing: float = 0.5,
    support: float = 0.02,
    resolution: bool = True,
) -> Agreement:
    """Change a volume as little as is needed for it to explain its projections.

    Minimises ``|A (x + C u) - y|_W^2 + lambda |u|^2`` over u with the largest lambda at which the first term comes to
    `level` for each ray: the discrepancy principle, which neither leaves unexplained what was measured nor explains
    noise. C smooths and keeps to the support: what a prior gets wrong is smooth and lies inside of the object, and
    changes of the air would cost structural similarity. A volume that explains its projections already comes back as
    it is. Where no change along all `directions` comes down to the level, the geometry, a truncation or beam hardening
    is at fault and not the volume: what explains most would fit that fault, so the level is raised to the geometric
    mean of what was unexplained and of what could be left. Where the counts, which the search takes to first order in
    the change, say that it leaves more unexplained, it is halved until it does not; in the end there is none.

    Args:
        volume: (Z, Y, X), such as a repaired one, in normalised attenuation.
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: geometry of the projections.
        weights: (V, H, W) inverse variances of the projections, see `PhotonCounts.weights`.
        photons: counts, with which the comparison is not biased behind thick objects; see `discrepancy`.
        level: mean square of the normalised residuals that is aimed at; noise alone gives 1.
        directions: of the search at most. Each takes a projection and a backprojection, and memory of a volume.
        smoothing: standard deviation of the Gaussian that smooths the change, in voxels; 0 leaves it.
        support: voxels at or below this value stay as they are; a negative number moves all.
        resolution: whether the noise is taken together with what voxels do not resolve, see `unresolved_variance`.
            Without it even the true volume fails to explain the projections where there are many photons.

    Returns:
        The volume, not negative where it was moved, and how it came about.

    Raises:
        ValueError: a level that is not positive, no direction, a negative smoothing, weights of another shape or below
            zero, or input that is not finite.

    Source: V. Morozov's discrepancy principle; J. Chung, J. Nagy, D. O'Leary, "A weighted-GCV method for Lanczos-hybrid
    regularization", ETNA 2008, for Tikhonov's problem within the directions of LSQR. Deviation: lambda by discrepancy.
    """
    if not level > 0 or directions < 1 or smoothing < 0:
        raise ValueError(
            f"agree got level={level}, directions={directions} and smoothing={smoothing}; a positive level, at least "
            "one direction, and a smoothing of at least 0 are expected."
        )
    inside = (volume > support).to(volume.dtype)
    compared = _comparison(
        volume, inside, projections, grid, scan, weights, photons, resolution=resolution
    )
    residual, root = compared(volume)
    count = _counted(root)
    before = _mean_square(residual, count)
    if not math.isfinite(before):
        raise ValueError(
            "agree got a volume, projections or weights that are not finite; finite numbers are expected."
        )
    if before <= level:
        return Agreement(volume, level, True, before, before, math.inf, 0)

    def change(unknown: Tensor) -> Tensor:
        return inside * smoothed(unknown, smoothing, _AXES, "zero")

    def adjoint(of_rays: Tensor) -> Tensor:
        return smoothed(inside * backproject(root * of_rays, grid, scan), smoothing, _AXES, "zero")

    krylov = Bidiagonalisation(lambda u: root * project(change(u), grid, scan), adjoint, residual)
    step = _searched(krylov, directions, level * count)
    if not krylov.directions:  # no ray that says anything meets the support
        return Agreement(volume, level, False, before, before, 0.0, 0)
    reached = step.stiffness > 0
    if not reached:
        # Geometric mean: half of the excess, in logarithms.
        least = krylov.left_over * krylov.length / math.sqrt(count)
        step = _smallest_step(krylov, count * least * math.sqrt(before))
    towards = change(krylov.combined(step.coefficients))
    for shorter in range(_SHORTER):
        moved = volume + towards / 2**shorter
        moved = torch.where(inside > 0, moved.clamp(min=0), volume)
        # Not to first order: counts that a large change predicts are not.
        after = _mean_square(compared(moved).residual, count)
        if after < before:
            found = len(krylov.directions)
            return Agreement(
                moved, level, reached and not shorter, before, after, step.stiffness, found
            )
    return Agreement(volume, level, False, before, before, math.inf, len(krylov.directions))


@torch.no_grad()
def unexplained(
    volume: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    weights: Tensor,
    photons: PhotonCounts | None = None,
    support: float = 0.02,
) -> float:
    """Return the mean square of the normalised residuals that a volume leaves, as `agree` judges it.

    Args:
        volume: (Z, Y, X), normalised attenuation.
        projections: (V, H, W) measured, line integrals of it in mm.
        grid: voxels of the volume.
        scan: geometry of the projections.
        weights: (V, H, W) inverse variances of the projections.
        photons: what was counted.
        support: rays through voxels above this value count; all rays where there are no such voxels.

    Raises:
        ValueError: weights of another shape, below zero, or not finite.
    """
    inside = (volume > support).to(volume.dtype)
    residual, root = _comparison(volume, inside, projections, grid, scan, weights, photons)(volume)
    return _mean_square(residual, _counted(root))


def _comparison(
    volume: Tensor,
    inside: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor,
    photons: PhotonCounts | None,
    *,
    resolution: bool = True,
) -> Callable[[Tensor], Discrepancy]:
    """Return what compares volumes with the projections, by the rays that meet the support `inside` of this one.

    Where none does, all rays count: a volume that shows nothing explains nothing.
    """
    rays = project(inside, grid, scan) > 0
    given = {
        "rays": rays if rays.any() else None,
        "unresolved": unresolved_variance(volume, grid, scan) if resolution else None,
    }
    known = checked_weights(weights, scan, volume)

    def compared(other: Tensor) -> Discrepancy:
        return discrepancy(project(other, grid, scan), projections, known, photons, **given)

    return compared


def _counted(root: Tensor) -> int:
    """Return how many rays say something, at least one."""
    return max(int((root > 0).sum()), 1)


def _mean_square(residual: Tensor, count: int) -> float:
    return float(residual.double().square().sum()) / count


class _Step(NamedTuple):
    coefficients: np.ndarray
    stiffness: float

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.coefficients))


def _searched(krylov: Bidiagonalisation, directions: int, allowed: float) -> _Step:
    """Grow directions until another one hardly makes the step shorter, and return the step along them."""
    step = _Step(np.zeros(0), 0.0)
    while len(krylov.directions) < directions and krylov.grow():
        earlier, step = step, _smallest_step(krylov, allowed)
        if earlier.stiffness > 0 and step.length > (1 - _SETTLED) * earlier.length:
            break
    return step


def _smallest_step(krylov: Bidiagonalisation, allowed: float) -> _Step:
    """Return the shortest step that leaves no more than is allowed, or else the one that leaves least."""
    left, singular, right = np.linalg.svd(krylov.matrix, full_matrices=False)
    seen = krylov.length * left[0]
    unseen = max(krylov.length**2 - float(seen @ seen), 0.0)

    def remaining(stiffness: float) -> float:
        return unseen + float(np.sum((stiffness / (singular**2 + stiffness) * seen) ** 2))

    stiffness = 0.0
    if unseen <= allowed:
        top, low, high = float(singular[0] ** 2), -_LOGARITHMS, _LOGARITHMS
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            enough = remaining(top * math.exp(middle)) <= allowed
            low, high = (middle, high) if enough else (low, middle)
        stiffness = top * math.exp(low)
    return _Step(right.T @ (singular / (singular**2 + stiffness) * seen), stiffness)
