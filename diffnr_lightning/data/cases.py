"""Case folders in R2-Gaussian's format: a scan, its projections and, where known, the truth.

``meta_data.json`` holds the scanner and the list of views, ``proj_train/`` and ``proj_test/`` one NPY file a view,
``vol_gt.npy`` the true volume in (x, y, z) order. ``counts_train.npy`` (ours) holds the photons behind the projections.
Keys of our own (name, unit, window_hu, seed, source, provenance; per-view vectors where the scan is no circle) stand
beside that format's and are ignored by its other readers. Everything is turned to the package's conventions here, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffnr_lightning.data.case_folder.arrays import read_projections, read_truth
from diffnr_lightning.data.case_folder.metadata import (
    META_FILE,
    checked_provenance,
    checked_seed,
    checked_window,
    described_geometry,
    read_meta,
    total_angle,
    view_entries,
    warn_of_steps,
)
from diffnr_lightning.data.case_folder.photons import read_photons
from diffnr_lightning.data.plausibility import check_angles, check_line_integrals
from diffnr_lightning.data.truth import check_truth, normalised
from diffnr_lightning.data.volumes import UNTILTED, Direction
from diffnr_lightning.files import SECOND_FINGERPRINT
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts

DIVIDED = "divided_when_read"
"""What the truth of a file is divided by, in the provenance of the case; `normalised_by` counts earlier times too."""


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
    projections; `DIVIDED` and ``normalised_by`` in the provenance keep it. One with a window is from 0 to 1 by that,
    whatever it reaches. Cases that `simulate_case` made hold together and are believed.

    Args:
        case: as a reader found it.
        where: how an error names the file.
        checks: options of `check_truth`.

    Raises:
        ValueError: projections that no object gives, or that are not those of the truth.
    """
    check_line_integrals(case.projections.numpy(), where)
    # A case that was divided before it was written says so of itself, not of this file.
    kept = {key: value for key, value in case.provenance.items() if key != DIVIDED}
    case = replace(case, provenance=kept)
    if case.volume is None or case.provenance.get("kind") == "simulated":
        return case
    check_truth(case.volume, case.grid, case.projections, case.scan, where, **checks)
    peak = 1.0 if case.window_hu is not None else normalised(case.volume, where)
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
        provenance={**kept, "normalised_by": peak * kept.get("normalised_by", 1.0), DIVIDED: peak},
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
