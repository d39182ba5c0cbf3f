"""Measured parallel-beam scans: raw counts, flat and dark fields in, a case out."""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import h5py
import numpy as np
import torch
from scipy import ndimage

from diffnr_lightning.data.cases import Case
from diffnr_lightning.data.simulation import stable_seed
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid

LOGGER = logging.getLogger("diffnr")
# A pixel whose flat field is this far below the detector's median does not see the beam.
DEAD_SHARE = 0.05
# A block of pixels at the border that varies by less than this over pixels and views is air.
AIR_VARIATION = 0.05
# Widths of those blocks, as a share of the detector.
BORDER_SHARE = 0.05
# Two views this far from half a turn apart (in steps of the scan) still mirror each other.
OPPOSITE_STEPS = 1.5
AXIS_PAIRS = 6


@dataclass(frozen=True, eq=False)
class RawScan:
    """Hold what a detector measured in a parallel-beam scan about a vertical axis.

    Attributes:
        counts: (V, H, W); row 0 is the top.
        flat: (H, W) counts without object.
        dark: (H, W) counts without beam.
        angles_rad: (V,).
        name: name of the scan, from the file's name.
        source: the file.
    """

    counts: np.ndarray
    flat: np.ndarray
    dark: np.ndarray
    angles_rad: np.ndarray
    name: str
    source: str

    def __post_init__(self) -> None:
        if self.counts.ndim != 3:
            raise ValueError(
                f"{self.source} holds counts of shape {self.counts.shape}; (views, rows, columns) "
                "is expected."
            )
        for name in ("flat", "dark"):
            if getattr(self, name).shape != self.counts.shape[1:]:
                raise ValueError(
                    f"{self.source} holds a {name} field of shape {getattr(self, name).shape}; "
                    f"{self.counts.shape[1:]} as in the views is expected."
                )
        if self.angles_rad.shape != (len(self.counts),):
            raise ValueError(
                f"{self.source} holds {self.angles_rad.size} angles and {len(self.counts)} views; "
                "they must agree."
            )
        for name in ("counts", "flat", "dark", "angles_rad"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(
                    f"{self.source} holds NaN or infinite {name}; finite ones are expected."
                )


def read_raw(path: str | Path) -> RawScan:
    """Read a raw scan from an NPZ archive or a Data Exchange HDF5 file.

    An NPZ archive holds ``raw`` (V, H, W), ``flat`` and ``dark`` (H, W) or stacks of them, and
    ``angles_deg`` or ``angles_rad``. A Data Exchange file holds ``exchange/data``,
    ``exchange/data_white``, ``exchange/data_dark`` and ``exchange/theta`` in degrees. Stacks of
    fields are averaged.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another type, a damaged file, a missing entry or shapes that disagree.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"scan {path} does not exist; check the path.")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        arrays = _read_npz(path)
    elif suffix in (".h5", ".hdf5"):
        arrays = _read_exchange(path)
    else:
        raise ValueError(f"scan {path} has the type {suffix!r}; .npz, .h5 or .hdf5 is expected.")
    counts, flat, dark, angles = (np.asarray(array, dtype=np.float64) for array in arrays)
    flat, dark = (field.mean(axis=0) if field.ndim == 3 else field for field in (flat, dark))
    return RawScan(counts, flat, dark, angles.ravel(), path.stem, str(path))


def line_integrals(raw: RawScan) -> np.ndarray:
    """Return -log of the transmission, (V, H, W) float64, dimensionless.

    Pixels that do not see the beam take the value of their nearest neighbour. Where a border of
    the images is free of the object, each view is scaled so that its transmission there is one:
    beams drift between the flat field and the views.

    Raises:
        ValueError: the flat field is nowhere brighter than the dark field.
    """
    beam = raw.flat - raw.dark
    median = float(np.median(beam))
    if not median > 0:
        raise ValueError(
            f"{raw.source}: the flat field is no brighter than the dark field; were they exchanged?"
        )
    dead = beam < DEAD_SHARE * median
    nearest = ndimage.distance_transform_edt(dead, return_distances=False, return_indices=True)
    signal = raw.counts - raw.dark
    # Less than one count of light cannot be told from none.
    transmission = np.maximum(signal, 1.0) / np.where(dead, 1.0, beam)
    transmission = transmission[:, nearest[0], nearest[1]]
    air = _air_block(transmission)
    if air is not None:
        level = transmission[:, air[0], air[1]].mean(axis=(1, 2))
        LOGGER.info("%s: transmission of air is %.3f, scaled to 1", raw.name, level.mean())
        transmission = transmission / level[:, None, None]
    return -np.log(transmission)


def find_axis(projections: np.ndarray, angles_rad: np.ndarray) -> float:
    """Return the detector column of the rotation axis, from views about half a turn apart.

    Views exactly half a turn apart are mirror images about the axis. Each pair near to that gives
    the column of its best mirror; a line through these columns, over what the pair lacks to half a
    turn, gives the column where nothing lacks.

    Args:
        projections: (V, H, W) line integrals.
        angles_rad: (V,).

    Raises:
        ValueError: no two views are nearly half a turn apart.
    """
    pairs, misses = _opposite_pairs(angles_rad)
    if not pairs:
        raise ValueError(
            "no two views are half a turn apart, so the rotation axis cannot be found; say "
            "axis_column=..."
        )
    columns = [_mirror_column(projections[a], projections[b]) for a, b in pairs]
    if np.ptp(misses) < 1e-6:
        return float(np.mean(columns))
    return float(np.polyval(np.polyfit(misses, columns, 1), 0.0))


def measured_case(
    path: str | Path,
    *,
    every: int = 4,
    size: int | None = None,
    axis_column: float | None = None,
    pixel_mm: float | None = None,
    clockwise: bool = False,
    name: str | None = None,
) -> Case:
    """Turn a measured parallel-beam scan into a case.

    The reconstructed square is the one around the circle that every view sees, with the detector's
    rows as its height.

    Args:
        path: see `read_raw`.
        every: every how many views one is used; the others are kept for evaluation.
        size: voxels along x and y; None makes voxels as large as pixels.
        axis_column: detector column of the rotation axis, counted from 0 at the centre of the
            first; None finds it from views half a turn apart.
        pixel_mm: edge of a pixel; None where unknown: 1, and the unit is arbitrary.
        clockwise: whether the angles run clockwise seen from above; a wrong sense gives a mirror
            image of the object.
        name: name of the case; None takes the file's.

    Returns:
        The case, without ground truth.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that is no scan, or arguments that make no case of it.
    """
    if every < 1:
        raise ValueError(f"every is {every}; one or more is expected.")
    if size is not None and size < 8:
        raise ValueError(f"size is {size}; at least 8 voxels a side are expected.")
    if pixel_mm is not None and not 0 < pixel_mm < np.inf:
        raise ValueError(f"pixel_mm is {pixel_mm}; a positive length is expected.")
    raw = read_raw(path)
    projections = line_integrals(raw)
    views, rows, columns = projections.shape
    found = axis_column is None
    if found:
        axis_column = find_axis(projections, raw.angles_rad)
        LOGGER.info("%s: rotation axis found at column %.2f", raw.name, axis_column)
    if not 0 <= axis_column <= columns - 1:
        raise ValueError(
            f"axis_column is {axis_column}; a column of the detector, 0 to {columns - 1}, is "
            "expected."
        )
    train = np.arange(0, views, every)
    if len(train) < 2:
        raise ValueError(
            f"every is {every}, which leaves {len(train)} of {views} views; at least two are "
            "expected."
        )
    pitch = pixel_mm or 1.0
    middle = 0.5 * (columns - 1)
    scan = ScanGeometry.parallel(
        angles_rad=-raw.angles_rad if clockwise else raw.angles_rad,
        detector_shape=(rows, columns),
        pixel_mm=pitch,
        detector_offset_mm=(0.0, (middle - axis_column) * pitch),
    )
    radius = (min(axis_column, columns - 1 - axis_column) + 0.5) * pitch
    across = size or int(2 * radius / pitch)
    voxel = 2 * radius / across if size else pitch
    grid = VolumeGrid((max(1, round(rows * pitch / voxel)), across, across), voxel)
    data = torch.from_numpy(projections.astype(np.float32))
    test = np.setdiff1d(np.arange(views), train)
    name = name or raw.name
    return Case(
        name=name,
        scan=scan[train],
        projections=data[train],
        grid=grid,
        test_scan=scan[test] if len(test) else None,
        test_projections=data[test] if len(test) else None,
        unit="arbitrary" if pixel_mm is None else "1/mm",
        seed=stable_seed(name, len(train)),
        source=raw.source,
        provenance={
            "kind": "measured",
            "every": every,
            "axis_column": float(axis_column),
            "axis_found": found,
            "clockwise": clockwise,
            "views": {"arc_deg": float(np.rad2deg(np.ptp(raw.angles_rad)))},
        },
    )


def _read_npz(path: Path) -> tuple[np.ndarray, ...]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"scan {path} cannot be read as an NPZ archive: it is damaged.") from error
    angles = arrays.get("angles_rad")
    if angles is None and "angles_deg" in arrays:
        angles = np.deg2rad(arrays["angles_deg"])
    for key, value in (("raw", arrays.get("raw")), ("angles_deg", angles)):
        if value is None:
            raise ValueError(f"scan {path} lacks {key!r}; raw, flat, dark and angles are expected.")
    for key in ("flat", "dark"):
        if key not in arrays:
            raise ValueError(f"scan {path} lacks {key!r}; raw, flat, dark and angles are expected.")
    return arrays["raw"], arrays["flat"], arrays["dark"], angles


def _read_exchange(path: Path) -> tuple[np.ndarray, ...]:
    keys = ("data", "data_white", "data_dark", "theta")
    try:
        with h5py.File(path, "r") as file:
            exchange = file.get("exchange", {})
            missing = [key for key in keys if key not in exchange]
            arrays = [exchange[key][:] for key in keys if key in exchange]
    except OSError as error:
        raise ValueError(f"scan {path} cannot be read as HDF5: it is damaged.") from error
    if missing:
        raise ValueError(
            f"scan {path} lacks 'exchange/{missing[0]}'; a Data Exchange file with "
            f"{', '.join(keys)} is expected."
        )
    return *arrays[:3], np.deg2rad(arrays[3])


def _air_block(transmission: np.ndarray) -> tuple[slice, slice] | None:
    """Return rows and columns of the brightest border that is flat in every view, or None."""
    _, rows, columns = transmission.shape
    high, wide = (max(1, round(BORDER_SHARE * n)) for n in (rows, columns))
    every = slice(None)
    blocks = [(every, slice(0, wide)), (every, slice(columns - wide, columns))]
    # A detector of few rows has no top that could be free of the object.
    if rows >= 1 / BORDER_SHARE:
        blocks += [(slice(0, high), every), (slice(rows - high, rows), every)]
    levels = [float(transmission[:, r, c].mean()) for r, c in blocks]
    brightest = blocks[int(np.argmax(levels))]
    block = transmission[:, brightest[0], brightest[1]]
    # Over views the beam may drift; over the pixels of one view, air is even.
    variation = float((block.std(axis=(1, 2)) / block.mean(axis=(1, 2))).max())
    return brightest if variation < AIR_VARIATION else None


def _opposite_pairs(angles_rad: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the pairs of views nearest to half a turn apart and what they miss of it, signed."""
    first, second = np.triu_indices(len(angles_rad), 1)
    turned = np.mod(angles_rad[second] - angles_rad[first], 2 * np.pi) - np.pi
    nearest = np.argsort(np.abs(turned), kind="stable")[:AXIS_PAIRS]
    step = np.median(np.abs(np.diff(angles_rad)))
    if np.abs(turned[nearest[0]]) > OPPOSITE_STEPS * step:
        return [], turned[:0]
    # Pairs of more steps than these mirror each other too badly to help.
    nearest = nearest[np.abs(turned[nearest]) <= (OPPOSITE_STEPS + 2) * step]
    return [(int(first[n]), int(second[n])) for n in nearest], turned[nearest]


def _mirror_column(view: np.ndarray, opposite: np.ndarray) -> float:
    """Return the column about which `opposite` is best the mirror image of `view`, both (H, W)."""
    width = view.shape[1]
    mirrored = opposite[:, ::-1]
    shifts = np.arange(-(width // 2), width // 2 + 1)
    scores = np.empty(len(shifts))
    for index, shift in enumerate(shifts):
        # Column j of the one meets column j - shift of the other, mirrored.
        a = view[:, max(shift, 0) : width + min(shift, 0)].ravel()
        b = mirrored[:, max(-shift, 0) : width - max(shift, 0)].ravel()
        scores[index] = np.corrcoef(a, b)[0, 1] if a.std() > 0 and b.std() > 0 else -1.0
    best = int(scores.argmax())
    shift = float(shifts[best])
    if 0 < best < len(shifts) - 1:
        # The top of the parabola through the best score and its neighbours.
        before, here, after = scores[best - 1 : best + 2]
        shift += 0.5 * (before - after) / (before - 2 * here + after)
    return 0.5 * (width - 1 + shift)
