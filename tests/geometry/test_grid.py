"""The voxels of a volume: positions, refusals."""

import numpy as np
import pytest
import torch

from diffnr_lightning.geometry import VolumeGrid


def test_grid_knows_its_points() -> None:
    grid = VolumeGrid((4, 3, 2), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    assert grid == eval(repr(grid), {"VolumeGrid": VolumeGrid})
    points = grid.points(dtype=torch.float64)
    np.testing.assert_allclose(points[0, 0, 0], grid.origin_mm)
    np.testing.assert_allclose(points.mean((0, 1, 2)), grid.centre_mm)
    np.testing.assert_allclose(points[1, 2, 1] - points[0, 0, 0], [3.0, 4.0, 1.0])
    np.testing.assert_allclose(
        grid.crop((1, 1, 0), (2, 2, 2)).points(dtype=torch.float64), points[1:3, 1:3, :2]
    )
    assert VolumeGrid((2, 2, 2), 1.5).voxel_mm == (1.5, 1.5, 1.5)


@pytest.mark.parametrize("start", [(0, 0, 0), (1, 2, 3), (2, 0, 4)])
def test_where_a_crop_was_cut_out_is_found(start: tuple[int, int, int]) -> None:
    grid = VolumeGrid((5, 6, 7), (1.1, 0.7, 1 / 3), (3.0, -2.0, 1e3))
    part = grid.crop(start, (3, 4, 3))
    assert grid.cut_of(part) == tuple(
        slice(a, a + n) for a, n in zip(start, (3, 4, 3), strict=True)
    )
    assert grid.cut_of(grid) == (slice(0, 5), slice(0, 6), slice(0, 7))


def test_other_voxels_are_no_cut() -> None:
    grid = VolumeGrid((5, 6, 7), 2.0)
    assert grid.cut_of(VolumeGrid((3, 4, 3), 2.0, (0.5, 0.0, 0.0))) is None
    assert grid.cut_of(VolumeGrid((5, 6, 7), 1.0)) is None
    assert grid.cut_of(grid.enlarged(0.5)[0]) is None
    assert grid.cut_of(VolumeGrid((5, 6, 7), 2.0, (0.0, 2.0, 0.0))) is None


def test_a_crop_of_everything_is_the_grid_itself() -> None:
    """Its centre is not computed anew: a representation on a grid is asked for that grid, not for a neighbour of it."""
    grid = VolumeGrid((9, 7, 8), 1.37, (3.3, -2.1, 7.7))
    assert grid.crop((0, 0, 0), grid.shape) == grid


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor], ids=["list", "array", "tensor"])
def test_numbers_of_a_grid_may_be_arrays(kind) -> None:
    grid = VolumeGrid(kind((2, 3, 4)), kind((1.0, 2.0, 0.5)), kind((1.0, 0.0, -3.0)))
    assert grid == VolumeGrid((2, 3, 4), (1.0, 2.0, 0.5), (1.0, 0.0, -3.0))
    assert hash(grid) == hash(VolumeGrid((2, 3, 4), (1.0, 2.0, 0.5), (1.0, 0.0, -3.0)))
    assert VolumeGrid((2, 3, 4), np.float32(2.0)) == VolumeGrid((2, 3, 4), torch.tensor(2.0))


def test_an_enlarged_grid_holds_the_voxels_of_the_smaller_one() -> None:
    grid = VolumeGrid((4, 5, 6), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    larger, inner = grid.enlarged(0.5)
    assert larger.shape == (6, 9, 10)
    torch.testing.assert_close(
        larger.points(dtype=torch.float64)[inner], grid.points(dtype=torch.float64)
    )
    assert grid.enlarged(0.0)[0] == grid
    with pytest.raises(ValueError, match="share is -1"):
        grid.enlarged(-1)


@pytest.mark.parametrize(
    "arguments",
    [
        ((0, 2, 2), 1.0),
        ((2, 2), 1.0),
        ((63.5, 2, 2), 1.0),
        ((2, np.inf, 2), 1.0),
        ("8", 1.0),
        ((2, 2, 2), "wide"),
        ((2, 2, 2), 1.0, (0.0, np.nan, 0.0)),
        ((2, 2, 2), -1.0),
        ((2, 2, 2), (1.0, 2.0)),
        ((2, 2, 2), np.nan),
    ],
)
def test_impossible_grids_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="expected"):
        VolumeGrid(*arguments)
