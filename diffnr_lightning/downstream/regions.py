"""Regions in a reconstruction against the same ones in the true volume: means, noise, contrast and profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, uniform_filter

Mask = NDArray[np.bool_]
Volume = NDArray[np.float32]
Point = tuple[float, float, float]

FLAT_SHARE = 0.05
"""Deviation of a flat region, by the range of the volume; also the least difference between two of them."""
ALIKE_SHARE = 0.01
"""Deviations that differ by less of the range count as the same."""
RADIUS_SHARE = 20
LEAST_RADIUS = 2
CROP_SHARES = (1, 2, 4, 8, 16)
LEAST_CROP = 4


@dataclass(frozen=True)
class RegionPlan:
    """Say where a volume is looked at.

    Attributes:
        masks: (Z, Y, X), by the names of the regions.
        contrasts: pairs of names.
        lines: start and end (z, y, x) in voxels, by name.
        structure: voxel (z, y, x) in the middle of the crops; None for none.
    """

    masks: Mapping[str, Mask]
    contrasts: tuple[tuple[str, str], ...] = ()
    lines: Mapping[str, tuple[Point, Point]] = field(default_factory=dict)
    structure: tuple[int, int, int] | None = None


class RegionScore(NamedTuple):
    """Compare one region of two volumes, in their unit.

    Attributes:
        voxels: of the region.
        mean: in the reconstruction.
        reference_mean: in the true volume.
        deviation: standard deviation in the reconstruction.
        reference_deviation: in the true volume.
    """

    voxels: int
    mean: float
    reference_mean: float
    deviation: float
    reference_deviation: float


class ContrastScore(NamedTuple):
    """Compare the difference of two regions.

    Attributes:
        contrast: difference of their means in the reconstruction.
        reference: in the true volume.
        recovered_percent: the first by the second.
        to_noise: the first, without its sign, by the root mean square of both deviations; None where there is none.
    """

    contrast: float
    reference: float
    recovered_percent: float
    to_noise: float | None


class Profile(NamedTuple):
    """Hold the values along a line.

    Attributes:
        distance_mm: from its start, (N,).
        values: of the reconstruction, (N,).
        reference: of the true volume, (N,).
    """

    distance_mm: NDArray[np.float64]
    values: NDArray[np.float64]
    reference: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Root mean square difference of the two."""
        return float(np.sqrt(np.mean((self.values - self.reference) ** 2)))


class RegionComparison(NamedTuple):
    """Hold all that a plan asks for.

    Attributes:
        regions: by name.
        contrasts: by "first - second".
        profiles: by name of the line.
        crops: PSNR in dB of boxes around the structure, by their shape "ZxYxX", from the whole volume down.
    """

    regions: Mapping[str, RegionScore]
    contrasts: Mapping[str, ContrastScore]
    profiles: Mapping[str, Profile]
    crops: Mapping[str, float]

    def summary(self) -> dict[str, float]:
        """Return the means over regions, contrasts and profiles that a table shows."""
        found = {
            "error": [abs(r.mean - r.reference_mean) for r in self.regions.values()],
            "deviation": [r.deviation for r in self.regions.values()],
            "contrast_percent": [c.recovered_percent for c in self.contrasts.values()],
            "profile_error": [p.error for p in self.profiles.values()],
        }
        return {name: math.fsum(v) / len(v) for name, v in found.items() if v}


def compare_regions(
    volume: Volume,
    truth: Volume,
    plan: RegionPlan,
    voxel_mm: Point,
    peak: float | None = None,
) -> RegionComparison:
    """Compare a reconstruction with the truth where a plan says.

    Args:
        volume: (Z, Y, X).
        truth: (Z, Y, X) in the same unit.
        plan: of these volumes.
        voxel_mm: edges (z, y, x).
        peak: of the PSNR of crops; None is the range of the truth.

    Raises:
        ValueError: shapes that differ, a region without voxels, or two of a contrast whose means in the truth are one.

    Source: DINR's analysis of regions (means, deviations, profiles, and PSNR of centred crops of falling size). Its
    crops lie in the middle of the slice; ours around the most structured place of the truth, before any result is seen.
    """
    shapes = {volume.shape, truth.shape, *(mask.shape for mask in plan.masks.values())}
    if len(shapes) > 1:
        raise ValueError(
            f"volume, truth and regions have the shapes {', '.join(map(str, sorted(shapes)))}; one (Z, Y, X) is "
            "expected."
        )
    regions = {name: _score(name, volume, truth, mask) for name, mask in plan.masks.items()}
    peak = peak or float(np.ptp(truth)) or 1.0
    return RegionComparison(
        regions,
        {f"{a} - {b}": _contrast(a, b, regions) for a, b in plan.contrasts},
        {name: _profile(volume, truth, *ends, voxel_mm) for name, ends in plan.lines.items()},
        {} if plan.structure is None else _crops(volume, truth, plan.structure, peak),
    )


def flat_plan(truth: Volume, count: int = 3, voxel_mm: Point = (1.0, 1.0, 1.0)) -> RegionPlan:
    """Choose regions by the true volume alone: balls where it is flat, as different in value as there are.

    Of places of one value the flattest is taken, of those the one next to the middle. Neighbours in value are
    contrasts, a line goes from the lowest to the highest, and crops lie around the place of most structure.

    Args:
        truth: (Z, Y, X), z along the axis of rotation.
        count: of regions, at most.
        voxel_mm: edges (z, y, x), by which the cylinder that is seen from all sides is round.

    Raises:
        ValueError: no two flat regions of different values.
    """
    radius = max(LEAST_RADIUS, min(truth.shape) // RADIUS_SHARE)
    means, deviations = _local_statistics(truth, 2 * radius + 1)
    scale = float(np.ptp(truth))
    seen = _inside(truth.shape, radius, voxel_mm)
    step = (slice(None, None, max(1, radius // 2)),) * 3
    places = np.argwhere((seen & (deviations <= FLAT_SHARE * scale))[step]) * step[0].step
    at = tuple(places.T)
    value = means[at]
    middle = (np.array(truth.shape) - 1) / 2
    distance = np.linalg.norm(places - middle, axis=1)
    flatness = np.floor(deviations[at] / (ALIKE_SHARE * scale or 1.0))
    apart = value - value.min(initial=np.inf)
    chosen: list[int] = []
    while len(chosen) < count and apart.max(initial=0.0) > FLAT_SHARE * scale:
        alike = np.flatnonzero(apart >= apart.max() - FLAT_SHARE * scale)
        chosen.append(int(alike[np.lexsort((distance[alike], flatness[alike]))[0]]))
        distances = [np.abs(value - value[n]) for n in chosen]
        apart = np.min(distances, axis=0)
    if len(chosen) < 2:
        raise ValueError(
            "no two flat regions of different values are found in the true volume; name regions in a file."
        )
    chosen.sort(key=lambda n: value[n])
    names = [f"flat {number}" for number in range(1, len(chosen) + 1)]
    masks = {
        name: ball(truth.shape, tuple(places[n]), (radius,) * 3)
        for name, n in zip(names, chosen, strict=True)
    }
    ends = tuple(tuple(map(float, places[n])) for n in (chosen[0], chosen[-1]))
    structure = np.unravel_index(np.argmax(np.where(seen, deviations, -1)), truth.shape)
    return RegionPlan(
        masks,
        tuple(zip(names[1:], names[:-1], strict=True)),
        {f"{names[0]} to {names[-1]}": (ends[0], ends[1])},
        tuple(int(n) for n in structure),
    )


def ball(shape: tuple[int, ...], centre: Point, radii: Point) -> Mask:
    """Return where a grid of a shape (Z, Y, X) is within an ellipsoid; centre and radii (z, y, x) in voxels."""
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    parts = (
        ((grid - c) / max(r, 1e-9)) ** 2 for grid, c, r in zip(grids, centre, radii, strict=True)
    )
    return sum(parts) <= 1


def box(shape: tuple[int, ...], centre: Point, size: Point) -> Mask:
    """Return where a grid of a shape (Z, Y, X) is within a box; centre and edges (z, y, x) in voxels."""
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    first, *others = (
        np.abs(grid - c) <= s / 2 for grid, c, s in zip(grids, centre, size, strict=True)
    )
    return first & others[0] & others[1]


def _score(name: str, volume: Volume, truth: Volume, mask: Mask) -> RegionScore:
    if not mask.any():
        raise ValueError(
            f"region {name!r} has no voxel in the volume; check its place, its size and its unit."
        )
    found, reference = volume[mask].astype(np.float64), truth[mask].astype(np.float64)
    return RegionScore(
        found.size,
        float(found.mean()),
        float(reference.mean()),
        float(found.std()),
        float(reference.std()),
    )


def _contrast(first: str, second: str, regions: Mapping[str, RegionScore]) -> ContrastScore:
    a, b = regions[first], regions[second]
    contrast, reference = a.mean - b.mean, a.reference_mean - b.reference_mean
    if reference == 0:
        raise ValueError(
            f"regions {first!r} and {second!r} have one mean in the true volume; two that differ are expected."
        )
    noise = math.sqrt((a.deviation**2 + b.deviation**2) / 2)
    return ContrastScore(
        contrast,
        reference,
        100 * contrast / reference,
        abs(contrast) / noise if noise else None,
    )


def _profile(volume: Volume, truth: Volume, start: Point, end: Point, voxel_mm: Point) -> Profile:
    """Sample both volumes along a line, at least twice a voxel, between voxels linearly."""
    first, last = np.array(start, float), np.array(end, float)
    steps = 1 + math.ceil(2 * float(np.abs(last - first).max()))
    share = np.linspace(0, 1, max(steps, 2))
    points = first[:, None] + share * (last - first)[:, None]
    length_mm = float(np.linalg.norm((last - first) * np.array(voxel_mm)))
    values, reference = (
        map_coordinates(array, points, np.float64, order=1, mode="nearest")
        for array in (volume, truth)
    )
    return Profile(share * length_mm, values, reference)


def _crops(
    volume: Volume, truth: Volume, structure: tuple[int, int, int], peak: float
) -> dict[str, float]:
    found = {}
    for share in CROP_SHARES:
        edges = [n // share for n in truth.shape]
        if share > 1 and min(edges) < LEAST_CROP:
            break
        starts = [
            min(max(c - e // 2, 0), n - e)
            for c, e, n in zip(structure, edges, truth.shape, strict=True)
        ]
        part = tuple(slice(a, a + e) for a, e in zip(starts, edges, strict=True))
        error = float(np.mean((volume[part].astype(np.float64) - truth[part]) ** 2))
        psnr = 10 * math.log10(peak**2 / error) if error else math.inf
        found["x".join(map(str, edges))] = min(psnr, 100.0)
    return found


def _local_statistics(volume: Volume, edge: int) -> tuple[Volume, Volume]:
    """Return mean and standard deviation of the cube around each voxel."""
    # Around its own mean, squares of large values do not swallow small deviations.
    centred = volume.astype(np.float64) - float(volume.mean())
    means = uniform_filter(centred, edge)
    variance = uniform_filter(centred**2, edge) - means**2
    return means, np.sqrt(np.clip(variance, 0, None))


def _inside(shape: tuple[int, ...], radius: int, voxel_mm: Point) -> Mask:
    """Return where a cube of this radius in voxels lies in the cylinder that a scan sees from all sides."""
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    middle_y, middle_x = (shape[1] - 1) / 2, (shape[2] - 1) / 2
    step_y, step_x = np.divide(voxel_mm[1:], min(voxel_mm[1:]))
    # A cube's corner is further out than its face.
    free = min(step_y * middle_y, step_x * middle_x) - math.hypot(step_y, step_x) * radius
    distance2 = (step_y * (y - middle_y)) ** 2 + (step_x * (x - middle_x)) ** 2
    seen = distance2 <= max(free, 0) ** 2
    return seen & (z >= radius) & (z < shape[0] - radius)
