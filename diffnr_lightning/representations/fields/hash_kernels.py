"""Numba kernels of the multiresolution hash encoding with two features a level, and the way back.

Levels are outermost, so that the table of one level stays in the cache while all points ask for it.
Features are written as rows (2 L, N). On the way back one thread owns a level: no atomics, and every
sum runs in the order of the points, whatever the number of threads.

A level is described by its scale (cells an edge), its resolution (vertices an edge), the first of
its entries in the table and their number; `hash_encoding.HashLevel` says where these come from.
"""

# Arguments of kernels are scalars and arrays as their docstrings say.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np

from diffnr_lightning.kernels import UNGROUPED, kernel_part, parallel_kernel, prange

f4 = np.float32
# Unsigned, since numba looks at the sign of every other index.
u8 = np.uint64
ONE, Y_PRIME, Z_PRIME = u8(1), u8(2654435761), u8(805459861)
BLOCK = 16_384  # points of a task: enough to pay for the visit of a table, few enough to share out


@kernel_part(UNGROUPED, "numpy", inline=True)
def _cell(at, scale):
    """Return the lower vertex of the cell of a coordinate of the unit box, and the place in it."""
    place = min(max(f4(0.5) * at + f4(0.5), f4(0)), f4(1)) * scale + f4(0.5)
    cell = np.int32(place)
    return u8(cell), place - f4(cell)


@kernel_part(inline=True)
def _entries(i, j, k, resolution, size, hashed):
    """Return the table entries of the eight vertices of a cell, x fastest."""
    if hashed:
        last = size - ONE  # sizes of hashed levels are powers of two
        y0, z0 = j * Y_PRIME, k * Z_PRIME
        y1, z1 = y0 + Y_PRIME, z0 + Z_PRIME
        e00, e10, e01, e11 = y0 ^ z0, y1 ^ z0, y0 ^ z1, y1 ^ z1
        i1 = i + ONE
        return (
            (i ^ e00) & last,
            (i1 ^ e00) & last,
            (i ^ e10) & last,
            (i1 ^ e10) & last,
            (i ^ e01) & last,
            (i1 ^ e01) & last,
            (i ^ e11) & last,
            (i1 ^ e11) & last,
        )
    plane = resolution * resolution
    a = i + j * resolution + k * plane
    c, e = a + resolution, a + plane
    g = e + resolution
    # Half a cell sticks out at the upper faces; it begins the table again.
    return (
        a,
        _wrap(a + ONE, size),
        _wrap(c, size),
        _wrap(c + ONE, size),
        _wrap(e, size),
        _wrap(e + ONE, size),
        _wrap(g, size),
        _wrap(g + ONE, size),
    )


@kernel_part(inline=True)
def _hashed(resolution, size):
    """Return whether vertices share entries; the cube of 2^21 vertices an edge is beyond integers."""
    return float(resolution) ** 3 > size


@kernel_part(inline=True)
def _wrap(entry, size):
    return entry - size if entry >= size else entry


@kernel_part(UNGROUPED, inline=True)
def _weights(x, y, z):
    """Return the trilinear weights of the eight vertices of a cell, x fastest."""
    u, v, w = f4(1) - x, f4(1) - y, f4(1) - z
    near, far, over, beyond = v * w, y * w, v * z, y * z
    return u * near, x * near, u * far, x * far, u * over, x * over, u * beyond, x * beyond


@kernel_part(UNGROUPED, "numpy")
def _encode_level(points, table, scale, resolution, hashed, first, second):
    size = u8(len(table))
    for n in range(len(points)):
        i, x = _cell(points[n, 0], scale)
        j, y = _cell(points[n, 1], scale)
        k, z = _cell(points[n, 2], scale)
        a, b, c, d, e, f, g, h = _entries(i, j, k, resolution, size, hashed)
        p, q, r, s, t, u, v, w = _weights(x, y, z)
        near = p * table[a, 0] + q * table[b, 0] + r * table[c, 0] + s * table[d, 0]
        far = t * table[e, 0] + u * table[f, 0] + v * table[g, 0] + w * table[h, 0]
        first[n] = near + far
        near = p * table[a, 1] + q * table[b, 1] + r * table[c, 1] + s * table[d, 1]
        far = t * table[e, 1] + u * table[f, 1] + v * table[g, 1] + w * table[h, 1]
        second[n] = near + far


@kernel_part(inline=True)
def _add(table, entry, weight, one, two):
    table[entry, 0] += weight * one
    table[entry, 1] += weight * two


@kernel_part(UNGROUPED, "numpy")
def _collect_level(points, first, second, scale, resolution, hashed, table):
    size = u8(len(table))
    for n in range(len(points)):
        i, x = _cell(points[n, 0], scale)
        j, y = _cell(points[n, 1], scale)
        k, z = _cell(points[n, 2], scale)
        a, b, c, d, e, f, g, h = _entries(i, j, k, resolution, size, hashed)
        p, q, r, s, t, u, v, w = _weights(x, y, z)
        one, two = first[n], second[n]
        _add(table, a, p, one, two)
        _add(table, b, q, one, two)
        _add(table, c, r, one, two)
        _add(table, d, s, one, two)
        _add(table, e, t, one, two)
        _add(table, f, u, one, two)
        _add(table, g, v, one, two)
        _add(table, h, w, one, two)


@parallel_kernel()
def encode(
    points: np.ndarray,
    table: np.ndarray,
    scales: np.ndarray,
    resolutions: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    features: np.ndarray,
) -> None:
    """Write the features (2 L, N) of points (N, 3) in the unit box, from a table (T, 2)."""
    count, levels = len(points), len(scales)
    blocks = (count + BLOCK - 1) // BLOCK
    # Blocks are innermost: threads that take neighbouring tasks read the same level.
    for task in prange(levels * blocks):
        level, block = task // blocks, task % blocks
        begin, end = block * BLOCK, min(count, (block + 1) * BLOCK)
        start, size, resolution = starts[level], sizes[level], resolutions[level]
        _encode_level(
            points[begin:end],
            table[start : start + size],
            scales[level],
            u8(resolution),
            _hashed(resolution, size),
            features[2 * level, begin:end],
            features[2 * level + 1, begin:end],
        )


@parallel_kernel()
def collect(
    points: np.ndarray,
    features: np.ndarray,
    scales: np.ndarray,
    resolutions: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    order: np.ndarray,
    table: np.ndarray,
) -> None:
    """Write the gradient of the table (T, 2) from those of the features (2 L, N).

    Args:
        points: (N, 3) in the unit box.
        features: gradients of what `encode` wrote.
        scales: of the levels.
        resolutions: of the levels.
        starts: of the levels.
        sizes: of the levels.
        order: the levels, such that neighbours in it, which one thread takes, cost alike.
        table: overwritten.
    """
    for task in prange(len(order)):
        level = order[task]
        start, size, resolution = starts[level], sizes[level], resolutions[level]
        part = table[start : start + size]
        part[:] = f4(0)
        _collect_level(
            points,
            features[2 * level],
            features[2 * level + 1],
            scales[level],
            u8(resolution),
            _hashed(resolution, size),
            part,
        )
