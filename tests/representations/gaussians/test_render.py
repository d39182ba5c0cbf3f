"""Splatting and voxelising: exact where they ought to be, symmetric, linear, and what is refused."""

import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from gaussian_oracle import assert_same, leaves, line_integrals, normalised

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.representations import density_at, render_gaussians, voxelise_gaussians
from diffnr_lightning.representations.gaussians.render import rotation_matrices
from diffnr_lightning.representations.gaussians.shape import kept_mass
from diffnr_lightning.representations.gaussians.statistics import ScreenStatistics

BACKENDS = ["numba", "reference"]


def product(first, second):
    """The quaternion of the rotation `second`, then `first`."""
    w, x, y, z = first
    matrix = torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return second @ matrix.to(second).T


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parallel_view_is_exact(gaussians, parallel_scan, backend):
    for seed in range(4):
        one = gaussians(1, seed=seed, spread=0.3, dtype=torch.float32)
        image = render_gaussians(*one, parallel_scan, cut=4.0, backend=backend)
        exact, distance2 = line_integrals(one, parallel_scan)
        exact, distance2 = exact[0] / kept_mass(4.0, 2), distance2[0]
        inside = distance2 < 15.99
        assert inside.any()
        assert_same(image[inside], exact[inside])
        assert not image[distance2 > 16.01].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parallel_view_does_not_depend_on_where_the_detector_stands(
    gaussians, parallel_scan, backend
):
    several = gaussians(10)
    far = replace(
        parallel_scan, detector_mm=parallel_scan.detector_mm + 1e7 * parallel_scan.direction
    )
    expected = render_gaussians(*several, parallel_scan, backend=backend)
    assert_same(render_gaussians(*several, far, backend=backend), expected, 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cone_view_from_far_away_is_exact(gaussians, backend):
    far = ScanGeometry.cone(
        angles_rad=uniform_angles(3, 360, 20),
        source_to_axis_mm=2e4,
        source_to_detector_mm=3e4,
        detector_shape=(32, 36),
        pixel_mm=2.5,
    )
    dtype = {"numba": torch.float32, "reference": torch.float64}[backend]
    several = gaussians(10, spread=0.3, dtype=dtype)
    image = render_gaussians(*several, far, cut=4.0, backend=backend)
    exact = line_integrals(several, far)[0].sum(0)
    assert_same(image, exact, 5e-4)  # exp(-8) is 3e-4


@pytest.mark.parametrize("integral", ["affine", "exact"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_renders_sources_that_it_cannot_place(gaussians, backend, integral):
    far = ScanGeometry.cone(
        angles_rad=uniform_angles(3, 360, 20),
        source_to_axis_mm=1e7,
        source_to_detector_mm=1e7 + 50,
        detector_shape=(32, 36),
        pixel_mm=1.0,
    )
    several = gaussians(10, spread=0.3)
    ours, theirs = (
        [t.to(dtype, copy=True).requires_grad_() for t in several]
        for dtype in (torch.float32, torch.float64)
    )
    expected = render_gaussians(*theirs, far, backend="reference")
    image = render_gaussians(*ours, far, backend=backend, integral=integral)
    assert_same(image, expected, 1e-5)
    weights = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    for rendered in (image, expected):
        (rendered * weights).sum().backward()
    for leaf, oracle in zip(ours, theirs, strict=True):
        assert_same(leaf.grad, oracle.grad, 1e-4)


def test_a_near_cone_view_is_right_to_first_order(gaussians, cone_scan):
    errors = []
    for size in (3.0, 1.5):
        some = gaussians(30, smallest=0.7 * size, largest=size)
        exact = line_integrals(some, cone_scan)[0].sum(0)
        image = render_gaussians(*some, cone_scan, cut=4.0).double()
        errors.append((image - exact).norm() / exact.norm())
    assert errors[0] < 0.01
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("cut", [2.5, 3.0, 3.5])
def test_a_parallel_view_holds_the_whole_mass(gaussians, cut):
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(3, 180, 5), detector_shape=(90, 90), pixel_mm=(0.9, 0.8)
    )
    some = gaussians(60, smallest=1.5)
    mass = float(((2 * math.pi) ** 1.5 * some[1].prod(1) * some[3]).sum())
    for image in render_gaussians(*some, scan, cut=cut):
        assert float(image.sum()) * 0.9 * 0.8 == pytest.approx(mass, rel=2e-3)


@pytest.mark.parametrize("cut", [2.5, 3.0, 3.5])
def test_volume_and_view_hold_the_same_mass(gaussians, cut):
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(2, 180, 5), detector_shape=(90, 90), pixel_mm=0.9
    )
    wide = VolumeGrid((50, 60, 55), (1.4, 1.2, 1.3))
    some = gaussians(60, smallest=1.5)
    in_volume = float(voxelise_gaussians(*some, wide, cut=cut).sum()) * math.prod(wide.voxel_mm)
    for image in render_gaussians(*some, scan, cut=cut):
        assert float(image.sum()) * 0.9**2 == pytest.approx(in_volume, rel=5e-3)


@pytest.mark.parametrize("name", ["cone", "parallel"])
def test_gradients_of_the_reference_renderer(gaussians, name):
    build = {"cone": ScanGeometry.cone, "parallel": ScanGeometry.parallel}[name]
    distances = {"source_to_axis_mm": 90.0, "source_to_detector_mm": 120.0}
    scan = build(
        angles_rad=[0.3, 1.5],
        detector_shape=(5, 6),
        pixel_mm=(9.0, 8.0),
        **(distances if name == "cone" else {}),
    )
    some = leaves(gaussians(3, spread=0.2, dtype=torch.float64), torch.float64)
    assert torch.autograd.gradcheck(lambda *t: render_gaussians(*normalised(t), scan), some)


def test_gradients_of_the_reference_voxeliser(gaussians):
    coarse = VolumeGrid((3, 4, 3), 8.0, (3.0, -2.0, 1.0))
    some = leaves(gaussians(3, spread=0.2, dtype=torch.float64), torch.float64)
    assert torch.autograd.gradcheck(lambda *t: voxelise_gaussians(*normalised(t), coarse), some)


def test_density_is_what_the_voxels_hold(gaussians, grid):
    some = gaussians()
    volume = voxelise_gaussians(*some, grid, backend="numba")
    assert_same(density_at(*some, grid.points()[2:5, 3]), volume[2:5, 3])
    centre, peak = some[0][7], some[3][7] / kept_mass(3.5, 3)
    alone = tuple(t[7:8] for t in some)
    assert float(density_at(*alone, centre)) == pytest.approx(float(peak), rel=1e-5)


@pytest.mark.parametrize("beam", ["cone", "parallel"])
def test_turning_cloud_and_scan_together_changes_nothing(gaussians, beam):
    def scan(turn):
        options = {"detector_shape": (25, 30), "pixel_mm": 2.2}
        if beam == "cone":
            options |= {"source_to_axis_mm": 90.0, "source_to_detector_mm": 120.0}
        angles = uniform_angles(3, 360, 11) + turn
        return getattr(ScanGeometry, beam)(angles_rad=angles, **options)

    positions, scales, rotations, densities = gaussians()
    turn = 0.7
    quaternion = torch.tensor([math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2)])
    about_z = rotation_matrices(quaternion)
    turned = positions @ about_z.T, scales, product(quaternion, rotations), densities
    straight = render_gaussians(positions, scales, rotations, densities, scan(0.0))
    assert_same(render_gaussians(*turned, scan(turn)), straight, 2e-5)
    # And it is the turn that makes it so.
    assert (render_gaussians(*turned, scan(0.0)) - straight).abs().max() > 0.1 * straight.max()


def test_shifting_cloud_scan_and_grid_together_changes_nothing(gaussians):
    def scan(x, y, z):
        return ScanGeometry.cone(
            angles_rad=uniform_angles(3, 360, 11),
            source_to_axis_mm=90.0,
            source_to_detector_mm=120.0,
            detector_shape=(25, 30),
            pixel_mm=2.2,
            axis_mm=(x, y),
            height_mm=z,
        )

    positions, *shape = gaussians()
    shift = (40.0, -25.0, 30.0)
    moved = positions + torch.tensor(shift)
    image = render_gaussians(positions, *shape, scan(0.0, 0.0, 0.0))
    assert_same(render_gaussians(moved, *shape, scan(*shift)), image, 2e-5)
    volume = voxelise_gaussians(positions, *shape, VolumeGrid((15, 16, 17), 2.0))
    shifted = voxelise_gaussians(moved, *shape, VolumeGrid((15, 16, 17), 2.0, shift))
    assert_same(shifted, volume, 2e-5)


def test_rendering_is_linear_in_the_densities(gaussians, cone_scan):
    positions, scales, rotations, densities = gaussians()
    first, second = densities.clone(), densities.clone()
    first[::2], second[1::2] = 1e-12, 1e-12
    parts = [render_gaussians(positions, scales, rotations, d, cone_scan) for d in (first, second)]
    whole = render_gaussians(positions, scales, rotations, densities, cone_scan)
    assert_same(sum(parts), whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_are_rendered_alone_as_together(gaussians, scan, backend):
    some = gaussians()
    together = render_gaussians(*some, scan, backend=backend)
    assert torch.equal(render_gaussians(*some, scan[[2, 0]], backend=backend), together[[2, 0]])


def test_a_sub_grid_is_a_crop_of_the_whole(gaussians, grid):
    start, shape = (3, 9, 2), (7, 11, 10)
    some = gaussians()
    whole = voxelise_gaussians(*some, grid)
    crop = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    assert_same(voxelise_gaussians(*some, grid.crop(start, shape)), whole[crop])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["behind", "at the source", "left", "below"])
def test_what_the_detector_does_not_see(gaussians, cone_scan, backend, where):
    view = cone_scan[0]
    source = torch.tensor(view.source_mm[0], dtype=torch.float32)
    forward = torch.tensor(view.direction[0], dtype=torch.float32)
    side = torch.tensor(view.u_mm[0], dtype=torch.float32)
    down = torch.tensor(view.v_mm[0], dtype=torch.float32)
    positions, *shape = gaussians(5)
    positions[:] = {
        "behind": source - 20 * forward,
        "at the source": source + 1e-4 * forward,
        "left": source + 90 * forward - 60 * side,
        "below": source + 90 * forward + 60 * down,
    }[where]
    some = leaves((positions, *shape), torch.float32)
    statistics = ScreenStatistics(5)
    image = render_gaussians(*normalised(some), view, backend=backend, statistics=statistics)
    assert not image.any()
    image.sum().backward()
    assert all(not t.grad.any() for t in some)
    assert not statistics.visible.any()
    assert not statistics.gradient.any()


def test_a_gaussian_beside_the_grid_gives_nothing(gaussians, grid):
    positions, *shape = gaussians(5)
    some = leaves((positions + torch.tensor([0.0, 90.0, 0.0]), *shape), torch.float32)
    volume = voxelise_gaussians(*normalised(some), grid)
    assert not volume.any()
    volume.sum().backward()
    assert all(not t.grad.any() for t in some)


def test_no_density_is_no_obstacle(gaussians, cone_scan, grid):
    positions, scales, rotations, densities = gaussians(10)
    densities[3] = 0
    some = leaves((positions, scales, rotations, densities), torch.float32)
    image = render_gaussians(*normalised(some), cone_scan)
    volume = voxelise_gaussians(*normalised(some), grid)
    (image.sum() + volume.sum()).backward()
    assert all(t.grad.isfinite().all() for t in some)
    assert some[3].grad[3] > 0
    assert not some[0].grad[3].any()


def test_no_gaussians_are_an_empty_scene(gaussians, cone_scan, grid):
    none = gaussians(0)
    assert not render_gaussians(*none, cone_scan).any()
    assert not voxelise_gaussians(*none, grid).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_number_is_refused(gaussians, cone_scan, grid, backend):
    for broken in range(4):
        some = gaussians(5)
        some[broken][2] = math.nan
        with pytest.raises(ValueError, match="not finite"):
            render_gaussians(*some, cone_scan, backend=backend)
        with pytest.raises(ValueError, match="not finite"):
            voxelise_gaussians(*some, grid, backend=backend)


def test_arguments_are_checked(gaussians, cone_scan, grid):
    positions, scales, rotations, densities = gaussians(5)
    with pytest.raises(ValueError, match="shapes"):
        render_gaussians(positions, scales[:, 0], rotations, densities, cone_scan)
    with pytest.raises(ValueError, match="shapes"):
        voxelise_gaussians(positions, scales, rotations[:4], densities, grid)
    for cut in (0.0, 4.5):
        with pytest.raises(ValueError, match=f"cut is {cut}"):
            render_gaussians(positions, scales, rotations, densities, cone_scan, cut=cut)
    for backend, device in (("numba", "CPU"), ("triton", "CUDA")):
        with pytest.raises(ValueError, match=f"'{backend}' needs float32 {device} tensors"):
            render_gaussians(*gaussians(5, dtype=torch.float64), cone_scan, backend=backend)
    with pytest.raises(ValueError, match="backend is 'cuda'; one of auto, numba"):
        voxelise_gaussians(*gaussians(5), grid, backend="cuda")


def test_a_scan_that_was_rendered_is_forgotten(gaussians, parallel_scan):
    used = parallel_scan[:]
    render_gaussians(*gaussians(5), used, backend="numba")
    alive = weakref.ref(used)
    del used
    gc.collect()
    assert alive() is None
