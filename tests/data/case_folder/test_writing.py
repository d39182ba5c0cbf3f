"""Which scans a scanner block describes, and which need the vectors of their views."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffnr_lightning.data import read_case, write_case
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles

VECTORS = ("source_mm", "detector_mm", "u_mm", "v_mm")
FINE = {"angles_rad": uniform_angles(4), "detector_shape": (2, 1000), "pixel_mm": 0.1}
FAR = {"source_to_axis_mm": 500.0, "source_to_detector_mm": 1000.0}


def rolled(scan: ScanGeometry, degrees: float) -> ScanGeometry:
    """Return the scan with its detector turned in its plane."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return replace(
        scan, u_mm=c * scan.u_mm + s * scan.v_mm, v_mm=c * scan.v_mm - s * scan.u_mm
    )  # fmt: skip


def upside_down() -> ScanGeometry:
    distances = {"source_to_axis_mm": 15e3, "source_to_detector_mm": 30e3}
    scan = ScanGeometry.cone(**{**FINE, "pixel_mm": 0.005}, **distances)
    return replace(scan, v_mm=-scan.v_mm)


def unsteady_source() -> ScanGeometry:
    distances = {"source_to_axis_mm": 5.0, "source_to_detector_mm": 1000.0}
    scan = ScanGeometry.cone(**FINE, **distances)
    return replace(scan, source_mm=scan.source_mm + [[0, 0, 1e-3], *[[0, 0, 0]] * 3])


def unsteady_rays() -> ScanGeometry:
    scan = ScanGeometry.parallel(**FINE)
    return replace(scan, source_mm=scan.source_mm + [[0, 0, 0.02], *[[0, 0, 0]] * 3])


SCANS = {
    "rolled cone": lambda: rolled(ScanGeometry.cone(**FINE, **FAR), 0.5),
    "rolled parallel": lambda: rolled(ScanGeometry.parallel(**FINE), 0.1),
    "upside down": upside_down,
    "unsteady source": unsteady_source,
    "unsteady rays": unsteady_rays,
}


def written(small_case, scan, folder):
    """Write a scan of voxels of half a micrometre, and read it again."""
    shape = (len(scan), *scan.detector_shape)
    views = torch.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    case = replace(
        small_case, scan=scan, projections=views, test_scan=None, test_projections=None,
        volume=None, grid=VolumeGrid((4, 5, 7), 5e-4),
    )  # fmt: skip
    write_case(case, folder)
    return read_case(folder).scan


@pytest.mark.parametrize("kind", SCANS)
def test_small_errors_of_alignment_survive(tmp_path, small_case, kind):
    scan = SCANS[kind]()
    again = written(small_case, scan, tmp_path / "case")
    for name in VECTORS:
        np.testing.assert_allclose(getattr(again, name), getattr(scan, name), atol=1e-9)


@pytest.mark.parametrize(
    "scan",
    [
        ScanGeometry.cone(**FINE, **FAR, detector_offset_mm=(0.3, -1 / 3)),
        ScanGeometry.cone(**FINE, source_to_axis_mm=15e3, source_to_detector_mm=30e3),
        ScanGeometry.parallel(**{**FINE, "pixel_mm": 5e-4}, detector_offset_mm=(0.0, 1 / 3)),
    ],
    ids=["cone", "far", "fine"],
)
def test_rounding_needs_no_vectors(tmp_path, small_case, scan):
    written(small_case, scan, tmp_path / "case")
    assert "views_train" not in (tmp_path / "case" / "meta_data.json").read_text()
