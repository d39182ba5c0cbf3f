"""Measured parallel-beam scans: raw counts, flat and dark fields in, a case out."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from diffnr_lightning.data.cases import Case
from diffnr_lightning.data.flat_field import (
    AirBorder,
    FlatFielded,
    flat_fielded,
    lit_views,
    photons_per_count,
)
from diffnr_lightning.data.plausibility import check_line_integrals
from diffnr_lightning.data.readers import data_exchange, npz_scan
from diffnr_lightning.data.readers.raw_scan import AngleUnit, RawScan
from diffnr_lightning.data.rotation_axis import find_axis
from diffnr_lightning.data.simulation import stable_seed
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, view_steps
from diffnr_lightning.photons import PhotonCounts

LOGGER = logging.getLogger("diffnr")
# Views nearer to each other than this see the same; steps of scans are a tenth of a degree or more.
SAME_ANGLE_RAD = 1e-4
READERS = {
    **dict.fromkeys(npz_scan.SUFFIXES, npz_scan.read_npz),
    **dict.fromkeys(data_exchange.SUFFIXES, data_exchange.read_data_exchange),
}
# A field of view narrower than this share of the detector is worth a word.
NARROW_SHARE = 0.5


def read_raw(path: str | Path, angle_unit: AngleUnit = "file") -> RawScan:
    """Read a raw scan from an NPZ archive or a Data Exchange HDF5 file.

    Args:
        path: see `npz_scan.read_npz` and `data_exchange.read_data_exchange`.
        angle_unit: of the angles; ``"file"`` takes what the file says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another type, a damaged file, a missing entry or shapes that disagree.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"scan {path} does not exist; check the path.")
    reader = READERS.get(path.suffix.lower())
    if reader is None or path.is_dir():
        kind = "is a folder" if path.is_dir() else f"has the type {path.suffix!r}"
        raise ValueError(f"scan {path} {kind}; a file {', '.join(READERS)} is expected.")
    return reader(path, angle_unit)


def measured_case(
    path: str | Path,
    *,
    every: int = 4,
    size: int | None = None,
    axis_column: float | None = None,
    pixel_mm: float | None = None,
    clockwise: bool = False,
    angle_unit: AngleUnit = "file",
    air_border: AirBorder = "auto",
    name: str | None = None,
) -> Case:
    """Turn a measured parallel-beam scan into a case.

    The reconstructed square is the one around the circle that the views see, with the detector's
    rows as its height. Over half a turn that circle reaches to the nearer end of the detector;
    over a whole one to the farther end, since opposite views see the other side.

    Args:
        path: see `read_raw`.
        every: every how many views one is used; the others are kept for evaluation.
        size: voxels along x and y; None makes voxels as large as pixels.
        axis_column: detector column of the rotation axis, counted from 0 at the centre of the
            first; None finds it from views half a turn apart.
        pixel_mm: edge of a pixel; None where unknown: 1, and the unit is arbitrary.
        clockwise: whether the angles run clockwise seen from above; a wrong sense gives a mirror
            image of the object.
        angle_unit: of the angles; ``"file"`` takes what the file says.
        air_border: which border of the images is free of the object, see `flat_fielded`.
        name: name of the case; None takes the file's.

    Returns:
        The case, without ground truth.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that is no scan, or arguments that make no case of it.
    """
    _check_numbers(every, size, pixel_mm)
    raw = lit_views(read_raw(path, angle_unit))
    fielded = flat_fielded(raw, air_border)
    check_line_integrals(fielded.line_integrals, raw.source)
    column = _axis(raw, fielded.line_integrals, axis_column)
    train, test = _shared_out(raw.angles_rad, every)
    pitch = pixel_mm or 1.0
    scan = _scan(raw, column, pitch, clockwise)
    data = torch.from_numpy(fielded.line_integrals)
    gain = _photons_per_count(raw, fielded)
    name = name or raw.name
    return Case(
        name=name,
        scan=scan[train],
        projections=data[train],
        grid=_grid(raw, column, pitch, size),
        test_scan=scan[test] if len(test) else None,
        test_projections=data[test] if len(test) else None,
        photons=_photons(fielded, gain, train),
        test_photons=_photons(fielded, gain, test) if len(test) else None,
        unit="arbitrary" if pixel_mm is None else "1/mm",
        seed=stable_seed(name, len(train)),
        source=raw.source,
        provenance={
            "kind": "measured",
            "every": every,
            "axis_column": float(column),
            "axis_found": axis_column is None,
            "clockwise": clockwise,
            "air_border": air_border,
            "views": {"arc_deg": float(np.rad2deg(np.ptp(raw.angles_rad)))},
        },
    )


def _check_numbers(every: int, size: int | None, pixel_mm: float | None) -> None:
    if every < 1:
        raise ValueError(f"every is {every}; one or more is expected.")
    if size is not None and size < 8:
        raise ValueError(f"size is {size}; at least 8 voxels a side are expected.")
    if pixel_mm is not None and not 0 < pixel_mm < np.inf:
        raise ValueError(f"pixel_mm is {pixel_mm}; a positive length is expected.")


def _axis(raw: RawScan, projections: np.ndarray, given: float | None) -> float:
    """Return the column of the rotation axis, as it was given or else found."""
    column = _found_axis(raw, projections) if given is None else given
    last = projections.shape[2] - 1
    if not 0 <= column <= last:
        raise ValueError(
            f"axis_column is {column}; a column of the detector, 0 to {last}, is expected."
        )
    return column


def _found_axis(raw: RawScan, projections: np.ndarray) -> float:
    try:
        column = find_axis(projections, raw.angles_rad)
    except ValueError as error:
        raise ValueError(f"{raw.source}: {error}") from error
    LOGGER.info("%s: rotation axis found at column %.2f", raw.name, column)
    return column


def _shared_out(angles_rad: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which views are used, and which are kept for evaluation.

    A view at the angle of one that is used, or half a turn from it, whose mirror image it is, would tell nothing new.
    """
    views = len(angles_rad)
    train = np.arange(0, views, every)
    if len(train) < 2:
        raise ValueError(
            f"every is {every}, which leaves {len(train)} of {views} views; at least two are "
            "expected."
        )
    test = np.setdiff1d(np.arange(views), train)
    apart = (angles_rad[test, None] - angles_rad[train] + 0.5 * np.pi) % np.pi - 0.5 * np.pi
    return train, test[np.abs(apart).min(axis=1) > SAME_ANGLE_RAD]


def _scan(raw: RawScan, axis_column: float, pitch: float, clockwise: bool) -> ScanGeometry:
    """Return the geometry of all views, with the rotation axis at x = y = 0."""
    _, rows, columns = raw.counts.shape
    return ScanGeometry.parallel(
        angles_rad=-raw.angles_rad if clockwise else raw.angles_rad,
        detector_shape=(rows, columns),
        pixel_mm=pitch,
        detector_offset_mm=(0.0, (0.5 * (columns - 1) - axis_column) * pitch),
    )


def _photons_per_count(raw: RawScan, fielded: FlatFielded) -> float:
    gain = photons_per_count(fielded)
    if gain > 0:
        air = np.median(fielded.level) * np.median(fielded.beam)
        LOGGER.info(
            "%s: the noise is that of %.3g photons a pixel and view without object",
            raw.name, gain * float(air),
        )  # fmt: skip
    return gain


def _photons(fielded: FlatFielded, gain: float, views: np.ndarray) -> PhotonCounts | None:
    """Return the photons behind some views; None for counts that show no noise."""
    if gain == 0:
        return None
    counts = torch.from_numpy(fielded.signal[views]).mul_(gain)
    air = np.empty(counts.shape, np.float32)
    np.multiply(gain * fielded.beam, fielded.level[views], out=air, casting="same_kind")
    return PhotonCounts(counts, torch.from_numpy(air))


def _grid(raw: RawScan, axis_column: float, pitch: float, size: int | None) -> VolumeGrid:
    """Return the grid around the circle of which every line is measured at least once."""
    _, rows, columns = raw.counts.shape
    sides = (axis_column + 0.5, columns - 0.5 - axis_column)
    _, all_around = view_steps(raw.angles_rad, 2 * np.pi)
    reach = max(sides) if all_around else min(sides)
    if 2 * reach < NARROW_SHARE * columns:
        LOGGER.warning(
            "%s: the rotation axis lies at column %.1f of %d and the views do not go all around, "
            "so only a circle %.0f columns wide is reconstructed; what lies outside disturbs it",
            raw.name, axis_column, columns, 2 * reach,
        )  # fmt: skip
    across = size or int(2 * reach)
    voxel = 2 * reach * pitch / across if size else pitch
    return VolumeGrid((max(1, round(rows * pitch / voxel)), across, across), voxel)
