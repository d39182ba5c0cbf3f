"""The adapter of ASTRA: what it hands over, on a stand-in; its laws on a GPU."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, astra_vectors
from diffnr_lightning.projectors import backproject, project, weighted_backproject

GRID = VolumeGrid((3, 4, 5), 2.0, (1.0, -2.0, 3.0))
SCAN = ScanGeometry.cone(
    angles_rad=[0.1, 1.0],
    source_to_axis_mm=40.0,
    source_to_detector_mm=60.0,
    detector_shape=(6, 7),
    pixel_mm=2.0,
)


@pytest.fixture
def astra(monkeypatch):
    """A stand-in that keeps what it is given."""
    module = ModuleType("astra")
    module.given, module.deleted = {}, []
    module.use_cuda = lambda: True
    module.create_vol_geom = lambda *numbers: numbers
    module.create_proj_geom = lambda *words: words
    module.data3d = ModuleType("data3d")
    module.data3d.delete = module.deleted.append

    def forward(data, projections, volume):
        module.given.update(data=data, projections=projections, volume=volume)
        rows, columns, vectors = projections[1:]
        return 7, np.arange(rows * len(vectors) * columns, dtype=np.float32).reshape(
            rows, len(vectors), columns
        )

    def back(data, projections, volume):
        module.given.update(data=data, projections=projections, volume=volume)
        rows, columns, planes = volume[:3]
        return 8, np.ones((planes, rows, columns), np.float32)

    module.create_sino3d_gpu, module.create_backprojection3d_gpu = forward, back
    monkeypatch.setitem(sys.modules, "astra", module)
    return module


def test_geometry_is_handed_over_in_mm(astra):
    volume = torch.rand(GRID.shape)
    found = project(volume, GRID, SCAN, "astra")
    kind, rows, columns, vectors = astra.given["projections"]
    assert (kind, rows, columns) == ("cone_vec", 6, 7)
    np.testing.assert_array_equal(vectors, astra_vectors(SCAN))
    # Rows, columns and planes, then the box in x, y, z.
    assert astra.given["volume"] == (4, 5, 3, -4.0, 6.0, -6.0, 2.0, 0.0, 6.0)
    np.testing.assert_array_equal(astra.given["data"], volume.numpy())
    # ASTRA's rows come before its views.
    assert found.shape == (2, 6, 7)
    assert found[1, 0, 0] == 7
    assert astra.deleted == [7]


def test_the_gradient_is_the_backprojection(astra):
    volume = torch.rand(GRID.shape, requires_grad=True)
    project(volume, GRID, SCAN, "astra").sum().backward()
    assert volume.grad.shape == GRID.shape
    assert astra.given["data"].shape == (6, 2, 7)
    assert astra.deleted == [7, 8]


def test_what_astra_cannot_do_is_refused(astra, monkeypatch):
    flat = VolumeGrid((3, 4, 5), (2.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="cubes are expected"):
        project(torch.rand(flat.shape), flat, SCAN, "astra")
    with pytest.raises(ValueError, match="'astra', which has no such lookup"):
        weighted_backproject(torch.rand(2, 6, 7), GRID, SCAN, "astra")
    astra.use_cuda = lambda: False
    with pytest.raises(ValueError, match="ASTRA finds none"):
        backproject(torch.rand(2, 6, 7), GRID, SCAN, "astra")
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(ImportError, match=r"'diffnr-lightning\[astra\]' beside CUDA"):
        project(torch.rand(GRID.shape), GRID, SCAN, "astra")


@pytest.mark.gpu
@pytest.mark.parametrize("beam", ["cone", "parallel"])
def test_astra_agrees_with_the_reference(beam):
    pytest.importorskip("astra")
    grid = VolumeGrid((32, 36, 40), 1.0, (1.0, -2.0, 0.5))
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    detector = {"angles_rad": angles, "detector_shape": (60, 72), "pixel_mm": 1.2}
    scan = ScanGeometry.parallel(**detector)
    if beam == "cone":
        scan = ScanGeometry.cone(source_to_axis_mm=120.0, source_to_detector_mm=180.0, **detector)
    points = grid.points() - torch.tensor(grid.centre_mm)
    # Off the centre along every axis, so that a mirrored axis shows.
    volume = torch.exp(-((points - torch.tensor([4.0, -3.0, 2.0])) ** 2).sum(-1) / 50).float()
    expected = project(volume, grid, scan, "reference")
    found = project(volume, grid, scan, "astra")
    assert float((found - expected).norm() / expected.norm()) < 0.02
    measured = expected + 0.1
    back, matched = (backproject(measured, grid, scan, name) for name in ("astra", "reference"))
    assert float((back - matched).norm() / matched.norm()) < 0.05
    left, right = (found * measured).sum(), (volume * back).sum()
    assert abs(float(left / right) - 1) < 0.02
