"""Analytic reconstruction: FDK for cone beam, filtered backprojection for parallel beam.

Source: L. A. Feldkamp, L. C. Davis, J. W. Kress, "Practical cone-beam algorithm", JOSA A 1984;
A. C. Kak, M. Slaney, "Principles of Computerized Tomographic Imaging", 1988, sections 3.3 and 3.6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, arc_length, view_steps
from diffnr_lightning.projectors import weighted_backproject
from diffnr_lightning.solvers.circular import CircularScan, prepared
from diffnr_lightning.solvers.ramp import Filter, filter_rows
from diffnr_lightning.solvers.redundancy import ray_weights

_LOG = logging.getLogger("diffnr")


class FilteredViews(NamedTuple):
    """Hold the two steps of analytic reconstruction of a scan, the filter and the backprojection.

    Attributes:
        views: upright projections and their poses, see `circular.prepared`.
        shares: (V, W) what every ray counts: its share in the line that it measures, times the step of its view.
        cosine: what else the pixels of some views are multiplied by, see `ramp.filter_rows`.
        pitch_mm: of the columns where the filter is meant.
    """

    views: CircularScan
    shares: np.ndarray
    cosine: Callable[[slice], Tensor | float]
    pitch_mm: float

    def filtered(self, projections: Tensor, filter: Filter = "hann", cutoff: float = 1.0) -> Tensor:  # noqa: A002
        """Weight and filter projections (V, H, W) whose pixels are in the order of `views`."""
        return filter_rows(projections, self.shares, self.cosine, self.pitch_mm, filter, cutoff)

    def backprojected(self, filtered: Tensor, grid: VolumeGrid) -> Tensor:
        """Sum filtered projections (V, H, W) at every voxel (Z, Y, X)."""
        weight = self.views.backprojection_weights()
        return weighted_backproject(filtered, grid, self.views.scan, weight=weight)


def filtered_views(projections: Tensor, scan: ScanGeometry, extend: bool) -> FilteredViews:
    """Return the steps of the analytic method of a scan: those of `fdk` for cone, of `fbp` for parallel.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        scan: a scan near a circle; see `circular.LARGEST_RESIDUAL`.
        extend: whether rows of an object that reaches beyond the detector are continued.

    Raises:
        ValueError: a scan that is not near a circle, or wrong shapes.
    """
    steps = _cone_steps if scan.beam == "cone" else _parallel_steps
    return steps(projections, scan, extend)


def analytic(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    filter: Filter = "hann",  # noqa: A002 -- the field's word for it
    cutoff: float = 1.0,
    extend: bool = True,
) -> Tensor:
    """Reconstruct with the analytic method of the scan: `fdk` for cone, `fbp` for parallel.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: a scan near a circle; see `circular.LARGEST_RESIDUAL`.
        filter: window of the ramp filter.
        cutoff: where the window ends, as a fraction of the Nyquist frequency, in (0, 1].
        extend: whether rows of an object that reaches beyond the detector are continued before they
            are filtered (`truncation.continue_rows`); scans that see air at their edges stay as they
            are.

    Returns:
        (Z, Y, X) in unit; not clipped, so it may be negative.

    Raises:
        ValueError: a scan that is not near a circle, wrong shapes, an unknown filter or a cutoff
            outside (0, 1].
    """
    method = fdk if scan.beam == "cone" else fbp
    return method(projections, grid, scan, filter=filter, cutoff=cutoff, extend=extend)


def fdk(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    filter: Filter = "hann",  # noqa: A002
    cutoff: float = 1.0,
    extend: bool = True,
) -> Tensor:
    """Reconstruct a circular cone-beam scan with the algorithm of Feldkamp, Davis and Kress.

    Views may be spaced unevenly. An arc short of the circle and a detector shifted sideways get the
    weights of `redundancy`, so that a uniform object keeps its value. Views may lie somewhat beside
    the circle, as those of a calibrated scanner do, in any orientation of the detector: cosines,
    weights and backprojection take source, detector, u and v of each view as they are; only the
    filter and the redundancy take the numbers of the nearest circle (`geometry.nominal_orbit`).

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: a cone-beam scan near a circle; see `circular.LARGEST_RESIDUAL`.
        filter: window of the ramp filter.
        cutoff: where the window ends, as a fraction of the Nyquist frequency, in (0, 1].
        extend: whether rows of an object that reaches beyond the detector are continued before they
            are filtered (`truncation.continue_rows`); scans that see air at their edges stay as they
            are.

    Returns:
        (Z, Y, X) in unit; not clipped.

    Raises:
        ValueError: a scan that is not near a circle or not cone beam, wrong shapes, an unknown filter or
            a cutoff outside (0, 1].
    """
    steps = _cone_steps(projections, scan, extend)
    _tell_of_one_side(steps.views, grid, "fdk")
    return steps.backprojected(steps.filtered(steps.views.projections, filter, cutoff), grid)


def fbp(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    filter: Filter = "hann",  # noqa: A002
    cutoff: float = 1.0,
    extend: bool = True,
) -> Tensor:
    """Reconstruct a parallel-beam scan over 180 or 360 degrees by filtered backprojection.

    Opposite views are one measurement: angles are taken modulo 180 degrees and every view weighs
    half of the gap to its neighbours. With a detector shifted sideways the full circle is needed
    instead, and opposite columns share their weight.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: a parallel-beam scan near a circle; see `circular.LARGEST_RESIDUAL`.
        filter: window of the ramp filter.
        cutoff: where the window ends, as a fraction of the Nyquist frequency, in (0, 1].
        extend: whether rows of an object that reaches beyond the detector are continued before they
            are filtered (`truncation.continue_rows`); scans that see air at their edges stay as they
            are.

    Returns:
        (Z, Y, X) in unit; not clipped.

    Raises:
        ValueError: a scan that is not near a circle or not parallel beam, wrong shapes, an unknown
            filter or a cutoff outside (0, 1].
    """
    steps = _parallel_steps(projections, scan, extend)
    _tell_of_one_side(steps.views, grid, "fbp")
    return steps.backprojected(steps.filtered(steps.views.projections, filter, cutoff), grid)


def _tell_of_one_side(views: CircularScan, grid: VolumeGrid, method: str) -> None:
    """Warn of lines through a grid that a detector shifted sideways does not measure."""
    if views.edges is None:
        return
    orbit = views.orbit
    low, high = views.edges
    seen = min(-low, high) / orbit.magnification
    _, closed = view_steps(orbit.angles_rad, 2 * np.pi)
    if seen <= 0:
        _LOG.warning(
            "%s: the detector is shifted beside the central ray, so that no line within %.3g mm of the axis is "
            "measured: expect a hole.",
            method,
            -seen,
        )
    elif not closed and seen < 0.5 * min(grid.size_mm[1:]) - max(grid.voxel_mm):
        _LOG.warning(
            "%s: the detector is shifted sideways and measures what lies farther than %.3g mm from the axis from one "
            "side only, for which views all around are needed: expect streaks.",
            method,
            seen,
        )


def _cone_steps(projections: Tensor, scan: ScanGeometry, extend: bool) -> FilteredViews:
    views = prepared(projections, scan, "cone", "fdk", extend)
    orbit = views.orbit
    steps, closed = view_steps(orbit.angles_rad, 2 * np.pi)
    u = views.columns_mm()
    distance = orbit.source_to_detector_mm
    fan = np.arctan2(u, distance)
    shares = ray_weights(orbit.angles_rad, fan, u, views.edges, steps, closed, continued=extend)
    needed = np.pi + 2.0 * np.abs(fan).max()
    if arc_length(steps) < needed - 1e-6:
        _LOG.warning(
            "fdk: the views cover %.0f degrees, %.0f are needed for every line: expect streaks.",
            np.rad2deg(arc_length(steps)),
            np.rad2deg(needed),
        )
    # On the detector scaled down to the rotation axis, where FDK's formula filters.
    pitch = orbit.pixel_mm[1] * orbit.source_to_axis_mm / distance
    return FilteredViews(views, shares * steps[:, None], views.cosines, pitch)


def _parallel_steps(projections: Tensor, scan: ScanGeometry, extend: bool) -> FilteredViews:
    views = prepared(projections, scan, "parallel", "fbp", extend)
    angles, u = views.orbit.angles_rad, views.columns_mm()
    if views.edges is None:
        steps, _ = view_steps(angles, np.pi)
        shares = np.ones((len(scan), len(u)))
    else:
        steps, closed = view_steps(angles, 2 * np.pi)
        shares = ray_weights(
            angles, np.zeros_like(u), u, views.edges, steps, closed, continued=extend
        )
    if arc_length(steps) < np.pi - 1e-6:
        _LOG.warning(
            "fbp: the views cover %.0f degrees, 180 are needed for every line: expect streaks.",
            np.rad2deg(arc_length(steps)),
        )
    return FilteredViews(views, shares * steps[:, None], lambda _: 1.0, views.orbit.pixel_mm[1])
