"""Triton's splatting and voxelising against the torch reference, in the interpreter or on a GPU."""

import math

import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations import render_gaussians, voxelise_gaussians
from diffnr_lightning.representations.gaussians.poses import across_on, poses_on
from diffnr_lightning.representations.gaussians.statistics import ScreenStatistics

bins_triton = pytest.importorskip("diffnr_lightning.representations.gaussians.bins_triton")
from diffnr_lightning.representations.gaussians import (  # noqa: E402
    lines_triton,
    splat_triton,
    voxel_triton,
)

SPLATTING = {"affine": splat_triton, "exact": lines_triton}


@pytest.fixture(autouse=True)
def few_programs(triton_device, monkeypatch):
    """The interpreter takes as long for one pixel as for a hundred, so programs are made large."""
    if triton_device == "cpu":
        for module in SPLATTING.values():
            monkeypatch.setattr(module, "ROWS", 32)
            monkeypatch.setattr(module, "COLUMNS", 32)
        monkeypatch.setattr(voxel_triton, "ROWS", 256)
        monkeypatch.setattr(voxel_triton, "COLUMNS", 32)


@pytest.fixture
def tight_lists(monkeypatch):
    """Lists, scratches, cells and slabs so small that a few Gaussians need several of each."""
    monkeypatch.setattr(bins_triton, "BLOCK", 2)
    monkeypatch.setattr(bins_triton, "SMALLEST_CELL", 16)
    for module in (bins_triton, voxel_triton):
        monkeypatch.setattr(module, "SEGMENT", 4)
        monkeypatch.setattr(module, "CANDIDATES", 2)
        monkeypatch.setattr(module, "deal_segments", lambda segments, programs: (2, 1))
    monkeypatch.setattr(voxel_triton, "SLAB", 8)
    monkeypatch.setattr(voxel_triton, "PROGRAMS", 3)


def splatted(tensors, scan, statistics=None, cut=3.5, integral="affine"):
    if integral == "exact":
        return lines_triton.Lines.apply(*tensors, scan, cut, statistics)
    return splat_triton.Splat.apply(*tensors, scan, cut, statistics)


def voxelised(tensors, grid, cut=3.5):
    return voxel_triton.Voxelise.apply(*tensors, grid, cut)


def leaves(tensors, device="cpu", dtype=torch.float32):
    return [t.to(device, dtype, copy=True).requires_grad_() for t in tensors]


def assert_same(actual, expected, tolerance):
    difference = (actual.detach().double().cpu() - expected.detach().double()).abs().max()
    assert difference <= tolerance * expected.abs().max()


def assert_equals_reference(render, reference, tensors, device):
    """Compare values and the gradients of a weighted sum; return the values."""
    ours, theirs = leaves(tensors, device), leaves(tensors, dtype=torch.float64)
    actual, expected = render(ours), reference(theirs)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (actual * weights.to(device)).sum().backward()
    (expected * weights).sum().backward()
    assert expected.any()
    assert_same(actual, expected, 1e-5)
    for leaf, oracle in zip(ours, theirs, strict=True):
        assert oracle.grad.any()
        assert_same(leaf.grad, oracle.grad, 1e-4)
    return actual.detach()


@pytest.mark.usefixtures("tight_lists")
@pytest.mark.parametrize(
    ("name", "integral"),
    [("cone, wobbling", "affine"), ("parallel, oblique", "affine"), ("cone, wobbling", "exact")],
)
def test_views_equal_the_reference(gaussians, scans, name, integral, triton_device):
    """Two views of 13 x 19 pixels: four tiles, of which three hang over."""
    scan = scans[name]
    vectors = (scan.source_mm, scan.detector_mm, 2 * scan.u_mm, 2 * scan.v_mm)
    scan = ScanGeometry(scan.beam, (13, 19), *(vector[:2] for vector in vectors))
    ours, theirs = ScreenStatistics(6), ScreenStatistics(6)
    assert_equals_reference(
        lambda tensors: splatted(tensors, scan, ours, integral=integral),
        lambda tensors: render_gaussians(
            *tensors, scan, backend="reference", statistics=theirs, integral=integral
        ),
        gaussians(6, spread=1.6),
        triton_device,
    )
    assert ours.gradient.device.type == triton_device
    assert 0 < theirs.visible.sum() < 12
    assert torch.equal(ours.visible.cpu(), theirs.visible)
    assert_same(ours.gradient, theirs.gradient, 1e-4)


def test_sources_that_float32_cannot_place(gaussians, triton_device):
    scan = ScanGeometry.cone(
        angles_rad=[0.3],
        source_to_axis_mm=1e7,
        source_to_detector_mm=1e7 + 50,
        detector_shape=(9, 13),
        pixel_mm=2.0,
    )
    assert_equals_reference(
        lambda tensors: splatted(tensors, scan),
        lambda tensors: render_gaussians(*tensors, scan, backend="reference"),
        gaussians(4, spread=0.2),
        triton_device,
    )


def test_gaussians_that_reach_to_the_source(gaussians, triton_device):
    """Their exact images have no edge: all pixels count."""
    scan = ScanGeometry.cone(
        angles_rad=[0.3],
        source_to_axis_mm=20.0,
        source_to_detector_mm=40.0,
        detector_shape=(5, 9),
        pixel_mm=6.0,
    )
    assert_equals_reference(
        lambda tensors: splatted(tensors, scan, integral="exact"),
        lambda tensors: render_gaussians(*tensors, scan, backend="reference", integral="exact"),
        gaussians(2, smallest=7.0, largest=9.0, spread=0.1),
        triton_device,
    )


def test_exact_images_of_small_gaussians_far_from_the_source_meet_few_pixels(
    gaussians, triton_device
):
    """Their conics have coefficients so large that their squares are beyond float32."""
    scan = ScanGeometry.cone(
        angles_rad=[0.3],
        source_to_axis_mm=1000.0,
        source_to_detector_mm=1500.0,
        detector_shape=(25, 30),
        pixel_mm=3.0,
    )
    some = [t.to(triton_device, torch.float32) for t in gaussians(40, smallest=0.03, largest=0.1)]
    views = poses_on(scan, some[0].device), across_on(scan, some[0].device)
    _, boxes = lines_triton._trace(some, views, slice(0, 1), 3.5, scan.detector_shape, wait=True)
    met = boxes[0][boxes[0, :, 0] < bins_triton.NEVER.value]
    assert len(met) > 0
    assert int((met[:, [1, 3]] - met[:, [0, 2]]).max()) <= 1


@pytest.mark.usefixtures("tight_lists")
@pytest.mark.parametrize("shape", [(9, 13, 18), (1, 6, 3)])
def test_voxels_equal_the_reference(gaussians, shape, triton_device):
    grid = VolumeGrid(shape, (1.9, 1.5, 1.7), (3.0, -2.0, 1.0))
    assert_equals_reference(
        lambda tensors: voxelised(tensors, grid),
        lambda tensors: voxelise_gaussians(*tensors, grid, backend="reference"),
        gaussians(6, smallest=2.0, spread=0.3),
        triton_device,
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 2)])
def test_awkward_detectors(gaussians, shape, triton_device):
    scan = ScanGeometry.cone(
        angles_rad=[0.3],
        source_to_axis_mm=90.0,
        source_to_detector_mm=120.0,
        detector_shape=shape,
        pixel_mm=3.0,
    )
    assert_equals_reference(
        lambda tensors: splatted(tensors, scan, cut=2.5),
        lambda tensors: render_gaussians(*tensors, scan, cut=2.5, backend="reference"),
        gaussians(1, smallest=8.0, largest=14.0, spread=0.1),
        triton_device,
    )


def test_groups_of_views_with_their_own_lists(gaussians, scans, triton_device, monkeypatch):
    some, found = gaussians(3), []
    for at_once in (2, 1):
        monkeypatch.setattr(bins_triton, "views_at_once", lambda *_, n=at_once: n)
        tensors = leaves(some, triton_device)
        image = splatted(tensors, scans["cone"][:2])
        image.square().sum().backward()
        found.append([image, *(t.grad for t in tensors)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("where", ["behind the source", "at the source", "beside all"])
def test_what_is_not_seen(gaussians, scans, where, triton_device):
    view = scans["cone"][0]
    source = torch.tensor(view.source_mm[0], dtype=torch.float32)
    forward = torch.tensor(view.direction[0], dtype=torch.float32)
    positions, *shape = gaussians(3)
    positions[:] = {
        "behind the source": source - 20 * forward,
        "at the source": source,
        "beside all": source + 90 * forward + torch.tensor([0.0, 0.0, 300.0]),
    }[where]
    grid = VolumeGrid((6, 5, 4), 2.0)
    tensors, statistics = leaves((positions, *shape), triton_device), ScreenStatistics(3)
    shown = [splatted(tensors, view, statistics, integral=kind) for kind in SPLATTING]
    shown.append(voxelised(tensors, grid))
    sum(values.sum() for values in shown).backward()
    assert not any(values.any() for values in shown)
    assert not any(t.grad.any() for t in tensors)
    assert not statistics.visible.any()


def test_no_gaussians_are_an_empty_scene(gaussians, scans, grid, triton_device):
    tensors = leaves(gaussians(0), triton_device)
    shown = [splatted(tensors, scans["cone"], integral=kind) for kind in SPLATTING]
    shown.append(voxelised(tensors, grid))
    assert not any(values.any() for values in shown)
    sum(values.sum() for values in shown).backward()


@pytest.mark.parametrize("broken", range(4))
def test_what_is_no_number_is_refused(gaussians, scans, grid, broken, triton_device):
    some = [t.to(triton_device) for t in gaussians(5)]
    some[broken][2] = math.nan
    for kind in SPLATTING:
        with pytest.raises(ValueError, match="not finite"):
            splatted(some, scans["cone"], integral=kind)
    with pytest.raises(ValueError, match="not finite"):
        voxelised(some, grid)


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (50_000, (1, 256, 256)),
        (500_000, (512,) * 3),
        (10**7, (1, 2048, 2048)),
        (3, (1, 1024, 1024)),
    ],
)
def test_lists_stay_small(count, shape):
    edge = bins_triton.cell_edge(count, shape)
    cells = math.prod(math.ceil(size / edge) for size in shape)
    room = 4 * math.ceil(count / bins_triton.SEGMENT) * bins_triton.SEGMENT * cells
    assert 4 * count <= room <= bins_triton.LARGEST_LISTS
    views = bins_triton.views_at_once(count, *shape[1:])
    assert views == 1 or views * room <= bins_triton.LARGEST_LISTS


@pytest.mark.parametrize(
    ("segments", "programs"), [(1, 1), (13, 512), (13, 64), (123, 5), (7, 9999)]
)
def test_every_segment_is_dealt_once(segments, programs):
    parts, of_a_part = bins_triton.deal_segments(segments, programs)
    assert (parts - 1) * of_a_part < segments <= parts * of_a_part
    assert parts == 1 or parts * programs <= 4096


@pytest.mark.gpu
def test_every_run_gives_the_same_bits(gaussians, scans, grid):
    """Many Gaussians in many programs, as the interpreter cannot run them."""
    found = []
    for _ in range(2):
        tensors = leaves(gaussians(20_000), "cuda")
        image = render_gaussians(*tensors, scans["cone"], backend="triton")
        exact = render_gaussians(*tensors, scans["cone"], backend="triton", integral="exact")
        volume = voxelise_gaussians(*tensors, grid, backend="triton")
        (image.square().sum() + exact.square().sum() + volume.square().sum()).backward()
        found.append([image, volume, exact, *(t.grad for t in tensors)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    some = gaussians(20_000)
    assert_same(found[0][0], render_gaussians(*some, scans["cone"]), 1e-4)
    assert_same(found[0][1], voxelise_gaussians(*some, grid), 1e-4)


@pytest.mark.gpu
def test_an_iteration_does_not_wait_for_the_device(gaussians, scans, grid):
    tensors = leaves(gaussians(200), "cuda")

    def iteration():
        image = render_gaussians(*tensors, scans["cone"], statistics=statistics)
        volume = voxelise_gaussians(*tensors, grid)
        (image.square().sum() + volume.square().sum()).backward()

    statistics = ScreenStatistics(200)
    iteration()  # compiles, and brings the statistics to the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        iteration()
    finally:
        torch.cuda.set_sync_debug_mode("default")
