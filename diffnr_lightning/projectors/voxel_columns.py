"""Volumes as columns of voxels, z contiguous, as the kernels of aligned detectors read and write them.

A volume may lie in memory like that by itself (`by_columns`), and then nothing is copied. A copy that runs along one
order of the axes fetches a cache line for every voxel of the other, on one thread; here threads copy blocks that fit
whole lines of both.
"""

# Arguments of kernels are float32 arrays.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.kernels import parallel_kernel, prange

_LINE = 16  # floats in a cache line
# Slices whose rows are read or written at once: as many as the L1 cache has ways, since at 128^2 and 256^2 voxels a
# slice they all fall on the same of its sets.
_WAYS = 8


def by_columns(volume: Tensor) -> Tensor:
    """Return a volume (Z, Y, X) whose z runs fastest in memory: itself if it is so already."""
    return volume.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def columns_of(volume: Tensor) -> np.ndarray:
    """Return the columns (Y, X, Z) of a float32 CPU volume (Z, Y, X): its own memory where z runs fastest in it."""
    array = volume.detach().numpy()
    columns = array.transpose(1, 2, 0)
    if columns.flags.c_contiguous:
        return columns
    columns = np.empty(columns.shape, np.float32)
    # Volumes of any strides, by one compiled kernel.
    _to_columns(np.ascontiguousarray(array), columns)
    return columns


def volume_of(columns: np.ndarray, *, z_fastest: bool = False) -> Tensor:
    """Return the volume (Z, Y, X) of columns (Y, X, Z): contiguous, or in their memory if z may run fastest."""
    if z_fastest:
        return torch.from_numpy(columns).permute(2, 0, 1)
    ny, nx, nz = columns.shape
    volume = np.empty((nz, ny, nx), np.float32)
    _from_columns(columns, volume)
    return torch.from_numpy(volume)


@parallel_kernel()
def _to_columns(volume, columns):
    """Fill columns (Y, X, Z); a task owns a row of them."""
    nz, ny, nx = volume.shape
    for y in prange(ny):
        for x0 in range(0, nx, _LINE):
            for z0 in range(0, nz, _WAYS):
                for z in range(z0, min(z0 + _WAYS, nz)):
                    for x in range(x0, min(x0 + _LINE, nx)):
                        columns[y, x, z] = volume[z, y, x]


@parallel_kernel()
def _from_columns(columns, volume):
    """Fill a volume (Z, Y, X); a task owns a row of every slice."""
    nz, ny, nx = volume.shape
    for y in prange(ny):
        for x0 in range(0, nx, _LINE):
            for z0 in range(0, nz, _WAYS):
                for x in range(x0, min(x0 + _LINE, nx)):
                    for z in range(z0, min(z0 + _WAYS, nz)):
                        volume[z, y, x] = columns[y, x, z]
