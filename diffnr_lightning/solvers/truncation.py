"""Objects that reach beyond the detector: which views they do it in, and how they go on there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffnr_lightning.geometry import Orbit, ScanGeometry, arc, nominal_orbit

Side = Literal["first", "last"]

# Share of a turn from which on few lines lack their opposite view: scanners leave out some degrees of a turn.
ALL_AROUND = 0.9

# An edge is air below this share of the largest line integrals: scatter and the flat field leave 1 to 3 % in
# measured scans, and a ball that is cut where it is this thin is wrong by less than 1 % in the middle.
AIR_SHARE = 0.05
_LARGEST = 0.999  # quantile that stands for the largest line integrals; a few hot pixels lie above
_SAMPLED = 1 << 20  # line integrals the quantile is taken of
_COLUMNS_APART = 4  # at most, of those that are sampled
_ROWS = 5  # rows and columns over which an edge is averaged, against noise
_COLUMNS = 3
_WORKED_ON = 1 << 22  # values continued at one time


class Truncation(NamedTuple):
    """Hold where the object of a scan reaches beyond the detector.

    Attributes:
        first: (V,) whether the first column of a view is not air.
        last: (V,) whether the last one is not.
        level: the largest edge as a share of the largest line integrals.
    """

    first: Tensor
    last: Tensor
    level: float

    @property
    def share(self) -> float:
        """Share of the views of which an edge is not air."""
        return float((self.first | self.last).double().mean())


def scan_truncation(projections: Tensor, scan: ScanGeometry) -> Truncation:
    """Return where the object reaches beyond the detector, whatever the order of its pixels.

    Args:
        projections: (V, H, W) line integrals.
        scan: their geometry.
    """
    nominal = nominal_orbit(scan)
    upright = nominal.orientation.upright(projections)
    return find_truncation(upright, open_sides(nominal.orbit))


def meets_the_ends(projections: Tensor, scan: ScanGeometry) -> bool:
    """Return whether the first or last row of a cone beam is not air in some view.

    Through these rows rays leave a grid by its ends, above and below, and pass what an object goes on with there. The
    rays of a parallel beam stay at their height.

    Args:
        projections: (V, H, W) line integrals.
        scan: their geometry.
    """
    if scan.beam != "cone":
        return False
    upright = nominal_orbit(scan).orientation.upright(projections)
    return find_truncation(upright.transpose(1, 2)).share > 0


def axial_reach(scan: ScanGeometry, radius_mm: float) -> float:
    """Return how far along the axis from the mean height of the central rays the rays of a scan see an object, in mm.

    Args:
        scan: a cone beam.
        radius_mm: how far the object reaches from the axis.
    """
    nominal = nominal_orbit(scan)
    orbit = nominal.orbit
    offset, pitch = orbit.detector_offset_mm[0], orbit.pixel_mm[0]
    rows = nominal.orientation.upright_scan(scan).detector_shape[0]
    edge = abs(offset) + 0.5 * pitch * rows
    climb = np.abs((scan.source_mm - orbit.axis_point_mm) @ orbit.axis_direction).max()
    return float(climb) + edge * (orbit.source_to_axis_mm + radius_mm) / orbit.source_to_detector_mm


def object_radius(projections: Tensor, scan: ScanGeometry) -> float:
    """Return how far an object reaches from the rotation axis in mm, beyond the detector by its continued rows.

    Args:
        projections: (V, H, W) line integrals.
        scan: their geometry.
    """
    nominal = nominal_orbit(scan)
    orbit = nominal.orbit
    offset, pitch = orbit.detector_offset_mm[1], orbit.pixel_mm[1]
    upright = nominal.orientation.upright(projections)
    columns = upright.shape[-1]
    truncation = find_truncation(upright, open_sides(orbit))
    _, before, after = continue_rows(upright, truncation)
    first = offset - pitch * (0.5 * columns + before)
    last = offset + pitch * (0.5 * columns + after)
    return max(abs(first), abs(last)) / orbit.magnification


def open_sides(orbit: Orbit) -> tuple[Side, ...]:
    """Return the edges of an upright detector that should see air.

    Of a detector that is shifted sideways it is the far one alone where views go all around, or nearly so: the near
    one cuts through the object by design, and opposite views measure what lies beyond it. Over half a turn none does.
    """
    offset = orbit.detector_offset_mm[1]
    if abs(offset) < orbit.pixel_mm[1] or arc(orbit.angles_rad) < ALL_AROUND * 2 * np.pi:
        return ("first", "last")
    return ("last",) if offset > 0 else ("first",)


def find_truncation(projections: Tensor, sides: Sequence[Side] = ("first", "last")) -> Truncation:
    """Return the views of which the outermost columns are not air.

    A column is air where its mean over a few rows stays below `AIR_SHARE` of the largest line integrals of the scan.

    Args:
        projections: (V, H, W) line integrals in the standing order.
        sides: edges that should see air.
    """
    values = projections.detach()
    sampled = values.flatten()[:: _sampling_step(values)]
    largest = float(torch.quantile(sampled.float(), _LARGEST))
    flags, level = {}, 0.0
    for side in ("first", "last"):
        if side in sides and largest > 0:
            edge = _edge(values, side).amax(dim=1) / largest
            flags[side], level = edge > AIR_SHARE, max(level, float(edge.max()))
        else:
            flags[side] = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    return Truncation(flags["first"], flags["last"], level)


def continue_rows(projections: Tensor, truncation: Truncation) -> tuple[Tensor, int, int]:
    """Return the projections with columns added where the object reaches beyond the detector.

    A row of line integrals through a cylinder of radius R is ``p(t) = 2 mu sqrt(R^2 - (t - t0)^2)``, so that p^2 is a
    parabola in t. It is laid through the edge of the detector and fitted to the nearer half of the row by least
    squares, and the row goes on along it until it meets zero. It never rises beyond the edge, and is faded out by
    cos^2 over the second half of one detector width.

    Args:
        projections: (V, H, W) line integrals in the standing order.
        truncation: of `find_truncation`.

    Returns:
        (V, H, before + W + after) and how many columns were added on each side. Views that see air there are continued
        by zeros.

    Source: J. Hsieh et al., "A novel reconstruction algorithm to extend the CT scan field-of-view", Med. Phys. 31
    (2004), 2385: a cylinder of water at each edge. Deviation: there mu is that of water, and R and t0 come from
    value and slope at the edge; here the three come from the row, as the unit of the volume is not known.
    """
    tails = [
        _tails(projections.detach(), getattr(truncation, side), side) for side in ("first", "last")
    ]
    wide = torch.cat([tails[0].flip(-1), projections.detach(), tails[1]], dim=-1)
    return wide, tails[0].shape[-1], tails[1].shape[-1]


def _sampling_step(values: Tensor) -> int:
    """Return the step through flattened projections (V, H, W) that samples them, in columns of every kind.

    Steps that share a large factor with the width would come back to the same few columns, such as those of air.
    """
    step = max(1, values.numel() // _SAMPLED)
    while math.gcd(step, values.shape[-1]) > _COLUMNS_APART:
        step += 1
    return step


def _edge(values: Tensor, side: Side) -> Tensor:
    """Return the edge (V, H) of projections, averaged over a few columns and rows."""
    columns = values[..., :_COLUMNS] if side == "first" else values[..., -_COLUMNS:]
    edge = columns.mean(dim=-1)
    reach = min(_ROWS, values.shape[1]) // 2
    if reach == 0:
        return edge
    padded = F.pad(edge[:, None], (reach, reach), mode="replicate")
    return F.avg_pool1d(padded, 2 * reach + 1, stride=1)[:, 0]


def _tails(values: Tensor, flags: Tensor, side: Side) -> Tensor:
    """Return what follows the edge of each row, outwards: (V, H, K), K the longest that is needed."""
    views, rows, columns = values.shape
    tails = values.new_zeros(views, rows, columns)
    if not flags.any():
        return tails[..., :0]
    chosen = torch.nonzero(flags)[:, 0]
    needed = 0
    for part in chosen.split(max(1, _WORKED_ON // (rows * columns))):
        outwards = values[part] if side == "last" else values[part].flip(-1)
        tail = _parabola_tail(outwards, _edge(values[part], side))
        tails[part] = tail
        used = torch.nonzero((tail > 0).flatten(0, 1).any(dim=0))
        needed = max(needed, int(used[-1]) + 1 if len(used) else 0)
    return tails[..., :needed]


def _parabola_tail(outwards: Tensor, edge: Tensor) -> Tensor:
    """Return (n, H, W) values beyond the last column of rows (n, H, W) whose edges (n, H) are known."""
    columns = outwards.shape[-1]
    like = {"dtype": torch.float64, "device": outwards.device}
    # Distance from the middle of the averaged columns in detector widths, negative inwards.
    anchor = columns - 0.5 * (min(_COLUMNS, columns) + 1)
    half = columns - columns // 2
    inside = (torch.arange(columns // 2, columns, **like) - anchor) / columns
    outside = (torch.arange(columns, 2 * columns, **like) - anchor) / columns
    top = edge.clamp_min(0.0).double().square()[..., None]
    rest = outwards[..., -half:].clamp_min(0.0).double().square() - top
    powers = torch.stack([inside, inside.square()], dim=-1)  # (half, 2)
    slope, bend = (rest @ (powers @ torch.linalg.pinv(powers.T @ powers))).unbind(-1)
    parabola = top + slope[..., None] * outside + bend[..., None] * outside.square()
    # Once at zero it stays there, though a parabola that opens upwards would come back.
    alive = (parabola > 0).long().cumprod(dim=-1)
    tail = parabola.clamp_min(0.0).minimum(top).sqrt() * alive
    fade = torch.cos(torch.pi * (outside - 0.5).clamp(0.0, 0.5)).square()
    return (tail * fade).to(outwards)
