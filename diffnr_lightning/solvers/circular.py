"""What FDK and FBP take from a scan near a circle: upright rows, their weights, and what the views lack of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import (
    Beam,
    NominalOrbit,
    Orbit,
    ScanGeometry,
    nominal_orbit,
    view_steps,
)
from diffnr_lightning.solvers.truncation import Side, continue_rows, find_truncation, open_sides

# Share of the radius of the field of view by which rays may pass beside those of the nearest circle (root mean square).
# Measured by experiments/near_circle on thin discs, which suffer most: heights and scatter cost 0.02 of the density at
# any size up to 15 %; a detector rolled in its plane costs nothing up to 7 %, 0.03 at 12 % and 0.3 at 25 %.
LARGEST_RESIDUAL = 0.10

# Views nearer to their nominal ones than this share of a pixel have the cosines of the nominal ones.
_SAME_PIXELS = 1e-3

_LOG = logging.getLogger("diffnr")


class CircularScan(NamedTuple):
    """Hold projections whose pixels are in the standing order, with the circle that their views are near to.

    Attributes:
        projections: (V, H, W).
        scan: their true poses.
        orbit: the nominal numbers.
        same_pixels: whether every view has the pixels of the nominal one, as far as their cosines go.
        edges: ends of a detector that is shifted sideways, in mm from the central ray; None for a
            centred one.
    """

    projections: Tensor
    scan: ScanGeometry
    orbit: Orbit
    same_pixels: bool
    edges: tuple[float, float] | None = None

    def columns_mm(self) -> np.ndarray:
        """Return the nominal positions (W,) of the columns from the central ray."""
        count = self.scan.detector_shape[1]
        middle = np.arange(count) - 0.5 * (count - 1)
        return middle * self.orbit.pixel_mm[1] + self.orbit.detector_offset_mm[1]

    def rows_mm(self) -> np.ndarray:
        """Return the nominal positions (H,) of the rows from the central ray."""
        count = self.scan.detector_shape[0]
        middle = np.arange(count) - 0.5 * (count - 1)
        return middle * self.orbit.pixel_mm[0] + self.orbit.detector_offset_mm[0]

    def cosines(self, views: slice) -> Tensor:
        """Return the cosine of the angle between rays and the central one: (v, H, W), or (H, W) for all."""
        if self.same_pixels:
            distance = self.orbit.source_to_detector_mm
            u, v = self.columns_mm()[None, :], self.rows_mm()[:, None]
            cosine = distance / np.sqrt(distance**2 + u**2 + v**2)
            return torch.tensor(cosine).to(self.projections)
        part = self.scan[views]
        rows, columns = part.detector_shape
        i = np.arange(rows) - 0.5 * (rows - 1)
        j = np.arange(columns) - 0.5 * (columns - 1)
        first, along_u, along_v, central = (
            torch.tensor(a).to(self.projections)
            for a in (
                part.detector_mm - part.source_mm,
                j[None, :, None] * part.u_mm[:, None],
                i[None, :, None] * part.v_mm[:, None],
                self.towards_axis()[views],
            )
        )
        rays = (first[:, None] + along_v)[:, :, None] + along_u[:, None]  # (v, H, W, 3)
        return (rays @ central[:, None, :, None])[..., 0] / torch.linalg.norm(rays, dim=-1)

    def in_order(
        self, rays: Tensor, scan: ScanGeometry, beyond: Literal["constant", "replicate"]
    ) -> Tensor:
        """Return values (V, H, W) of all rays of the scan that was prepared in the order of `projections`.

        Args:
            rays: (V, H, W).
            scan: that was prepared, without continued rows.
            beyond: whether columns that a shifted detector was extended by get zeros or the value at its edge.
        """
        upright = nominal_orbit(scan).orientation.upright(rays)
        extra = self.projections.shape[-1] - upright.shape[-1]
        before = extra if extra and sum(self.edges) > 0 else 0
        return torch.nn.functional.pad(upright, (before, extra - before), mode=beyond)

    def towards_axis(self) -> np.ndarray:
        """Return (V, 3) unit vectors at right angles to the axis, from each source to it."""
        outward = self.scan.source_mm - self.orbit.axis_point_mm
        axis = np.asarray(self.orbit.axis_direction)
        outward = outward - (outward @ axis)[:, None] * axis
        return -outward / np.linalg.norm(outward, axis=1, keepdims=True)

    def backprojection_weights(self) -> np.ndarray:
        """Return (V,) what `weighted_backproject` weighs each view with.

        On a flat detector at perpendicular distance D from a source at distance r from the axis, with
        pitch p, FDK's sum has the factor ``r D / p`` over depth^2 (depth along the detector's normal),
        whether the detector faces the axis or not. The filter has taken up the nominal ``D / (p DSO)``
        for all views; what is left is ``r DSO (D / p) / (nominal D / p)``, DSO^2 on a perfect circle.
        For parallel rays it is the nominal over the true pitch across the rays.
        """
        scan, orbit = self.scan, self.orbit
        if scan.beam == "parallel":
            along = (scan.u_mm * scan.direction).sum(axis=1, keepdims=True)
            across = np.linalg.norm(scan.u_mm - along * scan.direction, axis=1)
            return np.sqrt(orbit.pixel_mm[1] / across)
        outward = scan.source_mm - self.orbit.axis_point_mm
        along = outward @ np.asarray(orbit.axis_direction)
        radius = np.sqrt((outward**2).sum(axis=1) - along**2)
        reach = ((scan.detector_mm - scan.source_mm) * scan.normal).sum(axis=1)
        pitch = np.linalg.norm(scan.u_mm, axis=1)
        nominal = orbit.source_to_detector_mm / orbit.pixel_mm[1]
        return np.sqrt(radius * orbit.source_to_axis_mm * (reach / pitch) / nominal)


def prepared(
    projections: Tensor, scan: ScanGeometry, beam: Beam, method: str, extend: bool
) -> CircularScan:
    """Check a scan and bring its projections into the form that is filtered.

    Pixels are turned upright; a detector that is shifted sideways is extended by zeros until it is
    centred, as the ramp filter spreads the weighted rows beyond its near edge and those tails belong
    to the sum; rows of an object that reaches beyond the detector are continued (`continue_rows`).

    Args:
        projections: (V, H, W).
        scan: their geometry.
        beam: what `method` serves.
        method: its name, in messages.
        extend: whether truncated rows are continued.

    Raises:
        ValueError: another beam, views too far from a circle, or another shape.
    """
    if scan.beam != beam:
        raise ValueError(f"{method} was given a {scan.beam} scan; a {beam} scan is expected.")
    expected = (len(scan), *scan.detector_shape)
    if tuple(projections.shape) != expected:
        raise ValueError(
            f"projections have shape {tuple(projections.shape)}; {expected} (V, H, W) is expected."
        )
    nominal = nominal_orbit(scan)
    _refuse_far_from_circle(nominal, method)
    upright = nominal.orientation.upright_scan(scan)
    views = CircularScan(
        nominal.orientation.upright(projections.detach()),
        upright,
        nominal.orbit,
        nominal.residual_pixels < _SAME_PIXELS,
        _shifted_edges(nominal.orbit, upright.detector_shape[1]),
    )
    sides = _continued_sides(nominal.orbit)
    if not extend:
        return _centred(views)
    if len(sides) == 1:
        return _continued(_centred(views), method, sides)
    # Beyond an edge that nothing else measures rows are continued from there, not from zeros.
    return _centred(_continued(views, method, sides))


def near_circle(scan: ScanGeometry) -> bool:
    """Return whether the views are as near to a circle as analytic reconstruction asks for."""
    return nominal_orbit(scan).residual_share <= LARGEST_RESIDUAL


def _refuse_far_from_circle(nominal: NominalOrbit, method: str) -> None:
    """Refuse views that are farther from a circle than analytic reconstruction puts up with.

    Raises:
        ValueError: with the residual.
    """
    if not nominal.residual_share <= LARGEST_RESIDUAL:
        raise ValueError(
            f"{method} was given views whose rays pass {nominal.residual_mm:.3g} mm "
            f"({nominal.residual_pixels:.3g} pixels, {100 * nominal.residual_share:.3g} % of the radius "
            f"of the field of view) from those of the nearest circle, and serves up to "
            f"{100 * LARGEST_RESIDUAL:.0f} %; use sirt, sart or asd_pocs, which take any poses."
        )


def _continued_sides(orbit: Orbit) -> tuple[Side, ...]:
    """Return the edges of an upright detector where rows may have to be continued.

    Beyond the near edge of a shifted one opposite views measure the lines, but not those of the gap in an arc, however
    short it is.
    """
    _, closed = view_steps(orbit.angles_rad, 2 * np.pi)
    return open_sides(orbit) if closed else ("first", "last")


def _shifted_edges(orbit: Orbit, columns: int) -> tuple[float, float] | None:
    """Return the ends of a detector that is shifted sideways; None for a centred one."""
    pitch, shift = orbit.pixel_mm[1], orbit.detector_offset_mm[1]
    half = 0.5 * columns * pitch
    return None if abs(shift) < pitch else (shift - half, shift + half)


def _centred(views: CircularScan) -> CircularScan:
    """Extend a detector that is shifted sideways with columns of zeros, until it is centred."""
    if views.edges is None:
        return views
    pitch, shift = views.orbit.pixel_mm[1], views.orbit.detector_offset_mm[1]
    # Rounding of the fit must not add a column.
    extra = math.ceil(2.0 * abs(shift) / pitch - 1e-6)
    before = extra if shift > 0 else 0
    padded = torch.nn.functional.pad(views.projections, (before, extra - before))
    return _widened(views, padded, before, extra - before)


def _continued(views: CircularScan, method: str, sides: Sequence[Side]) -> CircularScan:
    """Continue the rows of an object that reaches beyond some sides of the detector, and say so."""
    truncation = find_truncation(views.projections, sides)
    if not truncation.share:
        return views
    _LOG.warning(
        "%s: in %.0f %% of the views the object reaches beyond the detector (line integrals at its edge "
        "are up to %.0f %% of the largest); the rows are continued by the shadow of a cylinder",
        method,
        100 * truncation.share,
        100 * truncation.level,
    )
    return _widened(views, *continue_rows(views.projections, truncation))


def _widened(views: CircularScan, wide: Tensor, before: int, after: int) -> CircularScan:
    """Return the views with the projections of a detector that has more columns."""
    scan, orbit = views.scan, views.orbit
    moved = 0.5 * (after - before) * scan.u_mm
    shape = (scan.detector_shape[0], scan.detector_shape[1] + before + after)
    source = scan.source_mm if scan.beam == "cone" else scan.source_mm + moved
    offset_v, offset_u = orbit.detector_offset_mm
    offset_u += 0.5 * (after - before) * orbit.pixel_mm[1]
    return views._replace(
        projections=wide,
        scan=replace(
            scan, detector_shape=shape, detector_mm=scan.detector_mm + moved, source_mm=source
        ),
        orbit=replace(orbit, detector_offset_mm=(offset_v, offset_u)),
    )
