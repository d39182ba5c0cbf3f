"""The same geometry in the words of other packages: R2-Gaussian / TIGRE and ASTRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffnr_lightning.geometry.grid import VolumeGrid
from diffnr_lightning.geometry.poses import Beam
from diffnr_lightning.geometry.scan import ScanGeometry


def r2_scanner(scan: ScanGeometry, grid: VolumeGrid) -> dict[str, Any]:
    """Describe a circular scan and its grid as the ``scanner`` entry of an R2-Gaussian ``meta_data.json``.

    Raises:
        ValueError: the scan is not circular.

    Source: R2-Gaussian's data format: nVoxel, sVoxel, offOrigin in (x, y, z); nDetector, sDetector,
    offDetector in (v, u). offOrigin is the centre of the volume as seen from the rotation axis; offDetector v points
    up.
    """
    orbit = scan.orbit
    if orbit is None:
        raise ValueError(
            "the scan is not circular; meta_data.json can only describe circular scans."
        )
    rows, columns = scan.detector_shape
    centre = np.asarray(grid.centre_mm) - np.array([*orbit.axis_mm, orbit.height_mm])
    parallel_distance = 2 * float(np.linalg.norm(grid.size_mm))
    return {
        "mode": scan.beam,
        "DSD": orbit.source_to_detector_mm or parallel_distance,
        "DSO": orbit.source_to_axis_mm or parallel_distance / 2,
        "nDetector": [rows, columns],
        "sDetector": [rows * orbit.pixel_mm[0], columns * orbit.pixel_mm[1]],
        "dDetector": list(orbit.pixel_mm),
        "nVoxel": list(grid.shape[::-1]),
        "sVoxel": list(grid.size_mm[::-1]),
        "dVoxel": list(grid.voxel_mm[::-1]),
        "offOrigin": [float(c) for c in centre],
        "offDetector": [-orbit.detector_offset_mm[0], orbit.detector_offset_mm[1]],
    }


def from_r2_scanner(
    scanner: Mapping[str, Any], angles_rad: Sequence[float]
) -> tuple[ScanGeometry, VolumeGrid]:
    """Build scan and grid from the ``scanner`` entry of an R2-Gaussian ``meta_data.json``; inverse of `r2_scanner`.

    Lengths keep the file's unit. The rotation axis passes through the world's origin.

    Raises:
        ValueError: a missing key, or geometry that contradicts itself.
    """
    needed = ("DSD", "DSO", "nDetector", "sDetector", "nVoxel", "sVoxel")
    missing = [key for key in needed if key not in scanner]
    if missing:
        raise ValueError(f"scanner lacks the key {missing[0]!r}; {', '.join(needed)} are expected.")
    beam = scanner.get("mode", "cone")
    if beam not in ("cone", "parallel"):
        raise ValueError(f"scanner mode is {beam!r}; 'cone' or 'parallel' is expected.")
    voxels = [int(n) for n in scanner["nVoxel"]]
    edges = [float(s) / n for s, n in zip(scanner["sVoxel"], voxels, strict=True)]
    grid = VolumeGrid(tuple(voxels[::-1]), tuple(edges[::-1]), _offset(scanner, "offOrigin", 3))
    shape = tuple(int(n) for n in scanner["nDetector"])
    pixel = tuple(float(s) / n for s, n in zip(scanner["sDetector"], shape, strict=True))
    up, along_u = _offset(scanner, "offDetector", 2)
    detector = {
        "detector_shape": shape,
        "pixel_mm": pixel,
        "detector_offset_mm": (-float(up), float(along_u)),
    }
    if beam == "parallel":
        return ScanGeometry.parallel(angles_rad=angles_rad, **detector), grid
    distances = {
        "source_to_axis_mm": float(scanner["DSO"]),
        "source_to_detector_mm": float(scanner["DSD"]),
    }
    return ScanGeometry.cone(angles_rad=angles_rad, **distances, **detector), grid


def _offset(scanner: Mapping[str, Any], key: str, numbers: int) -> tuple[float, ...]:
    """Return an offset of a scanner, a list or an array; zeros where none is given."""
    given = scanner.get(key)
    return (0.0,) * numbers if given is None or len(given) == 0 else tuple(given)


def astra_vectors(scan: ScanGeometry) -> np.ndarray:
    """Return the (V, 12) array of ASTRA's ``cone_vec`` / ``parallel3d_vec``: source or ray, detector, u, v in mm."""
    first = scan.source_mm if scan.beam == "cone" else scan.direction
    return np.concatenate([first, scan.detector_mm, scan.u_mm, scan.v_mm], axis=1)


def from_astra_vectors(
    vectors: np.ndarray, detector_shape: tuple[int, int], beam: Beam = "cone"
) -> ScanGeometry:
    """Build a scan from ASTRA's vectors, shape (V, 12), lengths in mm; inverse of `astra_vectors`.

    Raises:
        ValueError: not twelve numbers a view.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != 12:
        raise ValueError(f"vectors has shape {vectors.shape}; (views, 12) is expected.")
    first, detector, u, v = np.split(vectors, 4, axis=1)
    if beam == "parallel":
        distance = 2 * max(detector_shape) * np.linalg.norm(u, axis=1, keepdims=True)
        first = detector - distance * first / np.linalg.norm(first, axis=1, keepdims=True)
    return ScanGeometry(beam, detector_shape, first, detector, u, v)
