"""Numba kernels of exact line integrals of 3D Gaussians in a cone beam, and the way back.

With W = diag(1 / s) R^T, which turns a Gaussian of deviations s and axes R into a round one, m = W
(centre - source) and e = W d for the direction d of a pixel's ray, the squared distance of the ray
from the centre in deviations is q = |m x e|^2 / |e|^2, and the integral of the density along the
ray is ::

    density sqrt(2 pi) |d| / |e| exp(-q / 2)

e is affine in column and row, and m x e is zero where the ray meets the centre, so it is linear in
the distance from there: m x e = dx (m x W u) + dy (m x W v), which leaves nothing to cancel. q <=
cut^2 bounds a conic. |d| belongs to the pixel and is left to the caller. Bands of rows own their
pixels and every sum runs in a fixed order, so that results do not depend on the number of threads.

Lines (N, 17): column and row of the centre; m x W u, m x W v, e at the centre, W u, W v (3 each).
Views as in `splat_kernels`; `across` (2, 3) holds u and v in mm.
"""

# Arguments of inlined functions are float32 scalars and arrays as their docstrings say.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import math

import numpy as np

from diffnr_lightning.kernels import UNGROUPED, kernel_part, parallel_kernel, prange
from diffnr_lightning.representations.gaussians.shape import (
    add_rotation_gradient,
    bell,
    dealt,
    rotation_matrix,
    span,
)
from diffnr_lightning.representations.gaussians.splat_kernels import CHUNKS, FAR, NEAR

f4 = np.float32
i4 = np.int32


@kernel_part(inline=True)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel_part(inline=True)
def _whiten(rotation, scale, vector, out):
    """Write W vector."""
    for k in range(3):
        out[k] = (
            rotation[0, k] * vector[0] + rotation[1, k] * vector[1] + rotation[2, k] * vector[2]
        ) / scale[k]


@kernel_part(inline=True)
def _cross(a, b, out):
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]


@kernel_part(inline=True)
def _conic(line, cut2, conic):
    """Write xx, xy, yy, x, y, 1 of |m x e|^2 - cut^2 |e|^2 (the mixed ones halved)."""
    a, b, centre, u, v = line[2:5], line[5:8], line[8:11], line[11:14], line[14:17]
    conic[0] = _dot(a, a) - cut2 * _dot(u, u)
    conic[1] = _dot(a, b) - cut2 * _dot(u, v)
    conic[2] = _dot(b, b) - cut2 * _dot(v, v)
    conic[3] = -cut2 * _dot(centre, u)
    conic[4] = -cut2 * _dot(centre, v)
    conic[5] = -cut2 * _dot(centre, centre)


@kernel_part(inline=True)
def _columns(line, conic, dy, size):
    """Return the first column of a row that lies within the conic, and how many do."""
    if conic[0] <= f4(0):
        return i4(0), i4(size)
    middle = conic[1] * dy + conic[3]
    rest = (conic[2] * dy + f4(2) * conic[4]) * dy + conic[5]
    square = middle * middle - conic[0] * rest
    if not square >= f4(0):
        return i4(0), i4(0)
    per_conic = f4(1) / conic[0]
    return span(line[0] - middle * per_conic, math.sqrt(square) * per_conic, size)


@parallel_kernel(UNGROUPED, "numpy")
def trace_gaussians(
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    view: np.ndarray,
    across: np.ndarray,
    cut2: np.float32,
    shape: tuple[int, int],
    lines: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
) -> None:
    """Write the lines of one view and the first and last row of each (last < first: none).

    Where the conic is no ellipse, since a Gaussian reaches to the source, all rows count.
    """
    count = len(positions)
    for chunk in prange(CHUNKS):
        rotation, offset = np.empty((3, 3), f4), np.empty(3, f4)
        m, conic = np.empty(3, f4), np.empty(6, f4)
        for g in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            first[g], last[g] = 1, 0
            for k in range(3):
                offset[k] = positions[g, k] - view[k]
            depth = _dot(offset, view[3:6])
            magnified = view[12] / depth
            column = magnified * _dot(offset, view[6:9]) + view[13]
            row = magnified * _dot(offset, view[9:12]) + view[14]
            if not (depth >= NEAR * view[12] and abs(column) < FAR and abs(row) < FAR):
                continue
            rotation_matrix(rotations[g], rotation)
            line = lines[g]
            line[0], line[1] = column, row
            _whiten(rotation, scales[g], offset, m)
            _whiten(rotation, scales[g], across[0], line[11:14])
            _whiten(rotation, scales[g], across[1], line[14:17])
            _cross(m, line[11:14], line[2:5])
            _cross(m, line[14:17], line[5:8])
            for k in range(3):
                line[8 + k] = magnified * m[k]
            _conic(line, cut2, conic)
            determinant = conic[0] * conic[2] - conic[1] * conic[1]
            begin, height = i4(0), i4(shape[0])
            if conic[0] > f4(0) and determinant > f4(0):
                # Divided before it is squared, which of a small Gaussian would overflow.
                middle = (conic[1] * conic[3] - conic[0] * conic[4]) / determinant
                rest = (conic[3] * conic[3] - conic[0] * conic[5]) / determinant
                begin, height = span(row + middle, math.sqrt(middle * middle + rest), shape[0])
            if height > 0:
                first[g], last[g] = begin, begin + height - i4(1)


@parallel_kernel(UNGROUPED, "numpy")
def splat_lines(
    lines: np.ndarray,
    heights: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    cut2: np.float32,
    band: int,
    image: np.ndarray,
) -> None:
    """Add height / |e| exp(-q / 2) of each Gaussian to an image (H, W); heights are (N,)."""
    rows, columns = image.shape
    bands = (rows + band - 1) // band
    for task in prange(bands + bands % 2):
        number = dealt(task, bands)
        top, bottom = i4(number * band), i4(min(rows, number * band + band))
        conic = np.empty(6, f4)
        for g in range(len(first)):
            if first[g] >= bottom or last[g] < top:
                continue
            line, height = lines[g], heights[g]
            _conic(line, cut2, conic)
            a0, a1, a2 = line[2], line[3], line[4]
            u0, u1, u2 = line[11], line[12], line[13]
            for i in range(max(top, first[g]), min(bottom, last[g] + 1)):
                dy = f4(i) - line[1]
                begin, length = _columns(line, conic, dy, columns)
                b0, b1, b2 = dy * line[5], dy * line[6], dy * line[7]
                v0 = line[8] + dy * line[14]
                v1 = line[9] + dy * line[15]
                v2 = line[10] + dy * line[16]
                offset = f4(begin) - line[0]
                for j in range(length):
                    dx = offset + f4(j)
                    c0, c1, c2 = b0 + dx * a0, b1 + dx * a1, b2 + dx * a2
                    e0, e1, e2 = v0 + dx * u0, v1 + dx * u1, v2 + dx * u2
                    square = e0 * e0 + e1 * e1 + e2 * e2
                    q = (c0 * c0 + c1 * c1 + c2 * c2) / square
                    image[np.uintp(i), np.uintp(begin + j)] += (
                        height / math.sqrt(square) * bell(q, cut2)
                    )


@parallel_kernel(UNGROUPED, "numpy")
def lines_backward(
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    view: np.ndarray,
    across: np.ndarray,
    half_detector: np.ndarray,
    gain: np.float32,
    lines: np.ndarray,
    heights: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    cut2: np.float32,
    gradient: np.ndarray,
    position_gradient: np.ndarray,
    scale_gradient: np.ndarray,
    rotation_gradient: np.ndarray,
    density_gradient: np.ndarray,
    screen_gradient: np.ndarray,
    visible: np.ndarray,
) -> None:
    """Add the gradients of one view, given that of its image (H, W).

    `heights` are `gain` times the densities. With p = m - (m e) e / |e|^2, the part of m across the
    ray, dq / dm = 2 p and dq / de = -2 (m e) / |e|^2 p. `screen_gradient` and `visible` are as in
    `splat_kernels.project_gaussians_backward`; a view sees a Gaussian of which a pixel
    lies within its cut.
    """
    count = len(positions)
    columns = gradient.shape[1]
    for chunk in prange(4 * CHUNKS):
        rotation, turn = np.empty((3, 3), f4), np.empty((3, 3), f4)
        offset, m, conic = np.empty(3, f4), np.empty(3, f4), np.empty(6, f4)
        # Gradients of m and of e, e times dx, e times dy; the ray's direction at the centre.
        by_m, by_e = np.empty(3, f4), np.empty((3, 3), f4)
        place, pull = np.empty(3, f4), np.empty(3, f4)
        # Interleaved, because neighbours in the list may all be large.
        for g in range(chunk, count, 4 * CHUNKS):
            if last[g] < first[g]:
                continue
            for k in range(3):
                offset[k] = positions[g, k] - view[k]
            rotation_matrix(rotations[g], rotation)
            _whiten(rotation, scales[g], offset, m)
            line = lines[g]
            _conic(line, cut2, conic)
            by_m[:], by_e[:] = f4(0), f4(0)
            mass, hit = f4(0), False
            for i in range(first[g], last[g] + 1):
                dy = f4(i) - line[1]
                begin, length = _columns(line, conic, dy, columns)
                for j in range(length):
                    dx = f4(begin + j) - line[0]
                    c0 = dx * line[2] + dy * line[5]
                    c1 = dx * line[3] + dy * line[6]
                    c2 = dx * line[4] + dy * line[7]
                    e0 = line[8] + dx * line[11] + dy * line[14]
                    e1 = line[9] + dx * line[12] + dy * line[15]
                    e2 = line[10] + dx * line[13] + dy * line[16]
                    per_square = f4(1) / (e0 * e0 + e1 * e1 + e2 * e2)
                    q = (c0 * c0 + c1 * c1 + c2 * c2) * per_square
                    if not q <= cut2:
                        continue
                    hit = True
                    weight = (
                        gradient[np.uintp(i), np.uintp(begin + j)]
                        * math.sqrt(per_square)
                        * bell(q, cut2)
                    )
                    mass += weight
                    p0 = (e1 * c2 - e2 * c1) * per_square
                    p1 = (e2 * c0 - e0 * c2) * per_square
                    p2 = (e0 * c1 - e1 * c0) * per_square
                    along = (m[0] * e0 + m[1] * e1 + m[2] * e2) * per_square
                    by_m[0] -= weight * p0
                    by_m[1] -= weight * p1
                    by_m[2] -= weight * p2
                    s0 = weight * (along * p0 - e0 * per_square)
                    s1 = weight * (along * p1 - e1 * per_square)
                    s2 = weight * (along * p2 - e2 * per_square)
                    by_e[0, 0] += s0
                    by_e[0, 1] += s1
                    by_e[0, 2] += s2
                    by_e[1, 0] += s0 * dx
                    by_e[1, 1] += s1 * dx
                    by_e[1, 2] += s2 * dx
                    by_e[2, 0] += s0 * dy
                    by_e[2, 1] += s1 * dy
                    by_e[2, 2] += s2 * dy
            if not hit:
                continue
            height = heights[g]
            depth = _dot(offset, view[3:6])
            density_gradient[g] += gain * mass
            for k in range(3):
                place[k] = offset[k] * view[12] / depth
                pull[k] = f4(0)
            for k in range(3):
                stretch = f4(0)
                for w in range(3):
                    # d loss / d W, for row k and world axis w.
                    slope = height * (
                        by_m[k] * offset[w]
                        + by_e[0, k] * place[w]
                        + by_e[1, k] * across[0, w]
                        + by_e[2, k] * across[1, w]
                    )
                    turn[w, k] = slope / scales[g, k]
                    stretch += slope * rotation[w, k]
                    pull[w] += height * by_m[k] * rotation[w, k] / scales[g, k]
                scale_gradient[g, k] -= stretch / (scales[g, k] * scales[g, k])
            add_rotation_gradient(turn, rotations[g], rotation_gradient[g])
            for k in range(3):
                position_gradient[g, k] += pull[k]
            per_pixel = depth / view[12]
            column, row = per_pixel * _dot(pull, across[0]), per_pixel * _dot(pull, across[1])
            screen_gradient[g] += math.sqrt(
                (column * half_detector[0]) ** 2 + (row * half_detector[1]) ** 2
            )
            visible[g] += f4(1)
