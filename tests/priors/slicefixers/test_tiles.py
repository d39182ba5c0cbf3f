from __future__ import annotations

import pytest
import torch

from diffnr_lightning.priors.slicefixers.tiles import blend_tiles, tile_starts


@pytest.mark.parametrize("edge", [8, 32, 40, 64, 72, 512])
def test_tiles_cover_every_pixel_and_overlap(edge):
    starts = tile_starts(edge, 32, 8)
    covered = {pixel for start in starts for pixel in range(start, min(start + 32, edge))}
    assert covered == set(range(edge))
    assert all(later - former <= 24 for former, later in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("shape", [(64, 48), (32, 32), (8, 104)])
def test_what_is_computed_pixel_by_pixel_is_blended_without_a_trace(shape):
    image = torch.rand(2, 3, *shape)
    blended = blend_tiles(lambda place: image[place.pixels].square(), shape, 32)
    torch.testing.assert_close(blended, image.square())


def test_latents_are_blended_at_their_own_size():
    image = torch.rand(1, 1, 64, 96)
    pooled = torch.nn.functional.avg_pool2d(image, 8)
    blended = blend_tiles(
        lambda place: torch.nn.functional.avg_pool2d(image[place.pixels], 8), (64, 96), 32, 8
    )
    torch.testing.assert_close(blended, pooled)
    again = blend_tiles(
        lambda place: pooled[place.latents].repeat_interleave(8, 2).repeat_interleave(8, 3),
        (64, 96),
        32,
    )
    torch.testing.assert_close(again, pooled.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_a_step_between_tiles_becomes_a_ramp():
    number = iter(range(2))
    blended = blend_tiles(
        lambda place: torch.full((1, 1, 32, 32), 1.0 * next(number)), (32, 56), 32
    )
    row = blended[0, 0, 16]
    assert torch.all(row[:24] == 0) and torch.all(row[32:] == 1)
    assert torch.all(row[24:32].diff() > 0)


@pytest.mark.parametrize("tile", [0, -16, 20])
def test_tiles_of_other_sizes_are_refused(tile):
    with pytest.raises(ValueError, match=f"tile is {tile}"):
        blend_tiles(lambda place: None, (64, 64), tile)
