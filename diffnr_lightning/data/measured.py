"""Measured scans: raw counts, flat and dark fields in, a case out."""

from __future__ import annotations

import logging
from dataclasses import replace
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
from diffnr_lightning.data.measured_grid import grid_of
from diffnr_lightning.data.measured_scanner import MeasuredScanner
from diffnr_lightning.data.plausibility import check_line_integrals
from diffnr_lightning.data.readers.measured_files import holds_its_fields, read_raw
from diffnr_lightning.data.readers.raw_scan import RawScan
from diffnr_lightning.data.readers.readout import Readout
from diffnr_lightning.data.simulation import stable_seed
from diffnr_lightning.geometry import ScanGeometry, arc, nominal_orbit
from diffnr_lightning.photons import PhotonCounts

LOGGER = logging.getLogger("diffnr")
# Views whose sources, seen from the object, are nearer to each other than this see the same; steps of scans are a tenth
# of a degree or more.
SAME_ANGLE_RAD = 1e-4


def measured_case(
    path: str | Path,
    *,
    scanner: MeasuredScanner = MeasuredScanner(),
    flat: float | Path | None = None,
    dark: float | Path | None = None,
    line_integrals: bool = False,
    readout: Readout = Readout(),
    every: int = 4,
    held_out: int | None = None,
    size: int | None = None,
    air_border: AirBorder = "auto",
    name: str | None = None,
) -> Case:
    """Turn a measured scan into a case.

    Args:
        path: see `read_raw`, as for the next three.
        scanner: beam, detector and angles.
        flat: counts without object.
        dark: counts without beam.
        line_integrals: whether the images are -log of the transmission already.
        readout: how the images are turned and binned.
        every: every how many views one is used; the others are kept for evaluation.
        held_out: how many of the others are kept, evenly spread; None keeps all.
        size: voxels along x and y, see `grid_of`.
        air_border: which border of the images is free of the object, see `flat_fielded`.
        name: name of the case; None takes the file's.

    Returns:
        The case, without ground truth.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that is no scan, or arguments that make no case of it.
    """
    _check_numbers(every, held_out, size)
    scanner, white = scanner.completed()
    if white is not None and flat is None and not line_integrals and not holds_its_fields(path):
        flat, dark = white, 0.0 if dark is None else dark
    fields = {"flat": flat, "dark": dark, "line_integrals": line_integrals}
    raw = read_raw(path, scanner.angle_unit, **fields, readout=readout)
    poses = scanner.poses_of(raw)
    if poses is None:
        raw = replace(raw, angles_rad=scanner.angles_of(raw))
    lit = lit_views(raw)
    raw = raw.of_views(lit)
    fielded = flat_fielded(raw, air_border)
    check_line_integrals(fielded.line_integrals, raw.source)
    if poses is None:
        scan, column = scanner.circular(raw, fielded.line_integrals)
        of_axis = {"axis_column": float(column), "axis_found": scanner.axis_column is None}
    else:
        scan = poses[lit].binned(raw.binning, raw.binning)
        of_axis = {"geometry": str(scanner.geometry)}
    train, test = _shared_out(scan, every)
    test = test if held_out is None else _spread(test, held_out)
    data = torch.from_numpy(fielded.line_integrals)
    gain = _photons_per_count(raw, fielded)
    name = name or raw.name
    return Case(
        name=name,
        scan=scan[train],
        projections=data[train],
        grid=grid_of(scan, name, size),
        test_scan=scan[test] if len(test) else None,
        test_projections=data[test] if len(test) else None,
        photons=_photons(fielded, gain, train),
        test_photons=_photons(fielded, gain, test) if len(test) else None,
        unit="arbitrary" if poses is None and scanner.pitch_of(raw) is None else "1/mm",
        seed=stable_seed(name, len(train)),
        source=raw.source,
        provenance={
            "kind": "measured",
            "every": every,
            **of_axis,
            "clockwise": scanner.clockwise,
            "air_border": air_border,
            "views": {"arc_deg": _arc_deg(raw, scan)},
        }
        | ({"binning": raw.binning} if raw.binning > 1 else {}),
    )


def _check_numbers(every: int, held_out: int | None, size: int | None) -> None:
    if every < 1:
        raise ValueError(f"every is {every}; one or more is expected.")
    if held_out is not None and held_out < 0:
        raise ValueError(f"held_out is {held_out}; null or a number of at least 0 is expected.")
    if size is not None and size < 8:
        raise ValueError(f"size is {size}; at least 8 voxels a side are expected.")


def _arc_deg(raw: RawScan, scan: ScanGeometry) -> float:
    """Return from where to where the views go, in degrees."""
    if raw.angles_rad is not None:
        return float(np.rad2deg(np.ptp(raw.angles_rad)))
    return float(np.rad2deg(arc(nominal_orbit(scan).orbit.angles_rad)))


def _shared_out(scan: ScanGeometry, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which views are used, and which are kept for evaluation.

    A view from where one is used, or opposite to it with parallel rays, whose mirror image it is, would tell nothing
    new.
    """
    views = len(scan)
    train = np.arange(0, views, every)
    if len(train) < 2:
        raise ValueError(
            f"every is {every}, which leaves {len(train)} of {views} views; at least two are "
            "expected."
        )
    test = np.setdiff1d(np.arange(views), train)
    if not len(test):
        return train, test
    if scan.beam == "parallel":
        places = scan.direction
    else:
        # Sources of a helix see the object from other heights, too.
        ways = np.linalg.norm(scan.detector_mm - scan.source_mm, axis=1)
        places = scan.source_mm / ways.mean()
    apart = np.linalg.norm(places[test, None] - places[train], axis=2).min(axis=1)
    if scan.beam == "parallel":
        opposite = np.linalg.norm(places[test, None] + places[train], axis=2).min(axis=1)
        apart = np.minimum(apart, opposite)
    return train, test[apart > SAME_ANGLE_RAD]


def _spread(views: np.ndarray, count: int) -> np.ndarray:
    """Return so many of the views, evenly spread; all where there are no more."""
    if count >= len(views):
        return views
    return views[((np.arange(count) + 0.5) * len(views) / max(count, 1)).astype(int)]


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
