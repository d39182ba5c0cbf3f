"""Cases written as folders, which appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffnr_lightning.data.case_folder.metadata import META_FILE, refuse_to_replace, simulated_noise
from diffnr_lightning.data.case_folder.photons import write_photons
from diffnr_lightning.data.cases import Case
from diffnr_lightning.files import replacing_folder
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, from_r2_scanner, r2_scanner

# Sources and corners of detectors that the scanner block rebuilds agree to this share of the finest pixel or voxel, to
# which what rounding leaves is small.
GEOMETRY_TOLERANCE = 1e-5
OFFSET_DIGITS = 9


def write_case(case: Case, path: str | Path) -> Path:
    """Write a case folder; it appears whole or not at all.

    A folder that holds a case already is replaced; one that holds anything else, such as runs, is refused.

    Args:
        case: what to write. A scan that is not circular is described by per-view vectors in our
            own keys.
        path: the folder.

    Raises:
        ValueError: see `refuse_to_replace`, or a folder that cannot be written.
    """
    path = Path(path)
    refuse_to_replace(path)
    with replacing_folder(path) as part:
        _write_files(case, part)
    return path


def _write_files(case: Case, folder: Path) -> None:
    """Write projections, photons, truth and `META_FILE` of a case into an empty folder."""
    meta: dict[str, Any] = {"scanner": _scanner_entry(case)}
    if case.volume is not None:
        meta["vol"] = "vol_gt.npy"
        turned = case.volume.detach().cpu().numpy().transpose(2, 1, 0)
        np.save(folder / "vol_gt.npy", np.ascontiguousarray(turned, dtype=np.float32))
    meta["bbox"] = [list(corner) for corner in case.grid.corners_mm]
    scans = [scan for scan in (case.scan, case.test_scan) if scan is not None]
    circular = all(_described_by(meta["scanner"], scan) for scan in scans)
    if not circular:
        # The scanner block counts from the rotation axis, the vectors from the world's origin.
        meta["centre_mm"] = list(case.grid.centre_mm)
    for part, scan, projections, photons in (
        ("train", case.scan, case.projections, case.photons),
        ("test", case.test_scan, case.test_projections, case.test_photons),
    ):
        if scan is None:
            meta[f"proj_{part}"] = []
            continue
        if not circular:
            meta[f"views_{part}"] = _view_vectors(scan)
        meta[f"proj_{part}"] = _write_views(folder, part, scan, projections)
        if photons is not None:
            meta[f"photons_{part}"] = write_photons(folder, part, photons)
    meta.update(
        name=case.name,
        unit=case.unit,
        window_hu=None if case.window_hu is None else list(case.window_hu),
        seed=case.seed,
        source=case.source,
        provenance=case.provenance,
    )
    (folder / META_FILE).write_text(
        json.dumps(meta, indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )


def _write_views(
    folder: Path, part: str, scan: ScanGeometry, projections: Tensor
) -> list[dict[str, Any]]:
    """Write projections (V, H, W) as one NPY file a view; return their entries, file and angle in radians."""
    (folder / f"proj_{part}").mkdir()
    angles = _angles(scan)
    entries = []
    for index, image in enumerate(projections.detach().cpu().numpy()):
        file = f"proj_{part}/{index:04d}.npy"
        np.save(folder / file, np.ascontiguousarray(image, dtype=np.float32))
        entries.append({"file_path": file, "angle": float(angles[index])})
    return entries


def _view_vectors(scan: ScanGeometry) -> dict[str, Any]:
    """Return the vectors (V, 3) of each view in mm, as the meta data hold them of a scan that is no circle."""
    keys = ("source_mm", "detector_mm", "u_mm", "v_mm")
    return {"beam": scan.beam, **{key: getattr(scan, key).tolist() for key in keys}}


def _scanner_entry(case: Case) -> dict[str, Any]:
    """Return the format's scanner block; for a scan that is no circle, nominal numbers."""
    circular = case.scan if case.scan.orbit is not None else None
    noise = simulated_noise(case.provenance)
    views = case.provenance.get("views", {})
    entry = (
        r2_scanner(circular, case.grid)
        if circular is not None
        else _nominal_scanner(case.scan, case.grid)
    )
    for key in ("offOrigin", "offDetector"):
        # They come out of a fit of the orbit; what it leaves of zero is no offset.
        entry[key] = [round(length, OFFSET_DIGITS) + 0.0 for length in entry[key]]
    noisy = noise.get("mode", "none") != "none"
    return {
        **entry,
        "accuracy": 0.5,
        "totalAngle": float(views.get("arc_deg", 360.0)),
        "startAngle": float(np.deg2rad(views.get("start_deg", 0.0))),
        "noise": noisy,
        **(
            {"poisson_noise": noise["photons"], "gaussian_noise": [0, noise["electronic"]]}
            if noisy
            else {}
        ),
        "filter": None,
    }


def _nominal_scanner(scan: ScanGeometry, grid: VolumeGrid) -> dict[str, Any]:
    """Return the numbers of a scanner on a circle that come nearest to a scan that is none: those of its first view."""
    pitch = (float(np.linalg.norm(scan.v_mm[0])), float(np.linalg.norm(scan.u_mm[0])))
    rows, columns = scan.detector_shape
    centre = np.asarray(grid.centre_mm)
    to_detector = float(np.linalg.norm(scan.detector_mm[0] - scan.source_mm[0]))
    return {
        "mode": scan.beam,
        "DSD": to_detector,
        # The end of a long grid may lie farther away than the detector, where no axis can.
        "DSO": min(float(np.linalg.norm(scan.source_mm[0] - centre)), to_detector),
        "nDetector": [rows, columns],
        "sDetector": [rows * pitch[0], columns * pitch[1]],
        "nVoxel": list(grid.shape[::-1]),
        "sVoxel": list(grid.size_mm[::-1]),
        "offOrigin": centre.tolist(),
        "offDetector": [0.0, 0.0],
    }


def _angles(scan: ScanGeometry) -> np.ndarray:
    """Return the angle (V,) of each view about +z, in radians: that of the direction from detector to source."""
    direction = -scan.normal
    return np.mod(np.arctan2(direction[:, 1], direction[:, 0]) + 1e-9, 2 * np.pi) - 1e-9


def _described_by(scanner: Mapping[str, Any], scan: ScanGeometry) -> bool:
    """Whether the scanner block and the angles alone rebuild `scan`."""
    rebuilt, grid = from_r2_scanner(scanner, _angles(scan))
    if rebuilt.beam != scan.beam:
        return False
    rows, columns = scan.detector_shape
    moved = [
        rebuilt.detector_mm - scan.detector_mm,
        0.5 * rows * (rebuilt.v_mm - scan.v_mm),
        0.5 * columns * (rebuilt.u_mm - scan.u_mm),
    ]
    if scan.beam == "cone":
        moved.append(rebuilt.source_mm - scan.source_mm)
    else:
        # How far along its rays a parallel detector stands means nothing.
        across = np.eye(3) - scan.direction[:, :, None] * scan.direction[:, None, :]
        moved[0] = np.einsum("vij,vj->vi", across, moved[0])
        moved.append(np.linalg.norm(grid.size_mm) * (rebuilt.direction - scan.direction))
    pitches = [np.linalg.norm(steps, axis=1).min() for steps in (scan.u_mm, scan.v_mm)]
    finest = min(*pitches, *grid.voxel_mm)
    return all(np.abs(lengths).max() <= GEOMETRY_TOLERANCE * finest for lengths in moved)
