"""The object of a simulated scan on fine voxels, and its exact projections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from diffnr_lightning.data.field_of_view import NothingToScanError
from diffnr_lightning.data.resampling import resample
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project

# Normalised attenuation below this is air: it does not stop a scan.
OBJECT_FLOOR = 0.02
# 0.5 GB of float32, and as much again in the projector: a larger object is projected in slabs.
MOST_FINE_VOXELS = 512**3
NO_RAY = "no ray meets the object; check the scanner's lengths and their unit."


class NoClearanceError(ValueError):
    """Source or detector would run into the object."""


def fine_grid(
    attenuation: np.ndarray,
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
    grid: VolumeGrid,
    scan: ScanGeometry,
    oversampling: int,
    attenuate_outside: bool,
) -> VolumeGrid:
    """Return the voxels on which an object is simulated, in the frame of the scan.

    Args:
        attenuation: (Z, Y, X) of the whole object; zero is empty.
        spacing_mm: its voxel edges (z, y, x).
        centre_mm: centre of the scan's frame relative to the object's, (z, y, x).
        grid: the voxels to be reconstructed.
        scan: what is seen of the object bounds its height.
        oversampling: how much finer than those the voxels are.
        attenuate_outside: whether the object goes on outside `grid`.

    Raises:
        NoClearanceError: the source or the detector would run into the object.
        NothingToScanError: the object lies above or below all rays.
    """
    low, high = (np.asarray(corner)[::-1] for corner in grid.corners_mm)
    if attenuate_outside:
        first, last = _occupied_box(attenuation)
        half = 0.5 * np.asarray(attenuation.shape)
        low = (first - half) * spacing_mm - centre_mm
        high = (last - half) * spacing_mm - centre_mm
        _check_clearance(attenuation, spacing_mm, centre_mm, scan)
        reach = _visible_height(scan, np.hypot(*np.maximum(abs(low), abs(high))[1:]))
        low[0], high[0] = max(low[0], -reach), min(high[0], reach)
        if low[0] >= high[0]:
            raise NothingToScanError(NO_RAY)
    voxel = max(grid.voxel_mm) / oversampling
    shape = tuple(int(n) for n in np.ceil((high - low) / voxel - 1e-6))
    return VolumeGrid(shape, voxel, tuple((0.5 * (low + high))[::-1].tolist()))


def fine_projections(
    density: np.ndarray,
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
    grid: VolumeGrid,
    scans: Sequence[ScanGeometry],
    oversampling: int,
) -> list[np.ndarray]:
    """Return noise-free line integrals of an object on pixels finer than the detector's.

    A large object is resampled and projected slab by slab along z, so that the memory for it is
    bounded; projection is linear, and the sum over slabs is the projection of the whole.

    Args:
        density: (Z, Y, X); zero is empty.
        spacing_mm: its voxel edges (z, y, x).
        centre_mm: centre of the scans' frame relative to the object's, (z, y, x).
        grid: fine voxels, from `fine_grid`.
        scans: what it is projected onto.
        oversampling: pixels of each edge of the detector's pixels.

    Returns:
        For each scan (V, H * oversampling, W * oversampling) float32, in the density's unit x mm.
    """
    dense = [_finer(scan, oversampling) for scan in scans]
    totals: list[np.ndarray] = []
    for slab in _slabs(grid):
        offset = tuple((np.asarray(slab.centre_mm)[::-1] + centre_mm).tolist())
        part = torch.from_numpy(resample(density, spacing_mm, slab.shape, slab.voxel_mm, offset))
        with torch.no_grad():
            parts = [project(part, slab, scan).numpy() for scan in dense]
        if not totals:
            totals = parts
            continue
        for total, more in zip(totals, parts, strict=True):
            total += more
    return totals


def binned(projections: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels, (V, H * factor, W * factor) -> (V, H, W) float32."""
    return _blocks(projections, factor).mean(axis=(2, 4), dtype=np.float64).astype(np.float32)


def binned_intensity(line_integrals: np.ndarray, factor: int) -> np.ndarray:
    """Average the intensities behind blocks of pixels, and return their line integrals.

    A pixel collects photons, so what it averages is their number and not its logarithm.

    Args:
        line_integrals: (V, H * factor, W * factor), dimensionless.
        factor: pixels of each edge of a block.

    Returns:
        (V, H, W) float64; infinite where no intensity is left.
    """
    views, rows, columns = line_integrals.shape
    seen = np.empty((views, rows // factor, columns // factor))
    for view in range(views):  # one at a time, since the exponentials are double precision
        intensity = np.exp(-_blocks(line_integrals[view : view + 1], factor).astype(np.float64))
        seen[view] = intensity.mean(axis=(2, 4))[0]
    with np.errstate(divide="ignore"):
        return -np.log(seen)


def _slabs(grid: VolumeGrid) -> Iterator[VolumeGrid]:
    """Cut a grid along z into pieces of at most `MOST_FINE_VOXELS`, of one plane at least."""
    planes, rows, columns = grid.shape
    at_once = max(1, MOST_FINE_VOXELS // (rows * columns))
    if planes <= at_once:
        yield grid
        return
    x, y, z = grid.centre_mm
    for first in range(0, planes, at_once):
        count = min(at_once, planes - first)
        middle = z + (first + 0.5 * count - 0.5 * planes) * grid.voxel_mm[0]
        yield VolumeGrid((count, rows, columns), grid.voxel_mm, (x, y, middle))


def _finer(scan: ScanGeometry, factor: int) -> ScanGeometry:
    rows, columns = scan.detector_shape
    return ScanGeometry(
        scan.beam,
        (rows * factor, columns * factor),
        scan.source_mm,
        scan.detector_mm,
        scan.u_mm / factor,
        scan.v_mm / factor,
    )


def _blocks(projections: np.ndarray, factor: int) -> np.ndarray:
    views, rows, columns = projections.shape
    return projections.reshape(views, rows // factor, factor, columns // factor, factor)


def _occupied_box(attenuation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and one-past-last voxel (z, y, x) of everything that attenuates."""
    others = ((1, 2), (0, 2), (0, 1))
    occupied = [np.flatnonzero(attenuation.max(axis=axes) > 0) for axes in others]
    return np.array([o[0] for o in occupied]), np.array([o[-1] + 1 for o in occupied])


def _visible_height(scan: ScanGeometry, radius_mm: float) -> float:
    """Return the largest |z| that any ray reaches within `radius_mm` of the axis."""
    half = 0.5 * scan.detector_shape[0] * float(np.linalg.norm(scan.v_mm[0]))
    orbit = scan.orbit
    if orbit.source_to_axis_mm is None:
        return half
    return half * min(1.0, (orbit.source_to_axis_mm + radius_mm) / orbit.source_to_detector_mm)


def _check_clearance(
    attenuation: np.ndarray,
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
    scan: ScanGeometry,
) -> None:
    """Refuse an orbit on which source or detector would run into the object."""
    orbit = scan.orbit
    if orbit.source_to_axis_mm is None:
        return
    _, rows, columns = attenuation.shape
    y, x = np.nonzero(attenuation.max(axis=0) > OBJECT_FLOOR)
    position_y = (y - 0.5 * (rows - 1)) * spacing_mm[1] - centre_mm[1]
    position_x = (x - 0.5 * (columns - 1)) * spacing_mm[2] - centre_mm[2]
    reach = float(np.hypot(position_y, position_x).max(initial=0.0))
    to_detector = orbit.source_to_detector_mm - orbit.source_to_axis_mm
    for part, distance in (("source", orbit.source_to_axis_mm), ("detector", to_detector)):
        if reach >= distance:
            raise NoClearanceError(
                f"the {part} turns at {distance:.0f} mm from the axis, but the object reaches "
                f"{reach:.0f} mm; enlarge the scanner or voxel_mm, or set attenuate_outside=false."
            )
