import math

import pytest
import torch
import torch.nn.functional as F

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import GaussianCloud, Representation

GRID = VolumeGrid((20, 24, 22), (2.0, 1.6, 1.8), (3.0, -2.0, 1.0))
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(8),
    source_to_axis_mm=110.0,
    source_to_detector_mm=150.0,
    detector_shape=(34, 36),
    pixel_mm=2.2,
    axis_mm=(3.0, -2.0),
    height_mm=1.0,
)


@pytest.fixture
def volume():
    """A bright and a faint blob."""
    points = GRID.points() - torch.tensor(GRID.centre_mm)
    bright = torch.exp(-0.5 * (points / torch.tensor([7.0, 6.0, 8.0])).square().sum(-1))
    faint = torch.exp(-0.5 * ((points - torch.tensor([9.0, 0.0, 5.0])) / 4).square().sum(-1))
    return 0.9 * bright + 0.3 * faint


@pytest.fixture
def projections(volume):
    return project(volume, GRID, SCAN)


@pytest.fixture
def cloud(volume, projections):
    made = GaussianCloud(GRID, num_gaussians=1500)
    made.initialise(volume, projections, SCAN, seed=3)
    return made


def test_activations_keep_their_bounds():
    cloud = GaussianCloud(GRID, num_gaussians=50, scale_bounds=(0.01, 0.2))
    with torch.no_grad():
        for parameter in cloud.parameters():
            parameter.copy_(20 * torch.randn(parameter.shape))
    positions, scales, rotations, densities = cloud.activated()
    assert cloud.edge_mm == pytest.approx(40.0)
    assert scales.min() >= 0.4 - 1e-5
    assert scales.max() <= 8.0 + 1e-5
    assert (densities >= 0).all()
    torch.testing.assert_close(rotations.norm(dim=1), torch.ones(50))
    expected = torch.tensor(GRID.centre_mm) + 20 * cloud.positions
    torch.testing.assert_close(positions, expected)


def test_place_is_undone_by_the_activations():
    cloud = GaussianCloud(GRID, num_gaussians=1)
    positions = torch.tensor([[3.0, -2.0, 1.0], [15.0, 4.0, -9.0]])
    scales, densities = torch.tensor([1.5, 3.0]), torch.tensor([1e-4, 30.0])
    cloud.place(positions, scales, densities)
    assert cloud.num_gaussians == 2
    got_positions, got_scales, got_rotations, got_densities = cloud.activated()
    torch.testing.assert_close(got_positions, positions)
    torch.testing.assert_close(got_scales, scales[:, None].expand(-1, 3))
    torch.testing.assert_close(got_densities, densities)
    torch.testing.assert_close(got_rotations, torch.tensor([[1.0, 0, 0, 0]] * 2))


def test_scales_outside_the_bounds_are_moved_to_them():
    cloud = GaussianCloud(GRID, num_gaussians=1)
    cloud.place(torch.zeros(2, 3), torch.tensor([1e-9, 1e9]), torch.ones(2))
    low, high = cloud.scale_bounds_mm
    expected = torch.tensor([low, high])[:, None].expand(-1, 3)
    torch.testing.assert_close(cloud.activated()[1], expected, rtol=0.1, atol=0)


def test_render_query_and_density_are_one_scene(cloud):
    assert isinstance(cloud, Representation)
    assert cloud.render(SCAN).shape == (8, 34, 36)
    queried = cloud.query(GRID)
    torch.testing.assert_close(cloud.density(GRID.points()), queried, rtol=1e-4, atol=1e-5)
    # Both hold the same mass, and the projector of voxels agrees with the rendering.
    error = (project(queried, GRID, SCAN) - cloud.render(SCAN)).norm() / cloud.render(SCAN).norm()
    assert error < 0.02


def test_renderings_and_queries_of_one_call_are_those_of_their_own(cloud):
    scan, grids = SCAN[:2], [GRID.crop((1, 2, 0), (5, 4, 6)), GRID]
    alone = [cloud.render(scan), *(cloud.query(part) for part in grids)]
    rendered, volumes = cloud.evaluate(scan, grids)
    together = [rendered, *volumes]
    slopes = [
        torch.autograd.grad(sum(r.square().sum() for r in results), list(cloud.parameters()))
        for results in (alone, together)
    ]
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(*slopes, atol=1e-2, rtol=1e-4)


def test_initialisation_resembles_the_first_reconstruction(cloud, volume, projections):
    assert cloud.num_gaussians == 1500
    queried = cloud.query(GRID)
    similarity = F.cosine_similarity(queried.flatten(), volume.flatten(), dim=0)
    assert similarity > 0.95
    assert (cloud.render(SCAN) - projections).norm() < 0.25 * projections.norm()


def test_gaussians_start_in_voxels_above_the_threshold(cloud, volume):
    low = torch.tensor(GRID.corners_mm[0])
    edges = torch.tensor(GRID.voxel_mm[::-1])
    index = ((cloud.activated()[0] - low) / edges).floor().long().flip(1)
    assert (volume[tuple(index.T)] > cloud.density_threshold).all()


def test_calibration_fits_the_rendering_to_the_measurement(cloud, volume, projections):
    rendered = cloud.render(SCAN).detach()
    overlap, energy = (rendered * projections).sum(), rendered.square().sum()
    assert float(overlap) == pytest.approx(float(energy), rel=1e-4)
    assert float(rendered.sum()) == pytest.approx(float(projections.sum()), rel=0.1)
    stronger = GaussianCloud(GRID, num_gaussians=1500)
    stronger.initialise(volume, 3 * projections, SCAN, seed=3)
    torch.testing.assert_close(stronger.render(SCAN), 3 * rendered, rtol=1e-3, atol=1e-3)
    plain = GaussianCloud(GRID, num_gaussians=1500, calibrate=False)
    plain.initialise(volume, 3 * projections, SCAN, seed=3)
    density = F.softplus(plain.raw_densities).detach()
    assert density.max() <= 0.15 * volume.max() * 1.001
    assert density.min() >= 0.15 * 0.05 * 0.999


def test_rays_without_light_have_no_part_in_calibration(cloud, volume, projections):
    """Of eight views every one is rendered, and the values of dark ones mean nothing."""
    light = torch.ones_like(projections)
    calibrated = GaussianCloud(GRID, num_gaussians=1500)
    calibrated.initialise(volume, projections, SCAN, seed=3, weights=2 * light)
    assert torch.equal(calibrated.raw_densities, cloud.raw_densities)
    light[[0, 3]] = 0
    light[:, 20:] = 0
    spoiled = torch.where(light > 0, projections, 9.0)
    calibrated.initialise(volume, spoiled, SCAN, seed=3, weights=light)
    rendered = light * calibrated.render(SCAN).detach()
    overlap, energy = (rendered * projections).sum(), rendered.square().sum()
    assert float(overlap) == pytest.approx(float(energy), rel=1e-4)


def test_initialisation_depends_on_its_seed_alone(cloud, volume, projections):
    torch.manual_seed(1)
    torch.rand(100)
    again = GaussianCloud(GRID, num_gaussians=1500)
    again.initialise(volume, projections, SCAN, seed=3)
    other = GaussianCloud(GRID, num_gaussians=1500)
    other.initialise(volume, projections, SCAN, seed=4)
    for ours, same, different in zip(
        cloud.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(ours, same)
        assert ours.shape[1:] == (4,) or not torch.equal(ours, different)


def test_a_cloud_in_double_precision_stays_so(volume, projections):
    cloud = GaussianCloud(GRID, num_gaussians=10).double()
    cloud.initialise(volume.double(), projections.double(), SCAN, seed=0)
    assert {parameter.dtype for parameter in cloud.parameters()} == {torch.float64}
    assert cloud.render(SCAN[:1]).dtype == cloud.query(GRID).dtype == torch.float64


def test_voxels_are_used_repeatedly_where_there_are_too_few(volume, projections):
    few = torch.where(volume == volume.max(), volume, 0.0)
    few[3, 4, 5] = 0.5
    cloud = GaussianCloud(GRID, num_gaussians=300)
    cloud.initialise(few, projections, SCAN, seed=0)
    assert cloud.num_gaussians == 300
    positions = cloud.activated()[0].detach()
    assert len(positions.unique(dim=0)) == 300
    assert all(parameter.isfinite().all() for parameter in cloud.parameters())


def test_a_single_gaussian(volume, projections, recwarn):
    cloud = GaussianCloud(GRID, num_gaussians=1)
    cloud.initialise(volume, projections, SCAN, seed=0)
    assert all(parameter.isfinite().all() for parameter in cloud.parameters())
    assert cloud.render(SCAN).sum() > 0
    assert not recwarn.list


def test_a_first_reconstruction_that_shows_nothing_is_refused(projections):
    cloud = GaussianCloud(GRID, num_gaussians=10)
    with pytest.raises(ValueError, match="no voxel .* exceeds density_threshold 0.05"):
        cloud.initialise(torch.full(GRID.shape, 0.04), projections, SCAN, seed=0)


def test_a_volume_of_another_shape_is_refused(projections):
    cloud = GaussianCloud(GRID, num_gaussians=10)
    with pytest.raises(ValueError, match=r"\(20, 24, 21\).*\(20, 24, 22\)"):
        cloud.initialise(torch.ones(20, 24, 21), projections, SCAN, seed=0)


def test_views_that_miss_the_gaussians_are_refused(volume, projections):
    away = ScanGeometry.cone(
        angles_rad=uniform_angles(8),
        source_to_axis_mm=110.0,
        source_to_detector_mm=150.0,
        detector_shape=(34, 36),
        pixel_mm=2.2,
        height_mm=500.0,
    )
    cloud = GaussianCloud(GRID, num_gaussians=10)
    with pytest.raises(ValueError, match="no Gaussian is seen"):
        cloud.initialise(volume, projections, away, seed=0)


def test_a_calibration_without_light_is_refused(volume, projections):
    cloud = GaussianCloud(GRID, num_gaussians=10)
    with pytest.raises(ValueError, match="weights are 0 for every ray"):
        cloud.initialise(volume, projections, SCAN, 0, torch.zeros_like(projections))


@pytest.mark.parametrize(("away_mm", "warned"), [(1.5e5, False), (1.7e5, True)])
def test_a_cone_from_too_far_away_for_float32_is_told_of(volume, caplog, away_mm, warned):
    far = ScanGeometry.cone(
        angles_rad=uniform_angles(2),
        source_to_axis_mm=away_mm,
        source_to_detector_mm=away_mm + 40.0,
        detector_shape=(34, 36),
        pixel_mm=2.2,
    )
    cloud = GaussianCloud(GRID, num_gaussians=10)
    cloud.initialise(volume, project(volume, GRID, far), far, seed=0)
    assert ("voxels away" in caplog.text) is warned


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="num_gaussians is 0"):
        GaussianCloud(GRID, num_gaussians=0)
    with pytest.raises(ValueError, match="scale_bounds"):
        GaussianCloud(GRID, scale_bounds=(0.5, 0.1))
    with pytest.raises(ValueError, match="cut is 5"):
        GaussianCloud(GRID, cut=5.0)


def test_a_grown_cloud_travels_through_a_checkpoint(cloud, tmp_path):
    torch.save(cloud.state_dict(), tmp_path / "cloud.pt")
    state = torch.load(tmp_path / "cloud.pt", weights_only=True)
    other = GaussianCloud(GRID, num_gaussians=7)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(state)
    other.resize(len(state["positions"]))
    other.load_state_dict(state)
    assert torch.equal(other.render(SCAN), cloud.render(SCAN))
    assert torch.equal(other.query(GRID), cloud.query(GRID))
    assert len(other.statistics.gradient) == len(other.statistics.visible) == 1500


def test_optimising_the_cloud_fits_the_projections(cloud, projections):
    optimizer = torch.optim.Adam(cloud.parameter_groups(), eps=1e-15)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    assert len(list(cloud.parameters())) == 4
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (cloud.render(SCAN[::2]) - projections[::2]).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert math.isfinite(losses[-1])


def test_the_backward_pass_fills_the_statistics(cloud):
    cloud.render(SCAN[:3]).sum().backward()
    assert (cloud.statistics.visible == 3).all()
    assert (cloud.statistics.gradient > 0).all()
    cloud.render(SCAN[3:4]).sum().backward()
    assert (cloud.statistics.visible == 4).all()
