"""Volumes are copied to columns of voxels and back, whatever their shape."""

import numpy as np
import pytest

from diffnr_lightning.projectors.voxel_columns import inner_volume, padded_columns

SHAPES = [(1, 1, 1), (8, 3, 16), (9, 5, 17), (40, 33, 7)]


def numbered(shape):
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_hold_the_volume_with_zeros_around(shape):
    volume = numbered(shape)
    assert np.array_equal(
        padded_columns(volume), np.pad(volume.transpose(1, 2, 0), ((1, 1), (1, 1), (0, 0)))
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_margin_is_left_out_on_the_way_back(shape):
    volume = numbered(shape)
    columns = padded_columns(volume)
    columns[0] = columns[-1] = columns[:, 0] = columns[:, -1] = np.nan
    back = inner_volume(columns)
    assert back.flags.c_contiguous
    assert np.array_equal(back, volume)


def test_a_volume_may_lie_in_memory_as_it_likes():
    volume = numbered((9, 10, 11)).transpose(2, 0, 1)[::2]
    assert np.array_equal(inner_volume(padded_columns(volume)), volume)
