"""What a run says of its own volume: how well it explains what was counted, and what of it is the prior's."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from diffnr_lightning.data import Case
    from diffnr_lightning.photons import PhotonCounts
    from diffnr_lightning.workflows.methods.problem import Method, Problem

logger = logging.getLogger("diffnr")

PRIOR_MAP = "prior_share.nii.gz"


def evidence(
    method: Method,
    volume: Tensor,
    problem: Problem,
    case: Case,
    scale: float,
    inner: tuple[slice, slice, slice],
    folder: Path,
) -> dict[str, Any]:
    """Return all of it by its name in `metrics.json`, and write the map of what a prior made.

    Args:
        method: that has just made the volume.
        volume: (Z, Y, X) in the unit of the problem.
        problem: as measured, with what lies around the grid.
        case: gives the views that were left out.
        scale: of the case's projections to the problem's.
        inner: what of the grid is kept.
        folder: of the run.
    """
    weighted = problem.weights is not None and method.weighs
    said: dict[str, Any] = {"weights": problem.photons.origin if weighted else "uniform"}
    if problem.photons is not None:
        said["chi_square"] = chi_squares(volume, problem, case, scale)
    if method.before_prior is not None:
        said["prior"], unseen = prior_part(volume, method.before_prior, problem, inner)
        save_prior_map(folder, volume[inner].cpu(), unseen, case, scale)
    if problem.surroundings is not None:
        said["surroundings"] = problem.surrounding_share()
    if case.test_scan is not None:
        said |= _held_out_error(volume, problem, case, scale)
    return said


def _held_out_error(volume: Tensor, problem: Problem, case: Case, scale: float) -> dict[str, Any]:
    """Return the scores of the views that were left out, by their name; none where these show nothing."""
    from diffnr_lightning.metrics import projection_error

    if not (case.test_projections > 0).any():
        logger.warning(
            "case %s: its test projections have no value above 0, so they are not scored; make it anew "
            "from readable views, or without test views.",
            case.name,
        )
        return {}
    shown = scale * problem.shown(volume, case.test_scan).cpu()
    return {"projections": projection_error(shown.numpy(), case.test_projections.numpy())}


def chi_squares(
    volume: Tensor, problem: Problem, case: Case, scale: float
) -> dict[str, list[float | None] | dict[str, float | None]]:
    """Return chi-square of every view, in the domain of counts.

    Args:
        volume: (Z, Y, X) in the unit of the problem.
        problem: whose photons are known.
        case: gives the views that were left out.
        scale: of the case's projections to the problem's.

    Returns:
        `fitted` and, where the case has test views, `left_out`: a number a view; the expectation over noise where the
        test views have none. `resolved`: of the fitted views, with the variance of what voxels do not resolve beside
        that of the noise. `mean`: over views. A view without a ray that saw light has None, and no part in the mean.
    """
    from diffnr_lightning.consistency import discrepancy, unresolved_variance
    from diffnr_lightning.photons import mean_of_rays

    photons, scan = problem.photons, problem.scan
    shown = problem.shown(volume, scan)
    found = discrepancy(
        shown,
        problem.projections,
        photons.weights(),
        photons,
        unresolved=unresolved_variance(volume, problem.grid, scan),
    )
    views: dict[str, Any] = {
        "fitted": photons.chi_square(shown),
        "resolved": mean_of_rays(found.residual.double().square(), found.root_weights > 0),
    }
    if case.test_scan is not None:
        predicted = problem.shown(volume, case.test_scan)
        views["left_out"] = _of_left_out(predicted, case, photons, scale)
    means = {name: _known(float(numbers.nanmean())) for name, numbers in views.items()}
    return {name: [*map(_known, numbers.tolist())] for name, numbers in views.items()} | {
        "mean": means
    }


def _known(number: float) -> float | None:
    """Return a number, None in the place of nan, which JSON does not have."""
    return None if math.isnan(number) else number


def _of_left_out(predicted: Tensor, case: Case, photons: PhotonCounts, scale: float) -> Tensor:
    if case.test_photons is not None:
        return case.test_photons.in_units_of(scale).to(predicted.device).chi_square(predicted)
    measured = (case.test_projections / scale).to(predicted.device)
    air = float(photons.air.max())
    exact = photons.assumed(measured, air, photons.scale)._replace(electronic=photons.electronic)
    return 1 + exact.chi_square(predicted)


def prior_part(
    volume: Tensor, before: Tensor, problem: Problem, inner: tuple[slice, slice, slice]
) -> tuple[dict[str, float], Tensor]:
    """Return how much of a volume came from the prior, and a map of what the projections do not see of it.

    Args:
        volume: (Z, Y, X), finished.
        before: (Z, Y, X), before the prior changed it.
        problem: gives views and weights.
        inner: what of the grid is kept.

    Returns:
        `changed`: energy of the change as a share of the volume's; `unseen` and `seen`: parts of that energy, which
        add up to 1, that the projections do not see and see. And the map, (Z, Y, X), not negative, of the kept grid.
    """
    from diffnr_lightning.consistency import energy_of, visible_part

    # A resumed run has it from a checkpoint, on the CPU.
    change = volume - before.to(volume.device)
    parts = visible_part(change, problem.grid, problem.scan, weights=problem.weights)
    whole, changed = energy_of(volume), energy_of(change)
    numbers = {
        "changed": changed / whole if whole > 0 else 0.0,
        "unseen": parts.unseen_share,
        "seen": 1 - parts.unseen_share if changed > 0 else 0.0,
    }
    return numbers, parts.unseen.abs()[inner].contiguous().cpu()


def save_prior_map(folder: Path, volume: Tensor, unseen: Tensor, case: Case, scale: float) -> None:
    """Write the map of `prior_part` as a volume and as a picture beside the reconstruction.

    Both are in the unit of the volume; in HU the map is a difference of HU, not an HU.

    Args:
        folder: of the run.
        volume: (Z, Y, X) the reconstruction, normalised.
        unseen: (Z, Y, X) the map.
        case: gives grid, window and frame.
        scale: of the case's unit to the normalised one, where it has no window.
    """
    from diffnr_lightning.data import save_volume
    from diffnr_lightning.files import replacing
    from diffnr_lightning.reports.figures import PRIOR_PICTURE, prior_panels
    from diffnr_lightning.reports.runs import ShownVolume

    low, unit = 0.0, "arbitrary"
    if case.window_hu is not None:
        low, high = case.window_hu
        scale, unit = high - low, "HU"
    shown = (unseen * scale).numpy()
    frame = (case.frame_origin_mm, case.frame_direction)
    save_volume(folder / PRIOR_MAP, shown, case.grid, None, *frame)
    reconstructed = (low + scale * volume).numpy()
    with replacing(folder / PRIOR_PICTURE) as part:
        prior_panels(
            ShownVolume(reconstructed, case.grid.voxel_mm, case.window_hu, unit),
            ShownVolume(shown, case.grid.voxel_mm, None, unit),
            part,
        )
