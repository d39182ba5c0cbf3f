import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.representations.fields.line_transformer import LineBlock, LineTransformer

GRID = VolumeGrid((6, 8, 7), (2.0, 1.5, 1.8), (3.0, -2.0, 1.0))
SMALL = {"width": 8, "heads": 2, "expansion": 2, "levels": 3, "base": 4, "table": 10, "samples": 16}


def made(grid=GRID, seed=3, **options):
    field = LineTransformer(grid, **{**SMALL, **options})
    field.initialise(torch.full(grid.shape, 0.5), torch.zeros(1), None, seed=seed)
    with torch.no_grad():
        # As after training: features that matter, and a bias that prefers some places.
        field.encoding.table.normal_(generator=torch.Generator().manual_seed(seed))
        field.head.weight *= 10
        for block in field.blocks:
            block.attention.bias.normal_(generator=torch.Generator().manual_seed(seed))
    return field


def arrays(module):
    return [p.detach().double().numpy() for p in (module.weight, module.bias)]


def linear(module, values):
    weight, bias = arrays(module)
    return weight @ values + bias


def normalised(module, values):
    weight, bias = arrays(module)
    return weight * (values - values.mean()) / math.sqrt(values.var() + module.eps) + bias


def attended(attention, segment):
    """Attention among the features of a few points, head by head and pair by pair."""
    heads, size = attention.heads, len(segment[0]) // attention.heads
    bias = attention.bias.detach().double().numpy()
    mixed = [linear(attention.mix, point) for point in segment]
    parts = [np.split(values, 3) for values in mixed]  # query, key, value of each point
    results = []
    for i in range(len(segment)):
        result = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            affinity = [
                parts[i][0][part] @ parts[j][1][part] / math.sqrt(size) + bias[i, j, head]
                for j in range(len(segment))
            ]
            weight = np.exp(affinity) / np.exp(affinity).sum()
            result.append(sum(w * p[2][part] for w, p in zip(weight, parts, strict=True)))
        results.append(linear(attention.out, np.concatenate(result)))
    return results


def block_by_hand(block, segment):
    mixed = attended(block.attention, [normalised(block.attention_norm, p) for p in segment])
    segment = [point + other for point, other in zip(segment, mixed, strict=True)]
    results = []
    for point in segment:
        wide = linear(block.widen, normalised(block.forward_norm, point))
        gelu = 0.5 * wide * (1 + np.array([math.erf(w / math.sqrt(2)) for w in wide]))
        results.append(point + linear(block.narrow, gelu))
    return results


def leaky(values):
    return np.where(values > 0, values, 0.01 * values)


def segment_by_hand(field, encoded):
    """Densities of the points of one segment, from their encodings, in float64."""
    values = [leaky(linear(field.enter, e)) for e in encoded]
    for block in field.blocks:
        values = block_by_hand(block, values)
    joined = [np.concatenate(pair) for pair in zip(values, encoded, strict=True)]
    last = [linear(field.head, leaky(linear(field.rejoin, j)))[0] for j in joined]
    return [1 / (1 + math.exp(-value)) for value in last]


def places(rays, samples, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(rays, samples, 3, generator=generator) - 1


@pytest.mark.parametrize(
    ("options", "samples"),
    [({}, 6), ({}, 5), ({"blocks": 2, "line_size": 3, "heads": 4}, 6), ({"line_size": 1}, 3)],
)
def test_densities_are_those_of_the_formula(options, samples):
    field = made(**options)
    points = places(4, samples)
    with torch.no_grad():
        found = field.field(points)
        encoded = field.encoding(points.reshape(-1, 3)).double().view(4, samples, -1).numpy()
    for ray in range(4):
        for start in range(0, samples, field.line_size):
            # A point that is alone in its segment sees itself only.
            stop = min(start + field.line_size, samples)
            expected = segment_by_hand(field, encoded[ray, start:stop])
            np.testing.assert_allclose(found[ray, start:stop], expected, atol=2e-6)
    assert found.std() > 0.01


def test_a_point_sees_its_segment_and_nothing_else():
    field, points = made(), places(1, 8)
    moved = points.clone()
    moved[0, 3] = -moved[0, 3]
    with torch.no_grad():
        change = (field.field(moved) - field.field(points)).abs()[0]
    assert (change[2:4] > 1e-5).all()
    torch.testing.assert_close(change[[0, 1, 4, 5, 6, 7]], torch.zeros(6), atol=1e-7, rtol=0)


def test_the_bias_tells_the_places_of_a_segment_apart():
    field, points = made(), places(3, 4)
    exchanged = points.view(3, 2, 2, 3).flip(2).view(3, 4, 3)

    def difference():
        with torch.no_grad():
            back = field.field(exchanged).view(3, 2, 2).flip(2).view(3, 4)
            return (field.field(points) - back).abs().max()

    assert difference() > 1e-4
    torch.nn.init.zeros_(field.blocks[0].attention.bias)
    assert difference() < 1e-6


def test_a_query_asks_along_the_rows():
    field = made()
    points = field.unit(GRID.points())
    with torch.no_grad():
        volume = field.query(GRID)
        rows = field.field(points.flatten(0, 1)).view(GRID.shape)
        alone = field.density(GRID.points())
    torch.testing.assert_close(volume, rows)
    assert not torch.allclose(volume, alone, atol=1e-4)
    single = made(line_size=1)
    with torch.no_grad():
        torch.testing.assert_close(single.query(GRID), single.density(GRID.points()))


def test_an_even_part_of_a_grid_is_a_crop():
    field = made()
    with torch.no_grad():
        volume, part = field.query(GRID), field.query(GRID.crop((1, 2, 2), (4, 5, 4)))
    torch.testing.assert_close(part, volume[1:5, 2:7, 2:6])


def test_gradients_of_a_block():
    block = LineBlock(4, line_size=2, heads=2, expansion=2).double()
    names = [name for name, _ in block.named_parameters()]

    def run(features, *values):
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (features,))

    features = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    parameters = tuple(torch.randn_like(p).requires_grad_() for p in block.parameters())
    assert gradcheck(run, (features, *parameters))


def test_every_parameter_gets_a_gradient():
    field = made()
    field.field(places(20, 6)).square().sum().backward()
    groups = field.parameter_groups()
    listed = {id(p) for group in groups for p in group["params"]}
    assert listed == {id(p) for p in field.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(listed)
    assert all(p.grad is not None and p.grad.any() for p in field.parameters())


def test_a_saved_field_is_the_same():
    field, other = made(), made(seed=4)
    with torch.no_grad():
        assert not torch.equal(other.query(GRID), field.query(GRID))
        other.load_state_dict(field.state_dict())
        assert torch.equal(other.query(GRID), field.query(GRID))


@pytest.mark.parametrize(("level", "expected"), [(0.2, 0.2), (-1.0, 0.01), (7.0, 0.99)])
def test_it_begins_at_the_mean_of_the_first_reconstruction(level, expected):
    field = LineTransformer(GRID, **SMALL)
    field.initialise(torch.full(GRID.shape, level), torch.zeros(1), None, seed=0)
    torch.nn.init.zeros_(field.head.weight)
    with torch.no_grad():
        torch.testing.assert_close(field.query(GRID), torch.full(GRID.shape, expected))


def test_the_seed_decides_the_start():
    def start(seed):
        field = LineTransformer(GRID, **SMALL)
        field.initialise(torch.zeros(GRID.shape), torch.zeros(1), None, seed=seed)
        return field.state_dict()

    one, same, other = start(5), start(5), start(6)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["enter.weight"], other["enter.weight"])
    assert not torch.equal(one["encoding.table"], other["encoding.table"])


def test_it_learns_a_scene_from_its_projections(ball_scene):
    """Root mean square error, where the truth's is 0.11."""
    grid, scan, truth, projections = ball_scene
    field = LineTransformer(grid, levels=4, base=4, growth=1.6, table=12, rate=3e-3, samples=20)
    field.initialise(truth.mean().expand(grid.shape), projections, scan, seed=0)
    optimizer = torch.optim.Adam(field.parameter_groups())
    for step in range(120):
        view = [7 * step % len(scan)]
        loss = (field.render(scan[view]) - projections[view]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert (field.query(grid) - truth).square().mean().sqrt() < 0.022


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": 0}, "blocks is 0"),
        ({"heads": 3}, "width is 8, heads 3"),
        ({"heads": 0}, "heads 0"),
        ({"line_size": 0}, "line_size is 0"),
    ],
)
def test_sizes_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        made(**options)
