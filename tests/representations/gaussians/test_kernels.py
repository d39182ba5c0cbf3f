"""Splatting and voxelising by numba: the torch reference's results, whatever the sizes, and the same bits each time."""

import numba
import pytest
import torch
from gaussian_oracle import assert_same, leaves, normalised
from peak_memory import peak, scan_of

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations import render_gaussians, voxelise_gaussians


def test_kernels_render_like_the_reference(gaussians, scan):
    fast, slow = leaves(gaussians(), torch.float32), leaves(gaussians(), torch.float64)
    weights = torch.randn(3, 25, 30, generator=torch.Generator().manual_seed(1))
    image = render_gaussians(*normalised(fast), scan, backend="numba")
    expected = render_gaussians(*normalised(slow), scan, backend="reference")
    assert_same(image, expected)
    (weights * image).sum().backward()
    (weights * expected).sum().backward()
    for ours, oracle in zip(fast, slow, strict=True):
        assert oracle.grad.norm() > 0
        assert_same(ours.grad, oracle.grad)


def test_kernels_voxelise_like_the_reference(gaussians, grid):
    fast, slow = leaves(gaussians(), torch.float32), leaves(gaussians(), torch.float64)
    weights = torch.randn(grid.shape, generator=torch.Generator().manual_seed(1))
    volume = voxelise_gaussians(*normalised(fast), grid, backend="numba")
    expected = voxelise_gaussians(*normalised(slow), grid, backend="reference")
    assert_same(volume, expected)
    (weights * volume).sum().backward()
    (weights * expected).sum().backward()
    for ours, oracle in zip(fast, slow, strict=True):
        assert oracle.grad.norm() > 0
        assert_same(ours.grad, oracle.grad)


@pytest.mark.parametrize("ratio", [60.0, 3000.0])
@pytest.mark.parametrize("thin", [1, 2], ids=["plates", "needles"])
def test_single_precision_suffices_for_thin_gaussians(gaussians, cone_scan, grid, thin, ratio):
    positions, scales, rotations, densities = gaussians(20)
    scales[:], scales[:, :thin] = 8.0, 8.0 / ratio
    # Pixels and voxels that are fine enough to see them.
    view = ScanGeometry(
        "cone",
        (40, 50),
        cone_scan.source_mm,
        cone_scan.detector_mm,
        0.05 * cone_scan.u_mm,
        0.05 * cone_scan.v_mm,
    )
    fine = VolumeGrid((20, 20, 20), 0.1, grid.centre_mm)
    positions = torch.tensor(grid.centre_mm) + 0.01 * (positions - torch.tensor(grid.centre_mm))
    tensors = positions, scales, rotations, densities
    for function, target in ((render_gaussians, view), (voxelise_gaussians, fine)):
        fast, slow = leaves(tensors, torch.float32), leaves(tensors, torch.float64)
        image = function(*normalised(fast), target, backend="numba")
        expected = function(*normalised(slow), target, backend="reference")
        assert expected.any()
        # So steep that single precision moves the pixels at their sides: norms, not maxima.
        assert (image - expected).norm() < 0.01 * expected.norm()
        image.sum().backward()
        expected.sum().backward()
        for ours, oracle in zip(fast, slow, strict=True):
            assert ours.grad.isfinite().all()
            if ratio < 100:
                assert (ours.grad - oracle.grad).norm() < 0.01 * oracle.grad.norm()


def test_gaussians_smaller_than_pixels_and_voxels(gaussians, cone_scan, grid):
    some = gaussians(400, smallest=0.02, largest=0.4)
    for function, target in ((render_gaussians, cone_scan), (voxelise_gaussians, grid)):
        fast = leaves(some, torch.float32)
        slow = leaves(some, torch.float64)
        image = function(*normalised(fast), target, backend="numba")
        expected = function(*normalised(slow), target, backend="reference")
        assert_same(image, expected, 1e-4)
        image.square().sum().backward()
        expected.square().sum().backward()
        for ours, oracle in zip(fast, slow, strict=True):
            assert_same(ours.grad, oracle.grad, 1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 2), (7, 17)])
def test_awkward_detectors(gaussians, shape):
    scan = ScanGeometry.cone(
        angles_rad=[0.3],
        source_to_axis_mm=90.0,
        source_to_detector_mm=120.0,
        detector_shape=shape,
        pixel_mm=3.0,
    )
    image = render_gaussians(*gaussians(), scan, backend="numba")
    assert_same(image, render_gaussians(*gaussians(dtype=torch.float64), scan))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 2), (9, 1, 33), (5, 17, 7)])
def test_awkward_grids(gaussians, shape):
    grid = VolumeGrid(shape, (1.0, 1.2, 1.1), (3.0, -2.0, 1.0))
    volume = voxelise_gaussians(*gaussians(), grid, backend="numba")
    assert_same(volume, voxelise_gaussians(*gaussians(dtype=torch.float64), grid))


@pytest.mark.parametrize("threads", [1, 2])
def test_footprints_larger_than_a_block_of_the_kernels(gaussians, threads):
    """More rows, and more voxels along y, than are prepared at once."""
    scan = ScanGeometry.cone(
        angles_rad=[0.3],
        source_to_axis_mm=90.0,
        source_to_detector_mm=120.0,
        detector_shape=(150, 20),
        pixel_mm=(0.3, 2.0),
        axis_mm=(3.0, -2.0),
    )
    grid = VolumeGrid((5, 140, 9), (4.0, 0.25, 4.0), (3.0, -2.0, 1.0))
    some = gaussians(12, smallest=3.0, largest=8.0)
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        for function, target in ((render_gaussians, scan), (voxelise_gaussians, grid)):
            fast, slow = leaves(some, torch.float32), leaves(some, torch.float64)
            image = function(*normalised(fast), target, backend="numba")
            expected = function(*normalised(slow), target, backend="reference")
            assert_same(image, expected)
            image.square().sum().backward()
            expected.square().sum().backward()
            for ours, oracle in zip(fast, slow, strict=True):
                assert_same(ours.grad, oracle.grad)
    finally:
        numba.set_num_threads(before)


def everything(some, scan, grid):
    """Values and gradients of rendering and voxelising."""
    some = leaves(some, torch.float32)
    image = render_gaussians(*normalised(some), scan)
    volume = voxelise_gaussians(*normalised(some), grid)
    (image.square().sum() + volume.square().sum()).backward()
    return [image.detach(), volume.detach(), *(t.grad for t in some)]


def test_results_are_the_same_to_the_last_bit(gaussians, cone_scan, grid):
    first = everything(gaussians(300), cone_scan, grid)
    again = everything(gaussians(300), cone_scan, grid)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
def test_the_number_of_threads_changes_no_bit(gaussians, cone_scan, grid):
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append(everything(gaussians(300), cone_scan, grid))
    finally:
        numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("integral", ["affine", "exact"])
def test_views_that_nobody_differentiates_take_the_room_of_one(gaussians, integral):
    cloud, scan = gaussians(2000, dtype=torch.float32), scan_of(4, views=40)
    views = [
        peak(lambda part=part: render_gaussians(*cloud, part, backend="numba", integral=integral))
        for part in (scan[:1], scan)
    ]
    assert views[1] < 1.5 * views[0]
