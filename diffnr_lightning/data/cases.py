"""Case folders in R2-Gaussian's format: a scan, its projections and, where known, the truth.

``meta_data.json`` holds the scanner and the list of views, ``proj_train/`` and ``proj_test/`` one NPY file a view,
``vol_gt.npy`` the true volume in (x, y, z) order. ``counts_train.npy`` (ours) holds the photons behind the projections.
Keys of our own (name, unit, window_hu, seed, source, provenance; per-view vectors where the scan is no circle) stand
beside that format's and are ignored by its other readers. Everything is turned to the package's conventions here, once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffnr_lightning.data.case_arrays import read_projections, read_truth
from diffnr_lightning.data.case_metadata import (
    META_FILE,
    checked_provenance,
    checked_seed,
    checked_window,
    described_geometry,
    read_meta,
    refuse_to_replace,
    simulated_noise,
    total_angle,
    view_entries,
    warn_of_steps,
)
from diffnr_lightning.data.case_photons import read_photons, write_photons
from diffnr_lightning.data.plausibility import check_angles, check_line_integrals
from diffnr_lightning.data.truth import check_truth, normalised
from diffnr_lightning.data.volumes import UNTILTED, Direction
from diffnr_lightning.files import SECOND_FINGERPRINT, replacing_folder
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, from_r2_scanner, r2_scanner
from diffnr_lightning.photons import PhotonCounts

# Lengths of a scanner that went through JSON and back agree to this share of the detector distance.
GEOMETRY_TOLERANCE = 1e-6
OFFSET_DIGITS = 9


@dataclass(eq=False)
class Case:
    """Hold one scan with what is known about it.

    Attributes:
        name: identifies the case; seeds are drawn from it.
        scan: the training views.
        projections: (V, H, W) float32 line integrals in volume unit times mm.
        grid: the voxels to reconstruct.
        test_scan: views kept out of training, or None.
        test_projections: (T, H, W) float32 of the test views, or None.
        photons: what the detector counted in the training views, or None where that is not known.
        test_photons: the same of the test views; None too where they are free of noise.
        volume: (Z, Y, X) float32 true normalised attenuation, or None where it is not known.
        window_hu: HU of the values 0 and 1, or None where the volume is not in HU.
        unit: ``"HU"``, ``"arbitrary"`` or, for measured projections, ``"1/mm"``.
        seed: of noise, random views and whatever is drawn for this case.
        source: the file or generator it was made from.
        provenance: how it was made; JSON types only. ``frame_origin_mm`` is where the world's
            origin lies in the source's world, ``frame_direction`` where its axes point there.
    """

    name: str
    scan: ScanGeometry
    projections: Tensor
    grid: VolumeGrid
    test_scan: ScanGeometry | None = None
    test_projections: Tensor | None = None
    photons: PhotonCounts | None = None
    test_photons: PhotonCounts | None = None
    volume: Tensor | None = None
    window_hu: tuple[float, float] | None = None
    unit: str = "arbitrary"
    seed: int = 0
    source: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_views(self.scan, self.projections, "projections")
        if (self.test_scan is None) != (self.test_projections is None):
            raise ValueError("test_scan and test_projections must be given together or not at all.")
        if self.test_scan is not None:
            _check_views(self.test_scan, self.test_projections, "test_projections")
        if self.volume is not None and tuple(self.volume.shape) != self.grid.shape:
            raise ValueError(
                f"volume has shape {tuple(self.volume.shape)}, its grid {self.grid.shape}; they must agree."
            )
        _check_frame(self.provenance, self.name)

    @property
    def frame_origin_mm(self) -> tuple[float, float, float]:
        """Where the case's world origin lies in the source volume's world (x, y, z), mm."""
        return tuple(float(c) for c in self.provenance.get("frame_origin_mm") or (0.0, 0.0, 0.0))

    @property
    def frame_direction(self) -> Direction:
        """Rows of the (3, 3) matrix whose columns are the case's x, y, z in the source's world."""
        return tuple(float(c) for c in self.provenance.get("frame_direction") or UNTILTED)

    def fingerprint(self) -> str:
        """Return a hash of all that a reconstruction reads; where the case lies is not in it.

        Before the mark it is the one of earlier versions, which knew of photons their counts alone; see
        `files.same_content`.
        """
        frame = (self.frame_origin_mm, self.frame_direction)
        described = (self.seed, self.unit, self.window_hu, *frame, self.grid)
        digest = hashlib.sha256(repr(described).encode())
        for scan, projections, photons in (
            (self.scan, self.projections, self.photons),
            (self.test_scan, self.test_projections, self.test_photons),
        ):
            digest.update(repr(scan).encode())
            if projections is not None:
                digest.update(projections.contiguous().numpy())
            if photons is not None:
                digest.update(photons.counts.contiguous().numpy())
        if self.volume is not None:
            digest.update(self.volume.contiguous().numpy())
        first = digest.hexdigest()
        for photons in (self.photons, self.test_photons):
            if photons is None:
                digest.update(b"None")
                continue
            numbers = (float(photons.electronic), float(photons.scale))
            digest.update(repr((tuple(photons.air.shape), *numbers, photons.origin)).encode())
            digest.update(photons.air.contiguous().numpy())
        return f"{first}{SECOND_FINGERPRINT}{digest.hexdigest()}"


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


def read_case(path: str | Path) -> Case:
    """Read a case folder written by `write_case`, R2-Gaussian or DiffNR.

    Lengths keep the file's unit (R2-Gaussian's boxes have side 2; such a "mm" is half a box) and
    so do the projections, which are line integrals in that unit. Ground truth and test views are
    optional. A case without our own keys gets the folder's name and the unit ``"arbitrary"``.

    Raises:
        FileNotFoundError: the folder, its meta data or a projection it lists is missing.
        ValueError: damaged files, missing keys, contradictory geometry, wrong shapes, NaN, fewer
            than two views.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"case folder {path} does not exist; check the path.")
    meta_path = path / META_FILE
    meta = read_meta(meta_path)
    train = view_entries(meta, "proj_train", meta_path)
    test = view_entries(meta, "proj_test", meta_path)
    if len(train) < 2:
        raise ValueError(
            f"{meta_path} lists {('no projections', 'one projection')[len(train)]} under "
            "proj_train; at least two are expected."
        )
    scanner = meta["scanner"]
    scan, grid = described_geometry(scanner, meta, "train", train, meta_path)
    warn_of_steps(scanner, meta_path)
    check_angles(np.array([angle for _, angle in train]), total_angle(scanner), str(meta_path))
    projections = read_projections(path, train, scan.detector_shape)
    test_scan, test_projections = None, None
    if test:
        check_angles(np.array([angle for _, angle in test]), None, f"{meta_path}, proj_test,")
        test_scan, _ = described_geometry(scanner, meta, "test", test, meta_path)
        test_projections = read_projections(path, test, test_scan.detector_shape)
    window = meta.get("window_hu")
    case = Case(
        name=str(meta.get("name") or path.resolve().name),
        scan=scan,
        projections=projections,
        grid=grid,
        test_scan=test_scan,
        test_projections=test_projections,
        photons=read_photons(path, meta, "train", projections),
        test_photons=read_photons(path, meta, "test", test_projections),
        volume=read_truth(path, meta, grid),
        window_hu=None if window is None else checked_window(window, meta_path),
        unit=str(meta.get("unit", "arbitrary")),
        seed=checked_seed(meta.get("seed", 0), meta_path),
        source=str(meta.get("source", "")),
        provenance=checked_provenance(meta.get("provenance"), meta_path),
    )
    return plausible(case, f"case {path}")


def plausible(case: Case, where: str, **checks: Any) -> Case:
    """Return the case as it can be, or say what is wrong with what it holds.

    A truth in another unit than 0 to about 1 is divided by its largest value, and with it the
    projections; ``normalised_by`` in the provenance keeps it. Cases that `simulate_case` made hold
    together and are believed.

    Args:
        case: as a reader found it.
        where: how an error names the file.
        checks: options of `check_truth`.

    Raises:
        ValueError: projections that no object gives, or that are not those of the truth.
    """
    check_line_integrals(case.projections.numpy(), where)
    if case.volume is None or case.provenance.get("kind") == "simulated":
        return case
    check_truth(case.volume, case.grid, case.projections, case.scan, where, **checks)
    peak = normalised(case.volume, where)
    if peak == 1.0:
        return case
    tests, counts = case.test_projections, (case.photons, case.test_photons)
    photons, test_photons = (c and c.in_units_of(peak) for c in counts)
    return replace(
        case,
        volume=case.volume / peak,
        projections=case.projections / peak,
        test_projections=None if tests is None else tests / peak,
        photons=photons,
        test_photons=test_photons,
        provenance={**case.provenance, "normalised_by": peak},
    )


def _check_views(scan: ScanGeometry, projections: Tensor, name: str) -> None:
    expected = (len(scan), *scan.detector_shape)
    if tuple(projections.shape) != expected:
        raise ValueError(
            f"{name} has shape {tuple(projections.shape)}; its scan asks for (V, H, W) = "
            f"{expected}."
        )


def _check_frame(provenance: Mapping[str, Any], name: str) -> None:
    """Refuse a frame that a finished volume could not be written in."""
    for key, count in (("frame_origin_mm", 3), ("frame_direction", 9)):
        numbers = provenance.get(key)
        if numbers is None:
            continue
        real = isinstance(numbers, list | tuple) and all(
            isinstance(n, int | float) for n in numbers
        )
        if not real or len(numbers) != count or not np.isfinite(numbers).all():
            raise ValueError(
                f"provenance of case {name} has {key} = {numbers!r}; {count} finite numbers are expected."
            )
    turn = np.reshape(provenance.get("frame_direction") or UNTILTED, (3, 3))
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4):
        raise ValueError(
            f"provenance of case {name} has frame_direction = {turn.ravel().tolist()}; direction "
            "cosines of three perpendicular axes are expected."
        )


def _write_files(case: Case, folder: Path) -> None:
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
            meta[f"views_{part}"] = {
                "beam": scan.beam,
                **{
                    key: getattr(scan, key).tolist()
                    for key in ("source_mm", "detector_mm", "u_mm", "v_mm")
                },
            }
        (folder / f"proj_{part}").mkdir()
        angles = _angles(scan)
        meta[f"proj_{part}"] = []
        for index, image in enumerate(projections.detach().cpu().numpy()):
            file = f"proj_{part}/{index:04d}.npy"
            np.save(folder / file, np.ascontiguousarray(image, dtype=np.float32))
            meta[f"proj_{part}"].append({"file_path": file, "angle": float(angles[index])})
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
    """Return the angle of each view about +z: that of the direction from detector to source."""
    direction = -scan.normal
    return np.mod(np.arctan2(direction[:, 1], direction[:, 0]) + 1e-9, 2 * np.pi) - 1e-9


def _described_by(scanner: Mapping[str, Any], scan: ScanGeometry) -> bool:
    """Whether the scanner block and the angles alone rebuild `scan`."""
    rebuilt, _ = from_r2_scanner(scanner, _angles(scan))
    if rebuilt.beam != scan.beam:
        return False
    scale = np.abs(scan.detector_mm - scan.source_mm).max()
    pairs = [(rebuilt.u_mm, scan.u_mm), (rebuilt.v_mm, scan.v_mm)]
    if scan.beam == "cone":
        pairs += [(rebuilt.source_mm, scan.source_mm), (rebuilt.detector_mm, scan.detector_mm)]
    else:
        # How far along its rays a parallel detector stands means nothing.
        across = np.eye(3) - scan.direction[:, :, None] * scan.direction[:, None, :]
        shift = np.einsum("vij,vj->vi", across, rebuilt.detector_mm - scan.detector_mm)
        pairs += [(rebuilt.direction, scan.direction), (shift, np.zeros_like(shift))]
    return all(np.abs(a - b).max() <= GEOMETRY_TOLERANCE * scale for a, b in pairs)
