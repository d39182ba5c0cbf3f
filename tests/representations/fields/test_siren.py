import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.representations import Siren

GRID = VolumeGrid((6, 8, 7), (2.0, 1.5, 1.8), (3.0, -2.0, 1.0))


def volume_of(grid, seed=0):
    return torch.rand(grid.shape, generator=torch.Generator().manual_seed(seed)) - 0.2


def made(grid=GRID, seed=3, **options):
    field = Siren(grid, **{"width": 12, "depth": 2, "samples": 16, **options})
    field.initialise(volume_of(grid), torch.zeros(1), None, seed=seed)
    return field


def interpolate(volume, grid, point):
    """Trilinear interpolation written out: the eight voxels around a point, faces going on."""
    total = 0.0
    place = (np.asarray(point) - np.asarray(grid.origin_mm)) / np.asarray(grid.voxel_mm[::-1])
    for corner in np.ndindex(2, 2, 2):
        index = np.floor(place).astype(int) + corner
        weight = np.prod([1 - abs(p - i) for p, i in zip(place, index, strict=True)])
        x, y, z = (min(max(i, 0), n - 1) for i, n in zip(index, grid.shape[::-1], strict=True))
        total += weight * volume[z, y, x]
    return total


def by_hand(field, point):
    """The density at one point (x, y, z) in mm, in float64 and plain numpy."""
    grid = field.grid
    values = 2 * (np.asarray(point) - np.asarray(grid.centre_mm)) / max(grid.size_mm)
    if field.first is not None:
        first = np.maximum(volume_of(grid).double().numpy(), 0)
        values = np.append(values, interpolate(first, grid, point))
    for layer in field.hidden:
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        values = np.sin(field.omega * (weight @ values + bias))
    last = field.head.weight.detach().double().numpy()[0] @ values + field.head.bias.item()
    return math.log1p(math.exp(20 * last)) / 20


@pytest.mark.parametrize("options", [{}, {"first_input": False}, {"depth": 3, "omega": 11.0}])
def test_densities_are_those_of_the_formula(options):
    field = made(**options)
    low, high = (torch.tensor(corner) for corner in GRID.corners_mm)
    points = low + (high - low) * torch.rand(40, 3, generator=torch.Generator().manual_seed(1))
    expected = [by_hand(field, point) for point in points.double().numpy()]
    np.testing.assert_allclose(field.density(points).detach(), expected, atol=2e-5)
    assert np.ptp(expected) > 0.05


@torch.no_grad()
def test_weights_are_drawn_as_sitzmann_says():
    """Hidden sines then have arguments of spread one, so their values follow the arcsine law."""
    field = made(width=256, depth=3)
    assert field.hidden[0].weight.abs().max() <= 1 / 4
    limit = math.sqrt(6 / 256) / 30
    for layer in (*field.hidden[1:], field.head):
        assert 0.95 * limit < layer.weight.abs().max() <= limit
    values = 2 * torch.rand(2000, 4) - 1
    for number, layer in enumerate(field.hidden):
        argument = field.omega * layer(values)
        values = torch.sin(argument)
        if number:
            assert 0.8 < (argument - field.omega * layer.bias).std() < 1.2
        assert values.std() == pytest.approx(math.sqrt(0.5), rel=0.1)


def test_the_seed_decides_the_weights():
    assert torch.equal(made(seed=5).query(GRID), made(seed=5).query(GRID))
    assert not torch.equal(made(seed=5).query(GRID), made(seed=6).query(GRID))


def test_a_query_is_the_density_at_the_voxels_and_never_negative():
    field = made()
    volume = field.query(GRID)
    torch.testing.assert_close(volume, field.density(GRID.points()))
    assert volume.min() >= 0
    part = GRID.crop((1, 2, 3), (4, 5, 3))
    torch.testing.assert_close(field.query(part), volume[1:5, 2:7, 3:6])


def test_the_first_reconstruction_is_seen():
    field = made()
    other = made()
    other.first = other.first.flip(0)
    assert (field.query(GRID) - other.query(GRID)).abs().max() > 0.01


def test_gradients():
    field = made(width=3, depth=2, omega=5.0).double()
    places = 0.5 * (2 * torch.rand(2, 3, 3, dtype=torch.float64) - 1)
    names = [name for name, _ in field.named_parameters()]

    def density(points, *values):
        return torch.func.functional_call(
            _Field(field), {f"field.{n}": v for n, v in zip(names, values, strict=True)}, points
        )

    parameters = tuple(p.detach().requires_grad_() for p in field.parameters())
    assert gradcheck(density, (places.requires_grad_(), *parameters))


class _Field(torch.nn.Module):
    """A field as a function of points, for `functional_call`."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, points):
        return self.field.field(points)


def test_a_saved_field_is_the_same():
    field = made()
    other = Siren(GRID, width=12, depth=2, samples=16)
    assert not torch.equal(other.query(GRID), field.query(GRID))
    other.load_state_dict(field.state_dict())
    assert torch.equal(other.query(GRID), field.query(GRID))


@pytest.mark.parametrize(("first_input", "largest"), [(True, 0.009), (False, 0.018)])
def test_it_learns_a_scene_from_its_projections(ball_scene, first_input, largest):
    """Root mean square error, where the truth's is 0.11 and half the truth was the first guess."""
    grid, scan, truth, projections = ball_scene
    field = Siren(
        grid, width=32, depth=2, omega=10.0, first_input=first_input, rate=2e-3, samples=20
    )
    field.initialise(0.5 * truth, projections, scan, seed=0)
    optimizer = torch.optim.Adam(field.parameter_groups())
    for step in range(120):
        view = [7 * step % len(scan)]
        loss = (field.render(scan[view]) - projections[view]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert (field.query(grid) - truth).square().mean().sqrt() < largest


@pytest.mark.parametrize(
    ("options", "words"),
    [({"width": 0}, "width and depth are 0 and"), ({"depth": 0}, "and 0"), ({"omega": 0}, "omega")],
)
def test_sizes_that_make_no_network(options, words):
    with pytest.raises(ValueError, match=words):
        made(**options)


def test_a_first_reconstruction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(6, 8, 6\).*\(6, 8, 7\)"):
        Siren(GRID).initialise(torch.ones(6, 8, 6), torch.zeros(1), None, seed=0)
