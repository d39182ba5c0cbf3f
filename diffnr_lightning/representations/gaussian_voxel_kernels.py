"""Numba kernels that sum 3D Gaussians into voxels, and the way back.

Slabs of slices own their voxels and every sum runs in the order of the Gaussians, so that results do not depend on the
number of threads. Ellipsoids (N, 10): centre x, y, z in voxel indices; inverse covariance xx, xy, xz, yy, yz, zz in
voxels; peak. Boxes (N, 6): first and last index along x, y and z (last z < first z: outside the grid).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from diffnr_lightning.representations.gaussian_shape import (
    FAST,
    add_shape_gradient,
    bell,
    rotation_matrix,
    span,
)

f4 = np.float32
SLAB = 4
CHUNKS = 64


@njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
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
    boxes: np.ndarray,
) -> None:
    """Write ellipsoids and boxes; origin, edges and shape of the grid are in x, y, z order."""
    count = len(positions)
    for chunk in prange(CHUNKS):
        rotation = np.empty((3, 3), f4)
        for g in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            rotation_matrix(rotations[g], rotation)
            inside = True
            for a in range(3):
                variance = f4(0)
                for k in range(3):
                    variance += (rotation[a, k] * scales[g, k]) ** 2
                centre = (positions[g, a] - origin[a]) / edges[a]
                reach = cut * math.sqrt(variance) / edges[a]
                low = max(f4(0), math.ceil(centre - reach))
                high = min(f4(shape[a] - 1), math.floor(centre + reach))
                ellipsoids[g, a] = centre
                inside = inside and high >= low
                boxes[g, 2 * a] = int(min(low, f4(shape[a])))
                boxes[g, 2 * a + 1] = int(max(high, f4(-1)))
            if not inside:
                boxes[g, 4], boxes[g, 5] = 1, 0
                continue
            n = 3
            for a in range(3):
                for b in range(a, 3):
                    inverse = f4(0)
                    for k in range(3):
                        inverse += rotation[a, k] * rotation[b, k] / (scales[g, k] * scales[g, k])
                    ellipsoids[g, n] = inverse * edges[a] * edges[b]
                    n += 1
            ellipsoids[g, 9] = densities[g] * gain


@njit(parallel=True, cache=True, fastmath=FAST, error_model="numpy")
def voxelise(
    ellipsoids: np.ndarray, boxes: np.ndarray, cut2: np.float32, volume: np.ndarray
) -> None:
    """Add the Gaussians to a volume (Z, Y, X)."""
    depth, rows, columns = volume.shape
    for slab in prange((depth + SLAB - 1) // SLAB):
        bottom, top = slab * SLAB, min(depth, slab * SLAB + SLAB)
        for g in range(len(ellipsoids)):
            if boxes[g, 4] >= top or boxes[g, 5] < bottom:
                continue
            xx, xy, xz = ellipsoids[g, 3], ellipsoids[g, 4], ellipsoids[g, 5]
            peak = ellipsoids[g, 9]
            per_xx = f4(1) / xx
            yy = ellipsoids[g, 6] - xy * xy * per_xx
            yz = ellipsoids[g, 7] - xy * xz * per_xx
            zz = ellipsoids[g, 8] - xz * xz * per_xx
            tilt = yz / yy
            for z in range(max(bottom, boxes[g, 4]), min(top, boxes[g, 5] + 1)):
                dz = f4(z) - ellipsoids[g, 2]
                flat = (zz - yz * tilt) * dz * dz
                if flat >= cut2:
                    continue
                reach_y = math.sqrt((cut2 - flat) / yy)
                middle_y = ellipsoids[g, 1] - tilt * dz
                begin_y, count_y = span(middle_y, reach_y, rows)
                for y in range(begin_y, begin_y + count_y):
                    dy = f4(y) - ellipsoids[g, 1]
                    from_middle = f4(y) - middle_y
                    q = flat + yy * from_middle * from_middle
                    left = cut2 - q
                    if left <= f4(0):
                        continue
                    middle = ellipsoids[g, 0] - (xy * dy + xz * dz) * per_xx
                    reach = math.sqrt(left * per_xx)
                    begin, count = span(middle, reach, columns)
                    if count <= 0:
                        continue
                    row = volume[z, y, begin : begin + count]
                    offset = f4(begin) - middle
                    for x in range(count):
                        dx = offset + f4(x)
                        row[x] += peak * bell(q + xx * dx * dx)


@njit(parallel=True, cache=True, fastmath=FAST, error_model="numpy")
def voxelise_backward(
    scales: np.ndarray,
    rotations: np.ndarray,
    densities: np.ndarray,
    edges: np.ndarray,
    ellipsoids: np.ndarray,
    boxes: np.ndarray,
    cut2: np.float32,
    gradient: np.ndarray,
    position_gradient: np.ndarray,
    scale_gradient: np.ndarray,
    rotation_gradient: np.ndarray,
    density_gradient: np.ndarray,
) -> None:
    """Write the gradients of all Gaussians from the gradient of the volume, by moments of gradient times bell."""
    _, rows, columns = gradient.shape
    count = len(ellipsoids)
    for chunk in prange(4 * CHUNKS):
        rotation, moments = np.empty((3, 3), f4), np.empty((3, 3), f4)
        inverse, turned = np.empty((3, 3), f4), np.empty((3, 3), f4)
        slope = np.empty((3, 3), f4)
        for g in range(chunk, count, 4 * CHUNKS):
            if boxes[g, 5] < boxes[g, 4]:
                continue
            xx, xy, xz = ellipsoids[g, 3], ellipsoids[g, 4], ellipsoids[g, 5]
            peak = ellipsoids[g, 9]
            per_xx = f4(1) / xx
            yy = ellipsoids[g, 6] - xy * xy * per_xx
            yz = ellipsoids[g, 7] - xy * xz * per_xx
            zz = ellipsoids[g, 8] - xz * xz * per_xx
            tilt = yz / yy
            m0 = mx = my = mz = mxx = mxy = mxz = myy = myz = mzz = f4(0)
            for z in range(boxes[g, 4], boxes[g, 5] + 1):
                dz = f4(z) - ellipsoids[g, 2]
                flat = (zz - yz * tilt) * dz * dz
                if flat >= cut2:
                    continue
                reach_y = math.sqrt((cut2 - flat) / yy)
                middle_y = ellipsoids[g, 1] - tilt * dz
                begin_y, count_y = span(middle_y, reach_y, rows)
                for y in range(begin_y, begin_y + count_y):
                    dy = f4(y) - ellipsoids[g, 1]
                    from_middle = f4(y) - middle_y
                    q = flat + yy * from_middle * from_middle
                    left = cut2 - q
                    if left <= f4(0):
                        continue
                    shift = -(xy * dy + xz * dz) * per_xx
                    middle = ellipsoids[g, 0] + shift
                    reach = math.sqrt(left * per_xx)
                    begin, length = span(middle, reach, columns)
                    if length <= 0:
                        continue
                    row = gradient[z, y, begin : begin + length]
                    offset = f4(begin) - middle
                    s0 = s1 = s2 = f4(0)
                    for x in range(length):
                        dx = offset + f4(x)
                        w = row[x] * bell(q + xx * dx * dx)
                        s0 += w
                        s1 += w * dx
                        s2 += w * dx * dx
                    along = s1 + shift * s0
                    m0 += s0
                    mx += along
                    my += dy * s0
                    mz += dz * s0
                    mxx += s2 + f4(2) * shift * s1 + shift * shift * s0
                    mxy += dy * along
                    mxz += dz * along
                    myy += dy * dy * s0
                    myz += dy * dz * s0
                    mzz += dz * dz * s0
            density_gradient[g] += m0 * peak / densities[g]
            # Centre and inverse covariance in mm, then the covariance: d/dS = C M C peak / 2.
            ex, ey, ez = edges[0], edges[1], edges[2]
            inverse[0, 0] = xx / (ex * ex)
            inverse[0, 1] = inverse[1, 0] = xy / (ex * ey)
            inverse[0, 2] = inverse[2, 0] = xz / (ex * ez)
            inverse[1, 1] = ellipsoids[g, 6] / (ey * ey)
            inverse[1, 2] = inverse[2, 1] = ellipsoids[g, 7] / (ey * ez)
            inverse[2, 2] = ellipsoids[g, 8] / (ez * ez)
            moments[0, 0] = mxx * ex * ex
            moments[0, 1] = moments[1, 0] = mxy * ex * ey
            moments[0, 2] = moments[2, 0] = mxz * ex * ez
            moments[1, 1] = myy * ey * ey
            moments[1, 2] = moments[2, 1] = myz * ey * ez
            moments[2, 2] = mzz * ez * ez
            for i in range(3):
                position_gradient[g, i] += peak * (
                    inverse[i, 0] * mx * ex + inverse[i, 1] * my * ey + inverse[i, 2] * mz * ez
                )
                for j in range(3):
                    turned[i, j] = f4(0)
                    for k in range(3):
                        turned[i, j] += inverse[i, k] * moments[k, j]
            for i in range(3):
                for j in range(3):
                    slope[i, j] = f4(0)
                    for k in range(3):
                        slope[i, j] += f4(0.5) * peak * turned[i, k] * inverse[k, j]
            rotation_matrix(rotations[g], rotation)
            add_shape_gradient(
                slope, rotation, scales[g], rotations[g], scale_gradient[g], rotation_gradient[g]
            )
