"""The Triton projectors equal the reference; in the interpreter where no GPU is."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import (
    rays_triton,
    reference,
    separable_triton,
    voxel_driven_triton,
)

GRID = VolumeGrid((5, 4, 6), (1.3, 0.9, 1.0), (0.4, -0.3, 0.2))
DETECTOR = {"detector_shape": (7, 5), "pixel_mm": (1.1, 1.7)}
CONE = ScanGeometry.cone(
    angles_rad=[0.3, np.pi / 4], source_to_axis_mm=15.0, source_to_detector_mm=24.0, **DETECTOR
)
ALIGNED = {
    "cone": CONE,
    "one view": CONE[1],
    "parallel": ScanGeometry.parallel(angles_rad=[0.2, 1.5], **DETECTOR),
    # Slices behind the source do not count, and rays climb hardly or much.
    "source inside": ScanGeometry.cone(
        angles_rad=[0.4], source_to_axis_mm=1.2, source_to_detector_mm=9.0, **DETECTOR
    ),
    "beside the object": ScanGeometry.parallel(
        angles_rad=[0.2], detector_offset_mm=(0.0, 90.0), **DETECTOR
    ),
}
TILT = np.array([[0.5, 0.2, 0.9]])
POSED = {
    "tilted": ScanGeometry(
        "cone", CONE.detector_shape, CONE.source_mm + TILT, CONE.detector_mm, CONE.u_mm + 0.2 * TILT,
        CONE.v_mm - 0.1 * TILT,
    ),
    "from above": ScanGeometry(
        "cone", (6, 7), [[0.3, 0.2, 16.0]], [[0.0, 0.1, -9.0]], [[1.4, 0.3, 0.0]], [[-0.3, 1.4, 0.1]]
    ),
    "oblique parallel": ScanGeometry(
        "parallel", (6, 7), [[9.0, 4.0, 7.0]], [[-8.0, -4.0, -6.0]], [[-0.5, 1.2, 0.0]], [[0.0, 0.2, -1.1]]
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter's time goes with the number of programs, not with their size."""
    if not torch.cuda.is_available():
        for module in (rays_triton, voxel_driven_triton):
            monkeypatch.setattr(module, "_LANES", 1024)
        monkeypatch.setattr(separable_triton, "_LANES", 16)


def drawn(shape, device, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def relative(actual, expected):
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30))


def check_pair(kernels, grid, scan, device):
    volume = drawn(grid.shape, device)
    measured = drawn((len(scan), *scan.detector_shape), device, seed=1)
    projected = kernels.project(volume, grid, scan)
    gathered = kernels.backproject(measured, grid, scan)
    assert relative(projected, reference.project(volume.double(), grid, scan)) < 1e-5
    assert relative(gathered, reference.backproject(measured.double(), grid, scan)) < 1e-5
    left, right = (projected.double() * measured).sum(), (gathered.double() * volume).sum()
    assert float(abs(left - right)) <= 1e-6 * float(left)


@pytest.mark.parametrize("name", ALIGNED)
def test_separable_pair(name, triton_device):
    check_pair(separable_triton, GRID, ALIGNED[name], triton_device)


@pytest.mark.parametrize("name", [*POSED, "cone", "source inside", "beside the object"])
def test_pair_for_any_poses(name, triton_device):
    check_pair(rays_triton, GRID, {**ALIGNED, **POSED}[name], triton_device)


def test_rays_are_traced_in_pieces(monkeypatch, triton_device):
    monkeypatch.setattr(rays_triton, "_RAYS", 40)
    check_pair(rays_triton, GRID, POSED["tilted"], triton_device)


@pytest.mark.parametrize("kernels", [separable_triton, rays_triton])
@pytest.mark.parametrize("shape", [(1, 5), (7, 1)])
def test_projections_are_left_as_they_are(kernels, shape, triton_device):
    # Of one row or column, the transposed ones are contiguous and the same memory.
    scan = ScanGeometry.cone(
        angles_rad=[0.3, 2.0],
        source_to_axis_mm=15.0,
        source_to_detector_mm=24.0,
        detector_shape=shape,
        pixel_mm=1.7,
    )
    measured = drawn((2, *shape), triton_device)
    kept = measured.clone()
    gathered = kernels.backproject(measured, GRID, scan)
    assert torch.equal(measured, kept)
    assert relative(gathered, reference.backproject(measured.double(), GRID, scan)) < 1e-5


class Launches:
    """Stand in for a kernel and remember its grids."""

    def __init__(self):
        self.grids = []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return lambda *_, **__: None


def test_large_volumes_and_detectors_stay_within_the_limits_of_a_launch(monkeypatch):
    monkeypatch.undo()  # programs are as large as on a GPU
    kernels = Launches()
    for module in (separable_triton, rays_triton, voxel_driven_triton):
        for name in {"_project", "_backproject", "_scale_by_step", "_trace"} & set(vars(module)):
            monkeypatch.setattr(module, name, kernels)
    grid = VolumeGrid((2048,) * 3, 1.0)
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(2),
        source_to_axis_mm=9000.0,
        source_to_detector_mm=12_000.0,
        detector_shape=(3072, 4096),
        pixel_mm=1.0,
    )
    volume = torch.empty(grid.shape, device="meta")
    measured = torch.empty((2, *scan.detector_shape), device="meta")
    for module in (separable_triton, rays_triton):
        module.project(volume, grid, scan)
        module.backproject(measured, grid, scan)
    voxel_driven_triton.backproject_posed(measured, grid, scan, np.ones(2))
    # Of CUDA: 2^31 - 1 along x, 65535 along y and z.
    assert len(kernels.grids) >= 8
    assert all(x < 2**31 and max(others, default=1) <= 65535 for x, *others in kernels.grids)


@pytest.mark.parametrize("name", [*POSED, *ALIGNED])
def test_voxel_driven(name, triton_device):
    scan = {**ALIGNED, **POSED}[name]
    filtered = drawn((len(scan), *scan.detector_shape), triton_device)
    weight = np.linspace(12.0, 13.0, len(scan))
    actual = voxel_driven_triton.backproject_posed(filtered, GRID, scan, weight)
    expected = reference.weighted_backproject(filtered.double(), GRID, scan, weight)
    assert relative(actual, expected) < 1e-5


@pytest.mark.gpu
def test_every_scan_on_the_device(case):
    grid, scan, backends = case
    for kernels in [rays_triton] + [separable_triton] * ("separable" in backends):
        check_pair(kernels, grid, scan, "cuda")


@pytest.mark.gpu
def test_a_large_detector_on_the_device():
    """It has more pixels than programs along y could hold, and both pairs of kernels serve it."""
    scan = ScanGeometry.cone(
        angles_rad=[0.3],
        source_to_axis_mm=90.0,
        source_to_detector_mm=140.0,
        detector_shape=(2049, 2100),
        pixel_mm=0.03,
    )
    grid = VolumeGrid((40, 50, 60), 1.0)
    volume, measured = drawn(grid.shape, "cuda"), drawn((1, 2049, 2100), "cuda", seed=1)
    pairs = [
        (kernels.project(volume, grid, scan), kernels.backproject(measured, grid, scan))
        for kernels in (rays_triton, separable_triton)
    ]
    for found, expected in zip(*pairs, strict=True):
        assert relative(found, expected.double()) < 1e-4


@pytest.mark.gpu
def test_results_on_the_device_are_bit_equal():
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(9), source_to_axis_mm=90.0, source_to_detector_mm=140.0,
        detector_shape=(70, 60), pixel_mm=1.0,
    )  # fmt: skip
    grid = VolumeGrid((40, 50, 60), 1.0)
    measured = drawn((9, 70, 60), "cuda")
    for kernels in (rays_triton, separable_triton):
        first, second = (kernels.backproject(measured, grid, scan) for _ in range(2))
        assert torch.equal(first, second)
