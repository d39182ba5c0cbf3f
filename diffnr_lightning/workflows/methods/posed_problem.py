"""A case as the problem that a method is given: grid, edges and scale are settled before it is reconstructed."""

from __future__ import annotations

import logging

import torch

from diffnr_lightning.data import Case
from diffnr_lightning.geometry import VolumeGrid, check_scan_sees_grid
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.solvers import (
    initial_volume,
    meets_the_ends,
    scan_truncation,
    surroundings,
)
from diffnr_lightning.workflows.methods.assumed_photons import photons_of
from diffnr_lightning.workflows.methods.problem import Problem, Progress

logger = logging.getLogger("diffnr")

# The brightest voxels may be streaks; this share of the first reconstruction is below intensity 1.
BRIGHT_QUANTILE = 0.9999


def working_grid(case: Case, pad: float) -> tuple[VolumeGrid, tuple[slice, slice, slice]]:
    """Return the voxels that are reconstructed, and where the case's lie among them.

    Args:
        case: what is reconstructed.
        pad: share of each edge by which the grid is enlarged.

    Raises:
        ValueError: a negative pad, projections of zeros only, or views that do not see the grid.
    """
    if not 0.0 <= pad < float("inf"):
        raise ValueError(f"pad is {pad}; a share of at least 0 is expected, such as 0.5.")
    if not case.projections.any():
        raise ValueError(
            f"case {case.name} has projections of zeros only; a scan that shows something is expected."
        )
    grid, inner = case.grid.enlarged(pad)
    check_scan_sees_grid(case.scan, grid)
    return grid, inner


def problem_of(
    case: Case,
    grid: VolumeGrid,
    place: torch.device | str,
    *,
    photons: float | None = None,
    weighted: bool = True,
    subtract: bool = True,
    seed: int | None = None,
    progress: Progress | None = None,
) -> tuple[Problem, float]:
    """Return a case as `diffnr reconstruct` takes it, and what its projections were divided by.

    Args:
        case: what is reconstructed.
        grid: voxels of the volume.
        place: device of the computation.
        photons: that are assumed where the case knows none.
        weighted: whether rays are weighed by them.
        subtract: whether what lies around the grid is estimated.
        seed: of everything random; None takes the case's.
        progress: of solvers.
    """
    scale = intensity_scale(case)
    problem = measured_problem(
        case,
        grid,
        place,
        photons=photons_of(case, photons),
        weighted=weighted,
        scale=scale,
        seed=seed,
        progress=progress,
    )
    return with_surroundings(problem, case.name, subtract), scale


def measured_problem(
    case: Case,
    grid: VolumeGrid,
    place: torch.device | str,
    *,
    photons: PhotonCounts | None,
    weighted: bool,
    scale: float = 1.0,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Problem:
    """Return what a method is given of a case, as it was measured.

    Args:
        case: what is reconstructed.
        grid: voxels of the volume.
        place: device of the computation.
        photons: behind the projections, in the case's unit; None where they are not known.
        weighted: whether rays are weighed by them.
        scale: what the projections are divided by.
        seed: of everything random; None takes the case's.
        progress: of solvers.
    """
    photons = photons and photons.in_units_of(scale).to(place)
    return Problem(
        (case.projections / scale).to(place),
        case.scan,
        grid,
        # Some generators take 32 bits only.
        (case.seed if seed is None else seed) % 2**31,
        progress=progress,
        photons=photons,
        weights=photons.weights() if weighted and photons is not None else None,
    )


def reaches_out(measured: Case | Problem) -> bool:
    """Return whether the object may lie beyond the grid as well: some edge of the detector is not air."""
    projections, scan = measured.projections, measured.scan
    return scan_truncation(projections, scan).share > 0 or meets_the_ends(projections, scan)


def with_surroundings(problem: Problem, name: str, subtract: bool) -> Problem:
    """Return the problem with what lies around its grid, where the object reaches beyond the detector and the grid.

    Args:
        problem: as measured.
        name: of the case, for the warning.
        subtract: whether the surroundings are wanted.
    """
    if not reaches_out(problem):
        return problem
    around = None
    if subtract:
        around = surroundings(
            problem.projections,
            problem.grid,
            problem.scan,
            weights=problem.weights,
            progress=problem.progress,
        )
    _tell(problem, name, subtract, around is not None)
    return problem._replace(surroundings=around)


def _tell(problem: Problem, name: str, asked: bool, found: bool) -> None:
    """Warn of an object that is wider than the detector, or longer where something was found beyond the ends."""
    subtracted = (
        "what lies around the grid is subtracted as it is estimated on a larger, coarser one"
    )
    truncation = scan_truncation(problem.projections, problem.scan)
    if truncation.share:
        outcome = (
            f", and {subtracted}"
            if found
            else ", and nothing is subtracted, since a volume on the grid alone explains the projections"
        )
        logger.warning(
            "%s: in %.0f %% of the views the object reaches beyond the detector (line integrals at its edge "
            "are up to %.0f %% of the largest): values near the edge of the field of view are estimates%s",
            name,
            100 * truncation.share,
            100 * truncation.level,
            outcome if asked else "",
        )
    elif found:
        logger.warning(
            "%s: rays to the first or last row of the detector pass something beyond the ends of the grid: values "
            "near these are estimates, and %s",
            name,
            subtracted,
        )


def intensity_scale(case: Case) -> float:
    """Return what the projections are divided by so that the volume lies between 0 and about 1.

    Cases with a window are normalised already; for others a first reconstruction says it
    (`solvers.initial_volume`).

    Raises:
        ValueError: nothing above zero comes out.
    """
    if case.volume is not None or case.window_hu is not None:
        return 1.0
    first = initial_volume(case.projections, case.grid, case.scan)
    scale = float(
        torch.quantile(first.flatten()[:: max(1, first.numel() // 2**22)], BRIGHT_QUANTILE)
    )
    if not scale > 0:
        raise ValueError(
            f"{case.name}: the projections reconstruct to nothing above zero; is the logarithm taken "
            "and the sign right?"
        )
    return scale
