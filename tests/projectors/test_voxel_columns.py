"""Volumes are copied to columns of voxels and back, whatever their shape, and not where they lie so already."""

import numpy as np
import pytest
import torch

from diffnr_lightning.projectors.voxel_columns import by_columns, columns_of, volume_of

SHAPES = [(1, 1, 1), (8, 3, 16), (9, 5, 17), (40, 33, 7)]


def numbered(shape):
    return torch.arange(1, 1 + np.prod(shape), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_hold_the_volume(shape):
    volume = numbered(shape)
    columns = columns_of(volume)
    assert columns.flags.c_contiguous
    assert np.array_equal(columns, volume.numpy().transpose(1, 2, 0))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_volume_comes_back(shape):
    volume = numbered(shape)
    back = volume_of(columns_of(volume))
    assert back.is_contiguous()
    assert torch.equal(back, volume)


def test_a_volume_may_lie_in_memory_as_it_likes():
    volume = numbered((9, 10, 11)).permute(2, 0, 1)[::2]
    assert torch.equal(volume_of(columns_of(volume)), volume)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_copied_where_z_runs_fastest(shape):
    volume = by_columns(numbered(shape))
    assert torch.equal(volume, numbered(shape))
    columns = columns_of(volume)
    assert columns.ctypes.data == volume.data_ptr()
    back = volume_of(columns, z_fastest=True)
    assert back.data_ptr() == volume.data_ptr() and torch.equal(back, volume)
    assert by_columns(back).data_ptr() == volume.data_ptr()
