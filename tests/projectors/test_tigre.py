"""The adapter of TIGRE: what it hands over, on a stand-in; its laws on a GPU."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import backproject, project

GRID = VolumeGrid((3, 4, 5), (2.0, 1.0, 1.5), (1.0, -2.0, 3.0))
CIRCLE = {"angles_rad": [0.1, 1.0], "detector_shape": (6, 7), "pixel_mm": (2.0, 3.0)}
SCAN = ScanGeometry.cone(
    source_to_axis_mm=40.0, source_to_detector_mm=60.0, detector_offset_mm=(0.5, 1.0), **CIRCLE
)


@pytest.fixture
def tigre(monkeypatch):
    """A stand-in that keeps what it is given, and marks the lowest row."""
    module = ModuleType("tigre")
    module.geometry = SimpleNamespace

    def forward(volume, geometry, angles, projection_type):
        module.given = {
            "array": volume,
            "geometry": geometry,
            "angles": angles,
            "type": projection_type,
        }
        found = np.zeros((len(angles), *geometry.nDetector), np.float32)
        found[:, 0] = 1
        return found

    def back(projections, geometry, angles, backprojection_type):
        module.given = {"array": projections, "geometry": geometry, "type": backprojection_type}
        return np.ones(tuple(geometry.nVoxel), np.float32)

    module.Ax, module.Atb = forward, back
    monkeypatch.setitem(sys.modules, "tigre", module)
    return module


def test_geometry_is_handed_over_in_its_order(tigre):
    volume = torch.rand(GRID.shape, requires_grad=True)
    found = project(volume, GRID, SCAN, "tigre")
    geometry = tigre.given["geometry"]
    assert geometry.mode == "cone"
    wanted = {"DSD": 60, "DSO": 40, "nDetector": [6, 7], "dDetector": [2, 3], "sDetector": [12, 21]}
    wanted |= {"nVoxel": [3, 4, 5], "dVoxel": [2, 1, 1.5], "sVoxel": [6, 4, 7.5]}
    # The centre in z, y, x; our rows go down, TIGRE's go up.
    wanted |= {"offOrigin": [3, -2, 1], "offDetector": [-0.5, 1]}
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(geometry, name), value, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(tigre.given["angles"], [0.1, 1.0])
    assert (found[:, -1] == 1).all()
    assert (found[:, :-1] == 0).all()
    found[:, -1].sum().backward()
    assert volume.grad.shape == GRID.shape
    assert (tigre.given["array"][:, 0] == 1).all()
    assert tigre.given["type"] == "matched"


def test_what_tigre_cannot_do_is_refused(tigre, monkeypatch):
    tilted = ScanGeometry(
        "cone",
        SCAN.detector_shape,
        SCAN.source_mm + [[0, 0, 9.0], [3.0, 0, 0]],
        SCAN.detector_mm,
        SCAN.u_mm,
        SCAN.v_mm,
    )
    with pytest.raises(ValueError, match="the scan is no circle"):
        backproject(torch.rand(2, 6, 7), GRID, tilted, "tigre")
    # PyPI's package of this name knows no Ax.
    monkeypatch.setitem(sys.modules, "tigre", ModuleType("tigre"))
    with pytest.raises(ImportError, match="PyPI's tigre is another package"):
        project(torch.rand(GRID.shape), GRID, SCAN, "tigre")


@pytest.mark.gpu
@pytest.mark.parametrize("beam", ["cone", "parallel"])
def test_tigre_agrees_with_the_reference(beam):
    pytest.importorskip("tigre")
    grid = VolumeGrid((32, 36, 40), 1.0, (1.0, -2.0, 0.5))
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    detector = {"angles_rad": angles, "detector_shape": (60, 72), "pixel_mm": 1.2}
    scan = ScanGeometry.parallel(**detector)
    if beam == "cone":
        scan = ScanGeometry.cone(
            source_to_axis_mm=120.0,
            source_to_detector_mm=180.0,
            detector_offset_mm=(3.0, -2.0),
            **detector,
        )
    # Off the centre along every axis, so that a mirrored axis shows.
    points = grid.points() - torch.tensor(grid.centre_mm) - torch.tensor([4.0, -3.0, 2.0])
    volume = torch.exp(-points.square().sum(-1) / 50).float()
    expected = project(volume, grid, scan, "reference")
    found = project(volume, grid, scan, "tigre")
    assert float((found - expected).norm() / expected.norm()) < 0.02
    measured = expected + 0.1
    back = backproject(measured, grid, scan, "tigre")
    left, right = (found * measured).sum(), (volume * back).sum()
    assert abs(float(left / right) - 1) < 0.02
