import pytest
import torch
from torch.autograd import gradcheck

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import backproject, project
from diffnr_lightning.representations import Representation, VoxelGrid

GRID = VolumeGrid((6, 8, 7), (2.0, 1.5, 1.8), (3.0, -2.0, 1.0))
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(3, 360, 10),
    source_to_axis_mm=40.0,
    source_to_detector_mm=60.0,
    detector_shape=(9, 11),
    pixel_mm=2.5,
    axis_mm=(3.0, -2.0),
)


@pytest.fixture
def voxels():
    made = VoxelGrid(GRID)
    volume = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(0)) - 0.2
    made.initialise(volume, torch.zeros(3, 9, 11), SCAN, seed=0)
    return made


def test_it_is_the_first_reconstruction_without_its_negative_part(voxels):
    volume = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(0)) - 0.2
    assert isinstance(voxels, Representation)
    assert (volume < 0).any()
    assert torch.equal(voxels.query(GRID), volume.clamp(min=0))
    assert torch.equal(voxels.render(SCAN), project(volume.clamp(min=0), GRID, SCAN))


def test_density_at_voxel_centres_is_the_voxel(voxels):
    torch.testing.assert_close(voxels.density(GRID.points()), voxels.query(GRID))


def test_density_is_linear_between_centres_and_nothing_outside(voxels):
    volume, points = voxels.query(GRID), GRID.points()
    between = 0.25 * points[2, 3, 4] + 0.75 * points[2, 3, 5]
    expected = 0.25 * volume[2, 3, 4] + 0.75 * volume[2, 3, 5]
    torch.testing.assert_close(voxels.density(between), expected)
    outside = torch.tensor([[40.0, 0.0, 0.0], [3.0, -40.0, 1.0]])
    assert not voxels.density(outside).any()


def test_density_of_a_grid_of_one_slice():
    flat = VolumeGrid((1, 4, 5), 2.0, (1.0, 2.0, 3.0))
    voxels = VoxelGrid(flat)
    volume = torch.rand(flat.shape)
    voxels.initialise(volume, torch.zeros(3, 9, 11), SCAN, seed=0)
    torch.testing.assert_close(voxels.density(flat.points()), volume)


def test_a_sub_grid_is_a_crop(voxels):
    part = GRID.crop((1, 2, 3), (4, 5, 3))
    torch.testing.assert_close(voxels.query(part), voxels.query(GRID)[1:5, 2:7, 3:6])


@pytest.mark.gpu
def test_the_gradient_of_a_crop_repeats_to_the_bit():
    grid = VolumeGrid((64, 64, 64), 1.0)
    voxels = VoxelGrid(grid).cuda()
    voxels.values.data.uniform_()
    part, found = grid.crop((5, 9, 3), (48, 40, 50)), []
    assert torch.equal(voxels.query(part), voxels.values[5:53, 9:49, 3:53])
    for _ in range(5):
        voxels.zero_grad()
        voxels.query(part).square().sum().sqrt().backward()
        found.append(voxels.values.grad.clone())
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_grid_of_one_slice_ends_above_and_below_it():
    flat = VoxelGrid(VolumeGrid((1, 4, 4), (2.0, 1.0, 1.0)))
    flat.values.data.fill_(3.0)
    heights = torch.tensor([0.0, 1.0, -1.0, 2.0, 50.0])
    points = torch.stack([torch.zeros(5), torch.zeros(5), heights], dim=1)
    torch.testing.assert_close(flat.density(points), torch.tensor([3.0, 1.5, 1.5, 0.0, 0.0]))


def test_gradients_of_density(voxels):
    double = VoxelGrid(VolumeGrid((2, 3, 2), 4.0)).double()
    volume = 0.1 + torch.rand(2, 3, 2, dtype=torch.float64)
    points = 8 * torch.rand(5, 3, dtype=torch.float64) - 4

    def density(values, places):
        double._parameters["values"] = values
        return double.density(places)

    assert gradcheck(density, (volume.requires_grad_(), points.requires_grad_()))


def test_the_gradient_of_a_rendering_is_its_backprojection(voxels):
    weights = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(1))
    (voxels.render(SCAN) * weights).sum().backward()
    expected = backproject(weights, GRID, SCAN)
    # Voxels that are clipped at zero are not moved.
    expected[voxels.values < 0] = 0
    torch.testing.assert_close(voxels.values.grad, expected)


def test_optimising_it_fits_the_projections(voxels):
    measured = project(torch.full(GRID.shape, 0.5), GRID, SCAN)
    groups = voxels.parameter_groups()
    assert [p for group in groups for p in group["params"]] == list(voxels.parameters())
    optimizer = torch.optim.Adam(groups)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (voxels.render(SCAN) - measured).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_volume_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(6, 8, 6\).*\(6, 8, 7\)"):
        VoxelGrid(GRID).initialise(torch.ones(6, 8, 6), torch.zeros(3, 9, 11), SCAN, seed=0)


def test_a_voxel_that_was_pushed_negative_comes_back(voxels):
    """Ten steps towards less than nothing, then twenty towards one."""
    optimizer = torch.optim.Adam(voxels.parameter_groups())
    for target in [-1.0] * 10 + [1.0] * 20:
        optimizer.zero_grad()
        (voxels.query(GRID)[0, 0, 0] - target).square().backward()
        optimizer.step()
        voxels.constrain()
        assert float(voxels.values.detach().min()) >= 0.0
    assert float(voxels.query(GRID)[0, 0, 0].detach()) > 0.05
