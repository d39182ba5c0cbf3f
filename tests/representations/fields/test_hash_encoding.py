"""The hash encoding: its layout, its values and gradients by every backend."""

import sys
import types

import numba
import pytest
import torch

from diffnr_lightning.representations import HashEncoding
from diffnr_lightning.representations.fields.hash_encoding import encode_reference

SMALL = {"levels": 6, "base": 5, "growth": 1.6, "table": 11}


def encoding(**options):
    torch.manual_seed(3)
    made = HashEncoding(**{**SMALL, **options})
    with torch.no_grad():
        made.table.mul_(1e4)  # to the order of one
    return made


def places(count=3000):
    generator = torch.Generator().manual_seed(1)
    points = 2 * torch.rand(count, 3, generator=generator) - 1
    points[:3] = torch.tensor([[1.0, 1, 1], [-1, -1, -1], [1, -1, 0.3]])
    return points


def test_the_layout_of_naf():
    layout = HashEncoding().layout
    assert [level.resolution for level in layout[:4]] == [16, 32, 64, 128]
    assert [level.size for level in layout[:4]] == [16**3, 32**3, 64**3, 2**19]
    assert [level.hashed for level in layout] == [False] * 3 + [True] * 13
    assert layout[-1].start + layout[-1].size == 7_114_752
    assert layout[2].scale == 63


def test_dense_levels_interpolate_what_stands_at_their_vertices():
    made = HashEncoding(levels=1, base=9, table=16)
    (level,) = made.layout
    assert (level.resolution, level.size) == (9, 736)  # rounded up to a multiple of 8
    index = torch.arange(level.size)
    vertices = torch.stack([index % 9, index // 9 % 9, index // 81], dim=1).float()
    with torch.no_grad():
        made.table[:, 0] = vertices @ torch.tensor([1.0, 2.0, 3.0])
        made.table[:, 1] = 5.0
    points = 0.8 * places(500)
    # Vertex i stands where 8 (p + 1) / 2 + 0.5 is i.
    expected = (4 * (points + 1) + 0.5) @ torch.tensor([1.0, 2.0, 3.0])
    encoded = made(points)
    torch.testing.assert_close(encoded[:, 0], expected)
    torch.testing.assert_close(encoded[:, 1], torch.full((500,), 5.0))


def test_hashed_levels_find_the_entries_of_the_paper():
    made = HashEncoding(levels=1, base=65, table=10)
    # A point on vertex (7, 11, 30): the other vertices of its cell have no weight.
    point = (torch.tensor([[7.0, 11.0, 30.0]]) - 0.5) / 32 - 1
    mixed = 7 ^ (11 * 2654435761 % 2**32) ^ (30 * 805459861 % 2**32)
    torch.testing.assert_close(made(point)[0], made.table[mixed % 2**10].detach())


def test_points_outside_count_as_the_nearest_inside():
    made = encoding()
    far = torch.tensor([[1.7, -0.2, -3.0]])
    assert torch.equal(made(far), made(torch.tensor([[1.0, -0.2, -1.0]])))


@pytest.mark.parametrize("options", [{}, {"growth": 2.0, "levels": 8}, {"levels": 1}])
def test_kernels_agree_with_the_reference_in_double_precision(options):
    made, points = encoding(**options), places()
    assert made.choose(points) == "numba"
    table = made.table.detach().double().requires_grad_()
    expected = encode_reference(points.double(), table, made.layout)
    encoded = made(points)
    # A rounding of the place is a larger share of a finer cell.
    rounding = 4e-7 * made.layout[-1].resolution
    torch.testing.assert_close(encoded.double(), expected, atol=rounding, rtol=0)
    weights = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((encoded * weights).sum(), made.table)
    (truth,) = torch.autograd.grad((expected * weights).sum(), table)
    assert (gradient - truth).norm() < rounding * truth.norm()


def test_levels_whose_vertices_are_more_than_integers_count_are_hashed():
    made = encoding(levels=2, base=2**20, growth=2.0)
    assert [level.resolution for level in made.layout] == [2**20, 2**21]
    points = places(100)
    expected = encode_reference(points, made.table, made.layout)
    torch.testing.assert_close(made(points), expected)
    made(points).sum().backward()
    assert torch.isfinite(made.table.grad).all()


def test_results_do_not_depend_on_threads():
    made, points = encoding(levels=5), places(40_000)
    results = []
    before = numba.get_num_threads()
    try:
        for threads in {1, 2, numba.config.NUMBA_NUM_THREADS}:
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
            encoded = made(points)
            (gradient,) = torch.autograd.grad(encoded.square().sum(), made.table)
            results.append((encoded.detach(), gradient))
    finally:
        numba.set_num_threads(before)
    for encoded, gradient in results[1:]:
        assert torch.equal(encoded, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_no_points_are_no_trouble():
    made = encoding()
    encoded = made(torch.empty(0, 3))
    assert encoded.shape == (0, 12)
    encoded.sum().backward()
    assert not made.table.grad.any()


@pytest.mark.parametrize("options", [{"features": 3}, {"backend": "reference"}])
def test_the_reference_serves_what_the_kernels_do_not(options):
    made, points = encoding(**options), places(50)
    assert made.choose(points) == "reference"
    torch.testing.assert_close(made(points), encode_reference(points, made.table, made.layout))
    assert encoding().double().choose(points.double()) == "reference"


def test_tinycudann_works_on_our_table(monkeypatch):
    class Encoding(torch.nn.Module):
        """What the bindings show: flat parameters, points in [0, 1]."""

        def __init__(self, dimensions, options, dtype):
            super().__init__()
            assert (dimensions, dtype) == (3, torch.float32)
            assert options["n_levels"] == 6
            assert options["per_level_scale"] == 1.6
            assert options["log2_hashmap_size"] == 11
            self.params = torch.nn.Parameter(torch.zeros(plain.table.numel()))

        def forward(self, points):
            return encode_reference(2 * points - 1, self.params.view(-1, 2), plain.layout)

    plain, points = encoding(), places()
    monkeypatch.setitem(sys.modules, "tinycudann", types.SimpleNamespace(Encoding=Encoding))
    native = encoding(backend="tinycudann")
    torch.testing.assert_close(native(points), plain(points))
    for made in (native, plain):
        made(points).square().sum().backward()
    torch.testing.assert_close(native.table.grad, plain.table.grad)
    assert list(native.state_dict()) == list(plain.state_dict()) == ["table"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 0}, "levels, features and base are 0"),
        ({"growth": 0.5}, "growth is 0.5"),
        ({"table": 40}, "table is 40"),
        ({"levels": 16, "growth": 4.0}, "vertices an edge at the finest level"),
        ({"backend": "tinycuda"}, "backend is 'tinycuda'; one of auto"),
    ],
)
def test_settings_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        HashEncoding(**{**SMALL, **options})


def test_points_and_backends_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 5, 3\); \(N, 3\)"):
        encoding()(torch.zeros(4, 5, 3))
    with pytest.raises(ValueError, match="backend 'numba' needs float32"):
        encoding(backend="numba", features=4)(places(4))
