"""Numba kernels that sum 3D Gaussians into voxels, and the way back.

Slabs of slices own their voxels and every sum runs in the order of the Gaussians, so that results
do not depend on the number of threads.

Ellipsoids (N, 10), in voxel indices: centre x, y, z; stiffness of z; columns and rows by which the
ellipse of a slice moves per slice; stiffness of y, slope, stiffness of x (see `ellipse_rows`);
peak. Slices (2, N): first and last slice (last < first: outside the grid).
"""

from __future__ import annotations

import math

import numpy as np

from diffnr_lightning.kernels import APPROXIMATE, UNGROUPED, kernel_part, parallel_kernel, prange
from diffnr_lightning.representations.gaussians.shape import (
    BLOCK,
    add_rotation_gradient,
    add_row,
    bell,
    dealt,
    ellipse_rows,
    rotation_matrix,
    span,
    take_moments,
)

f4 = np.float32
i4 = np.int32
SLAB = 4
CHUNKS = 64
# What would overflow is outside: a radius in voxels, a deviation in voxels.
FAR, LEAST_SCALE = f4(1e6), f4(1e-6)


@parallel_kernel(APPROXIMATE, "numpy")
def place_gaussians(
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    densities: np.ndarray,
    origin: np.ndarray,
    edges: np.ndarray,
    shape: np.ndarray,
    cut: np.float32,
    gain: np.float32,
    ellipsoids: np.ndarray,
    slices: np.ndarray,
) -> None:
    """Write ellipsoids and slices; origin, edges and shape of the grid are in x, y, z order."""
    count = len(positions)
    per_edge = f4(1) / edges
    for chunk in prange(CHUNKS):
        rotation, m = np.empty((3, 3), f4), np.empty((3, 3), f4)
        variance, centre = np.empty(3, f4), np.empty(3, f4)
        for g in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            slices[0, g], slices[1, g] = 1, 0
            # Most Gaussians lie beside a small grid: ask for their spheres first.
            radius = cut * max(scales[g, 0], scales[g, 1], scales[g, 2])
            inside = radius < FAR * edges[0]
            for a in range(3):
                centre[a] = (positions[g, a] - origin[a]) * per_edge[a]
                reach = radius * per_edge[a]
                inside = inside and -reach <= centre[a] <= f4(shape[a] - 1) + reach
            if not inside:
                continue
            rotation_matrix(rotations[g], rotation)
            low = high = f4(0)
            for a in range(3):
                variance[a] = f4(0)
                for k in range(3):
                    m[a, k] = rotation[a, k] * scales[g, k] * per_edge[a]
                    variance[a] += m[a, k] * m[a, k]
                reach = cut * math.sqrt(variance[a])
                low = max(f4(0), math.ceil(centre[a] - reach))
                high = min(f4(shape[a] - 1), math.floor(centre[a] + reach))
                inside = inside and high >= low
            # Conditional Gaussians z, y | z, x | y, z from cross products of the rows of
            # M = R diag(s): differences of entries of M M^T would cancel where M is thin.
            x = m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1]
            y = m[1, 2] * m[2, 0] - m[1, 0] * m[2, 2]
            z = m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0]
            area = x * x + y * y + z * z
            volume = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z
            if not (inside and area > LEAST_SCALE**4 and abs(volume) > LEAST_SCALE**3):
                continue
            slope = (
                (m[0, 1] * m[2, 2] - m[0, 2] * m[2, 1]) * x
                + (m[0, 2] * m[2, 0] - m[0, 0] * m[2, 2]) * y
                + (m[0, 0] * m[2, 1] - m[0, 1] * m[2, 0]) * z
            ) / area
            xz = m[0, 0] * m[2, 0] + m[0, 1] * m[2, 1] + m[0, 2] * m[2, 2]
            yz = m[1, 0] * m[2, 0] + m[1, 1] * m[2, 1] + m[1, 2] * m[2, 2]
            e = ellipsoids[g]
            e[0], e[1], e[2] = centre[0], centre[1], centre[2]
            e[3], e[4], e[5] = f4(1) / variance[2], xz / variance[2], yz / variance[2]
            e[6], e[7], e[8] = variance[2] / area, slope, area / (volume * volume)
            e[9] = densities[g] * gain
            slices[0, g], slices[1, g] = i4(low), i4(high)


@parallel_kernel(APPROXIMATE, "numpy")
def voxelise(
    ellipsoids: np.ndarray,
    slices: np.ndarray,
    cut2: np.float32,
    volume: np.ndarray,
) -> None:
    """Add the Gaussians to a volume (Z, Y, X)."""
    depth, rows, columns = volume.shape
    slabs = (depth + SLAB - 1) // SLAB
    for task in prange(slabs + slabs % 2):
        slab = dealt(task, slabs)
        bottom, top = i4(slab * SLAB), i4(min(depth, slab * SLAB + SLAB))
        real, whole = np.empty((3, BLOCK), f4), np.empty((2, BLOCK), i4)
        for g in range(len(ellipsoids)):
            if slices[0, g] >= top or slices[1, g] < bottom:
                continue
            e = ellipsoids[g]
            stiffness, peak = e[8], e[9]
            for z in range(max(bottom, slices[0, g]), min(top, slices[1, g] + 1)):
                dz = f4(i4(z)) - e[2]
                base = e[3] * dz * dz
                middle = e[1] + e[5] * dz
                reach = math.sqrt(max(cut2 - base, f4(0)) / e[6])
                begin, height = span(middle, reach, i4(rows))
                for start in range(begin, begin + height, BLOCK):
                    count = i4(min(begin + height - start, BLOCK))
                    ellipse_rows(
                        i4(start),
                        count,
                        (e[0] + e[4] * dz, middle),
                        e[7],
                        (e[6], stiffness),
                        base,
                        cut2,
                        i4(columns),
                        real,
                        whole,
                    )
                    for i in range(count):
                        q, offset = real[0, i], real[1, i]
                        # Unsigned indices spare the check for negative ones, which prevents
                        # vectorising.
                        k, y, x = np.uintp(z), np.uintp(start + i), np.uintp(whole[0, i])
                        for j in range(whole[1, i]):
                            dx = offset + f4(j)
                            volume[k, y, x + np.uintp(j)] += peak * bell(
                                q + stiffness * dx * dx, cut2
                            )


# A function of its own: inside of the kernel its sums come out otherwise where the kernel is
# compiled than where it comes from the cache.
@kernel_part(error_model="numpy")
def add_gradients(
    first: tuple[np.float32, np.float32, np.float32],
    moments: np.ndarray,
    rotation: np.ndarray,
    turn: np.ndarray,
    scale: np.ndarray,
    position_gradient: np.ndarray,
    scale_gradient: np.ndarray,
) -> None:
    """Add one Gaussian's gradients from its first and second moments; write that of the matrix R to `turn`.

    With r a column of R and s its scale, the exponent is the sum of (r d)^2 / s^2.
    """
    for k in range(3):
        per_variance = f4(1) / (scale[k] * scale[k])
        pull = per_variance * (
            rotation[0, k] * first[0] + rotation[1, k] * first[1] + rotation[2, k] * first[2]
        )
        stretch = f4(0)
        for i in range(3):
            position_gradient[i] += rotation[i, k] * pull
            along = (
                moments[i, 0] * rotation[0, k]
                + moments[i, 1] * rotation[1, k]
                + moments[i, 2] * rotation[2, k]
            )
            turn[i, k] = -per_variance * along
            stretch += rotation[i, k] * along
        scale_gradient[k] += stretch * per_variance / scale[k]


@parallel_kernel(UNGROUPED, "numpy")
def voxelise_backward(
    scales: np.ndarray,
    rotations: np.ndarray,
    edges: np.ndarray,
    gain: np.float32,
    ellipsoids: np.ndarray,
    slices: np.ndarray,
    cut2: np.float32,
    gradient: np.ndarray,
    position_gradient: np.ndarray,
    scale_gradient: np.ndarray,
    rotation_gradient: np.ndarray,
    density_gradient: np.ndarray,
) -> None:
    """Add the gradients of all Gaussians, by moments of the gradient (Z, Y, X) of the volume times bell.

    Those of positions and scales are (N, 3), of rotations (N, 4) and of densities (N,).
    """
    _, rows, width = gradient.shape
    total = len(ellipsoids)
    for chunk in prange(4 * CHUNKS):
        real, whole = np.empty((3, BLOCK), f4), np.empty((2, BLOCK), i4)
        columns = np.zeros((3, width), f4)
        rotation, moments = np.empty((3, 3), f4), np.empty((3, 3), f4)
        turn = np.empty((3, 3), f4)
        # Interleaved, because neighbours in the list may all be large.
        for g in range(chunk, total, 4 * CHUNKS):
            if slices[1, g] < slices[0, g]:
                continue
            e = ellipsoids[g]
            slope, stiffness, peak = e[7], e[8], e[9]
            m0 = mx = my = mz = mxx = mxy = mxz = myy = myz = mzz = f4(0)
            for z in range(slices[0, g], slices[1, g] + 1):
                dz = f4(i4(z)) - e[2]
                base = e[3] * dz * dz
                lift_x, lift_y = e[4] * dz, e[5] * dz
                reach = math.sqrt(max(cut2 - base, f4(0)) / e[6])
                begin, height = span(e[1] + lift_y, reach, i4(rows))
                left, right = i4(width), i4(0)
                for start in range(begin, begin + height, BLOCK):
                    count = i4(min(begin + height - start, BLOCK))
                    ellipse_rows(
                        i4(start),
                        count,
                        (e[0] + lift_x, e[1] + lift_y),
                        slope,
                        (e[6], stiffness),
                        base,
                        cut2,
                        i4(width),
                        real,
                        whole,
                    )
                    for i in range(count):
                        x, length = whole[0, i], whole[1, i]
                        left, right = min(left, x), max(right, i4(x + length))
                        dy = real[2, i] + lift_y
                        row = gradient[np.uintp(z), np.uintp(start + i)]
                        add_row(
                            row, real[0, i], stiffness, cut2, x, length, real[1, i], dy, columns
                        )
                p0, px, py, pxx, pxy, pyy = take_moments(columns, left, right, e[0])
                m0 += p0
                mx += px
                my += py
                mz += dz * p0
                mxx += pxx
                mxy += pxy
                mxz += dz * px
                myy += pyy
                myz += dz * py
                mzz += dz * dz * p0
            density_gradient[g] += m0 * gain
            # In mm and times the peak.
            ex, ey, ez = edges[0], edges[1], edges[2]
            moments[0, 0] = peak * ex * ex * mxx
            moments[0, 1] = moments[1, 0] = peak * ex * ey * mxy
            moments[0, 2] = moments[2, 0] = peak * ex * ez * mxz
            moments[1, 1] = peak * ey * ey * myy
            moments[1, 2] = moments[2, 1] = peak * ey * ez * myz
            moments[2, 2] = peak * ez * ez * mzz
            rotation_matrix(rotations[g], rotation)
            first = (peak * ex * mx, peak * ey * my, peak * ez * mz)
            add_gradients(
                first,
                moments,
                rotation,
                turn,
                scales[g],
                position_gradient[g],
                scale_gradient[g],
            )
            add_rotation_gradient(turn, rotations[g], rotation_gradient[g])
