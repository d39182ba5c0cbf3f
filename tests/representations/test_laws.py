"""What holds for every representation. A new one adds a line to REPRESENTATIONS."""

import pytest
import torch

from diffnr_lightning.projectors import project
from diffnr_lightning.representations import (
    GaussianCloud,
    LineTransformer,
    NeuralField,
    Siren,
    VoxelGrid,
)

ENCODING = {"levels": 4, "base": 4, "growth": 1.6, "table": 12}
REPRESENTATIONS = {
    "gaussians": lambda grid: GaussianCloud(grid, num_gaussians=300),
    "hash field": lambda grid: NeuralField(grid, samples=64, **ENCODING),
    "line transformer": lambda grid: LineTransformer(
        grid, samples=64, width=8, heads=2, **ENCODING
    ),
    "siren": lambda grid: Siren(grid, width=16, depth=2, samples=64),
    "hash field in matter": lambda grid: NeuralField(grid, samples=64, empty=0.02, **ENCODING),
    "line transformer in matter": lambda grid: LineTransformer(
        grid, samples=63, width=8, heads=2, empty=0.02, **ENCODING
    ),
    "siren in matter": lambda grid: Siren(grid, width=16, depth=2, samples=64, empty=0.02),
    "voxels": VoxelGrid,
}


def truth_of(grid):
    """A soft ellipsoid, well inside the grid."""
    sizes = torch.tensor(grid.size_mm[::-1])
    offsets = (grid.points() - torch.tensor(grid.centre_mm)) / (0.14 * sizes)
    return torch.exp(-0.5 * offsets.square().sum(-1))


@pytest.fixture(scope="module", params=list(REPRESENTATIONS))
def make(request):
    """A function that starts the representation from the truth on a grid, seen by a scan."""

    def started(grid, scan, seed=0):
        truth = truth_of(grid)
        torch.manual_seed(seed)
        representation = REPRESENTATIONS[request.param](grid)
        representation.initialise(truth, project(truth, grid, scan), scan, seed)
        return representation

    return started


@torch.no_grad()
def test_views_are_rendered_one_by_one(make, grid, cone_scan):
    representation = make(grid, cone_scan)
    together = representation.render(cone_scan)
    assert together.shape == (len(cone_scan), *cone_scan.detector_shape)
    for view in range(len(cone_scan)):
        alone = representation.render(cone_scan[torch.tensor([view])])
        torch.testing.assert_close(alone[0], together[view], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_window_of_the_detector_is_rendered_as_a_part_of_the_whole(make, grid, cone_scan):
    representation = make(grid, cone_scan)
    whole = representation.render(cone_scan)
    for rows, columns in ((slice(3, 15), slice(5, 21)), (slice(2, 25, 4), slice(1, 30, 3))):
        part = representation.render(cone_scan.window(rows, columns))
        torch.testing.assert_close(part, whole[:, rows, columns], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_part_of_the_grid_is_queried_as_a_part_of_the_whole(make, grid, cone_scan):
    representation = make(grid, cone_scan)
    # The line transformer pairs voxels along x, so that parts begin at an even one.
    part = representation.query(grid.crop((4, 3, 2), (8, 10, 12)))
    whole = representation.query(grid)[4:12, 3:13, 2:14]
    torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_query_is_the_density_at_the_centres_of_voxels(make, grid, cone_scan):
    representation = make(grid, cone_scan)
    if isinstance(representation, LineTransformer):
        pytest.skip("its density depends on the line that it is asked on")
    at_points = representation.density(grid.points())
    torch.testing.assert_close(at_points, representation.query(grid), atol=2e-3, rtol=1e-2)


@torch.no_grad()
def test_points_are_taken_in_any_precision(make, grid, cone_scan):
    representation, points = make(grid, cone_scan), grid.points()[5:7, 9, ::3]
    exact = representation.density(points.double())
    torch.testing.assert_close(exact, representation.density(points))


@torch.no_grad()
def test_outside_of_the_grid_there_is_nothing(make, grid, cone_scan):
    far = torch.tensor(grid.centre_mm) + torch.tensor([[0.0, 0.0, 90.0], [70.0, 0.0, 0.0]])
    assert make(grid, cone_scan).density(far).abs().max() < 1e-4


def test_a_corner_without_matter_is_queried_with_gradients(make, grid, cone_scan):
    representation = make(grid, cone_scan)
    corner = representation.query(grid.crop((0, 0, 0), (2, 2, 4)))
    assert corner.shape == (2, 2, 4)
    if getattr(representation, "matter", None) is not None:
        assert not corner.any()
    assert corner.requires_grad
    corner.sum().backward()


@torch.no_grad()
def test_renderings_are_projections_of_the_volume(make, grid, scan):
    representation = make(grid, scan)
    rendered, projected = (
        representation.render(scan),
        project(representation.query(grid), grid, scan),
    )
    # A field that begins nearly constant ends at the box at once, voxels fade out over half of one.
    assert (rendered - projected).norm() < 0.2 * projected.norm()


def test_gradients_reach_every_parameter(make, grid, cone_scan):
    representation = make(grid, cone_scan)
    groups = representation.parameter_groups()
    assert all(group["lr"] > 0 and group["name"] for group in groups)
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert grouped == {id(p) for p in representation.parameters() if p.requires_grad}
    loss = representation.render(cone_scan).square().mean()
    loss = loss + (representation.query(grid) - 0.3).square().mean()
    loss.backward()
    for name, parameter in representation.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_some_steps_bring_renderings_nearer_to_the_projections(make, grid, cone_scan):
    representation = make(grid, cone_scan)
    measured = project(0.5 * truth_of(grid), grid, cone_scan)
    optimizer = torch.optim.Adam(representation.parameter_groups(), eps=1e-15)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (representation.render(cone_scan) - measured).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@torch.no_grad()
def test_the_same_seed_starts_the_same_and_a_state_restores_it(make, grid, cone_scan):
    first, again = make(grid, cone_scan), make(grid, cone_scan)
    assert torch.equal(first.query(grid), again.query(grid))
    other = make(grid, cone_scan, seed=1)
    if hasattr(other, "resize"):
        other.resize(len(next(iter(first.state_dict().values()))))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.query(grid), other.query(grid))


def test_a_first_reconstruction_of_another_shape_is_refused(make, grid, cone_scan):
    representation = make(grid, cone_scan)
    with pytest.raises(ValueError, match=r"\(18, 22, 21\).*\(18, 22, 20\)"):
        measured = torch.zeros(len(cone_scan), *cone_scan.detector_shape)
        representation.initialise(torch.ones(18, 22, 21), measured, cone_scan, 0)
