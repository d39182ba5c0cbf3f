"""Volumes as columns of voxels, z contiguous, as the kernels of aligned detectors read and write them.

A copy that runs along one order of the axes fetches a cache line for every voxel of the other, on one thread; here
threads copy blocks that fit whole lines of both.
"""

# Arguments of kernels are float32 arrays.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np

from diffnr_lightning.kernels import parallel_kernel, prange

_LINE = 16  # floats in a cache line
# Slices whose rows are read or written at once: as many as the L1 cache has ways, since at 128^2 and 256^2 voxels a
# slice they all fall on the same of its sets.
_WAYS = 8
_ZERO = np.float32(0.0)


def padded_columns(volume: np.ndarray) -> np.ndarray:
    """Copy (Z, Y, X) to (Y + 2, X + 2, Z), with zeros around in the place of bounds checks."""
    nz, ny, nx = volume.shape
    columns = np.empty((ny + 2, nx + 2, nz), np.float32)
    # Volumes of any strides, by one compiled kernel.
    _to_columns(np.ascontiguousarray(volume), columns)
    return columns


def inner_volume(columns: np.ndarray) -> np.ndarray:
    """Copy what lies inside of the margin of padded columns (Y + 2, X + 2, Z) to (Z, Y, X)."""
    ny, nx, nz = columns.shape
    volume = np.empty((nz, ny - 2, nx - 2), np.float32)
    _from_columns(columns, volume)
    return volume


@parallel_kernel()
def _to_columns(volume, columns):
    """Fill padded columns; a task owns a row of them."""
    nz, ny, nx = volume.shape
    for y in prange(ny + 2):
        if y == 0 or y == ny + 1:
            columns[y] = _ZERO
            continue
        columns[y, 0] = _ZERO
        columns[y, nx + 1] = _ZERO
        for x0 in range(0, nx, _LINE):
            for z0 in range(0, nz, _WAYS):
                for z in range(z0, min(z0 + _WAYS, nz)):
                    for x in range(x0, min(x0 + _LINE, nx)):
                        columns[y, x + 1, z] = volume[z, y - 1, x]


@parallel_kernel()
def _from_columns(columns, volume):
    """Fill a volume; a task owns a row of every slice."""
    nz, ny, nx = volume.shape
    for y in prange(ny):
        for x0 in range(0, nx, _LINE):
            for z0 in range(0, nz, _WAYS):
                for x in range(x0, min(x0 + _LINE, nx)):
                    for z in range(z0, min(z0 + _WAYS, nz)):
                        volume[z, y, x] = columns[y + 1, x + 1, z]
