"""Patches are those of the volume, and a tiling speaks for every voxel once, wherever it begins."""

from itertools import product

import pytest
import torch

from diffnr_lightning.volume_patches import (
    cut_patches,
    patch_coordinates,
    patch_tiling,
    whole_in_patch,
)


def test_patches_and_their_places_are_those_of_the_volume():
    volume = torch.arange(10 * 12 * 14.0).reshape(10, 12, 14)
    corner = torch.tensor([[0, 1, 2], [6, 8, 10]])
    patches = cut_patches(volume, corner, 4)
    assert torch.equal(patches[1, 0], volume[6:, 8:, 10:])
    assert torch.equal(patches[0, 0], volume[:4, 1:5, 2:6])
    places = patch_coordinates(corner, volume.shape, 4)
    assert places.shape == (2, 3, 4, 4, 4)
    assert places[1, :, -1, -1, -1].tolist() == [1, 1, 1]
    assert places[0, 0, 0].unique().tolist() == [-1]
    assert whole_in_patch(volume[None, None], 4).shape == (1, 1, 4, 4, 4)


@pytest.mark.parametrize("shape", [(8, 9, 11), (4, 5, 7)])
def test_every_voxel_is_spoken_for_once_at_every_offset(shape):
    volume = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    for offset in product(range(4), repeat=3):
        tiles = patch_tiling(shape, 4, offset)
        count, found = torch.zeros(shape), torch.full(shape, -1.0)
        for tile in tiles:
            assert all(0 <= first <= n - 4 for first, n in zip(tile.corner, shape, strict=True))
            patch = cut_patches(volume, torch.tensor([tile.corner]), 4)[0, 0]
            found[tile.owned] = patch[tile.inside]
            count[tile.owned] += 1
        assert (count == 1).all()
        assert torch.equal(found, volume)


def test_patches_lie_as_often_where_training_draws_them():
    """An edge of 11 with patches of 4: a start from -3 to 10, moved inside, as `PatchDraws` does."""
    drawn = torch.arange(-3, 11).clamp(0, 7).bincount(minlength=8)
    tilings = [patch_tiling((11, 4, 4), 4, (offset, 0, 0)) for offset in range(4)]
    tiled = torch.tensor([tile.corner[0] for tiles in tilings for tile in tiles])
    assert torch.equal(tiled.bincount(minlength=8), drawn)
