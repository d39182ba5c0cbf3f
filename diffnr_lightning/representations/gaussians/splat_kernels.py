"""Numba kernels of X-ray splatting: project 3D Gaussians, sum their footprints, and the way back.

A Gaussian with covariance S and peak density rho is seen, to first order around its centre, as a 2D
Gaussian with covariance A = (J S J^T)[:2, :2], where the rows of J are the gradients of column, row
and position along the ray. Its footprint has the height rho sqrt(2 pi |J S J^T| / |A|). Bands of
rows own their pixels and every sum runs in the order of the Gaussians, so that results do not
depend on the number of threads.

Views (V, 16): source or, for parallel beam, a point on the ray of the detector's centre (3); detector
normal or ray direction (3); a and b (3 each); distance of the detector, 0 for parallel beam; column
and row of the foot; by how much the point stands for a source that lies farther back along the normal, of
which float32 knows too little, or 0. With o the offset of a point from the source, its column is distance
(a o) / (normal o) plus that of the foot, its row the same with b; for parallel beam they are a o and b o.

Footprints (N, 7): column, row, slope, two stiffnesses (see `ellipse_rows`), height, height per
density.
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
    take_moments,
)

f4 = np.float32
i4 = np.int32
CHUNKS = 64
SQRT_TWO_PI = f4(math.sqrt(2 * math.pi))
# Nearer than this share of the detector's distance, the first order says nothing of a Gaussian.
NEAR = f4(1e-2)
# What would overflow is not seen: pixels from the detector's corner, area of a deviation in pixels.
FAR, LEAST_AREA, LARGEST_AREA = f4(1e6), f4(1e-24), f4(1e24)


@kernel_part(inline=True)
def _determinant(m):  # noqa: ANN001, ANN202 -- inlined into kernels
    return (
        m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
        - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
        + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
    )


@kernel_part(inline=True)
def _project_centre(p, view, cone, jacobian):  # noqa: ANN001, ANN202 -- inlined into kernels
    """Write J (3, 3); return column, row, (a o) / depth, (b o) / depth, depth and distance."""
    x, y, z = p[0] - view[0], p[1] - view[1], p[2] - view[2]
    along_a = x * view[6] + y * view[7] + z * view[8]
    along_b = x * view[9] + y * view[10] + z * view[11]
    if not cone:
        for k in range(3):
            jacobian[0, k] = view[6 + k]
            jacobian[1, k] = view[9 + k]
            jacobian[2, k] = view[3 + k]
        return along_a + view[13], along_b + view[14], along_a, along_b, view[12], f4(1)
    depth = x * view[3] + y * view[4] + z * view[5] + view[15]
    x, y, z = x + view[15] * view[3], y + view[15] * view[4], z + view[15] * view[5]
    per_depth = f4(1) / depth
    distance = math.sqrt(x * x + y * y + z * z)
    per_distance = f4(1) / distance
    along_a *= per_depth
    along_b *= per_depth
    scale = view[12] * per_depth
    for k in range(3):
        jacobian[0, k] = scale * (view[6 + k] - along_a * view[3 + k])
        jacobian[1, k] = scale * (view[9 + k] - along_b * view[3 + k])
    jacobian[2, 0], jacobian[2, 1], jacobian[2, 2] = (
        x * per_distance,
        y * per_distance,
        z * per_distance,
    )
    column, row = view[12] * along_a + view[13], view[12] * along_b + view[14]
    return column, row, along_a, along_b, depth, distance


@kernel_part(inline=True)
def _half(jacobian, rotation, scale, half):  # noqa: ANN001, ANN202 -- inlined into kernels
    """Write the rows of J R diag(s) that a view sees; with its transpose it makes A."""
    for i in range(2):
        for j in range(3):
            half[i, j] = scale[j] * (
                jacobian[i, 0] * rotation[0, j]
                + jacobian[i, 1] * rotation[1, j]
                + jacobian[i, 2] * rotation[2, j]
            )


@parallel_kernel(APPROXIMATE, "numpy")
def project_gaussians(
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    densities: np.ndarray,
    view: np.ndarray,
    cone: bool,
    cut: np.float32,
    gain: np.float32,
    shape: tuple[int, int],
    footprints: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
) -> None:
    """Write the footprints in one view and the first and last row of each (last < first: none)."""
    count = len(positions)
    bottom, right = f4(shape[0] - 1), f4(shape[1] - 1)
    for chunk in prange(CHUNKS):
        rotation, jacobian = np.empty((3, 3), f4), np.empty((3, 3), f4)
        half = np.empty((2, 3), f4)
        for g in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            first[g], last[g] = 1, 0
            column, row, _, _, depth, _ = _project_centre(positions[g], view, cone, jacobian)
            if not (depth >= NEAR * view[12] and abs(column) < FAR and abs(row) < FAR):
                continue
            rotation_matrix(rotations[g], rotation)
            _half(jacobian, rotation, scales[g], half)
            cc = half[0, 0] * half[0, 0] + half[0, 1] * half[0, 1] + half[0, 2] * half[0, 2]
            cr = half[0, 0] * half[1, 0] + half[0, 1] * half[1, 1] + half[0, 2] * half[1, 2]
            rr = half[1, 0] * half[1, 0] + half[1, 1] * half[1, 1] + half[1, 2] * half[1, 2]
            # |A| as a cross product: cc rr - cr cr would cancel where the ellipse is thin.
            x = half[0, 1] * half[1, 2] - half[0, 2] * half[1, 1]
            y = half[0, 2] * half[1, 0] - half[0, 0] * half[1, 2]
            z = half[0, 0] * half[1, 1] - half[0, 1] * half[1, 0]
            area = x * x + y * y + z * z
            if not LEAST_AREA < area < LARGEST_AREA:
                continue
            reach_row, reach_column = cut * math.sqrt(rr), cut * math.sqrt(cc)
            low = max(f4(0), math.ceil(row - reach_row))
            high = min(bottom, math.floor(row + reach_row))
            left = max(f4(0), math.ceil(column - reach_column))
            if not (high >= low and min(right, math.floor(column + reach_column)) >= left):
                continue
            footprints[g, 0], footprints[g, 1] = column, row
            footprints[g, 2], footprints[g, 3], footprints[g, 4] = cr / rr, f4(1) / rr, rr / area
            volume = abs(_determinant(jacobian)) * scales[g, 0] * scales[g, 1] * scales[g, 2]
            footprints[g, 6] = gain * SQRT_TWO_PI * volume / math.sqrt(area)
            footprints[g, 5] = footprints[g, 6] * densities[g]
            first[g], last[g] = i4(low), i4(high)


@parallel_kernel(APPROXIMATE, "numpy")
def splat(
    footprints: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    cut2: np.float32,
    band: int,
    image: np.ndarray,
) -> None:
    """Add the footprints to an image (H, W); `band` rows, at most BLOCK, belong to one thread."""
    rows, columns = image.shape
    bands = (rows + band - 1) // band
    for task in prange(bands + bands % 2):
        number = dealt(task, bands)
        top, bottom = i4(number * band), i4(min(rows, number * band + band))
        real, whole = np.empty((3, BLOCK), f4), np.empty((2, BLOCK), i4)
        for g in range(len(first)):
            if first[g] >= bottom or last[g] < top:
                continue
            begin = max(top, first[g])
            count = i4(min(bottom, i4(last[g] + 1)) - begin)
            f = footprints[g]
            stiffness, height = f[4], f[5]
            ellipse_rows(
                begin,
                count,
                (f[0], f[1]),
                f[2],
                (f[3], stiffness),
                f4(0),
                cut2,
                i4(columns),
                real,
                whole,
            )
            for i in range(count):
                q, offset = real[0, i], real[1, i]
                # Unsigned indices spare the check for negative ones, which prevents vectorising.
                y, x = np.uintp(begin + i), np.uintp(whole[0, i])
                for j in range(whole[1, i]):
                    dx = offset + f4(j)
                    image[y, x + np.uintp(j)] += height * bell(q + stiffness * dx * dx, cut2)


@parallel_kernel(UNGROUPED, "numpy")
def splat_moments(
    footprints: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    cut2: np.float32,
    gradient: np.ndarray,
    moments: np.ndarray,
) -> None:
    """Write the moments (N, 6) of gradient times bell: 1, x, y, xx, xy, yy about each centre."""
    width = i4(gradient.shape[1])
    count = len(first)
    for chunk in prange(4 * CHUNKS):
        real, whole = np.empty((3, BLOCK), f4), np.empty((2, BLOCK), i4)
        columns = np.zeros((3, width), f4)
        # Interleaved, because neighbours in the list may all be large.
        for g in range(chunk, count, 4 * CHUNKS):
            f = footprints[g]
            stiffness = f[4]
            left, right = width, i4(0)
            for begin in range(first[g], last[g] + 1, BLOCK):
                height = i4(min(last[g] + 1 - begin, BLOCK))
                ellipse_rows(
                    i4(begin),
                    height,
                    (f[0], f[1]),
                    f[2],
                    (f[3], stiffness),
                    f4(0),
                    cut2,
                    width,
                    real,
                    whole,
                )
                for i in range(height):
                    x, length = whole[0, i], whole[1, i]
                    left, right = min(left, x), max(right, i4(x + length))
                    row = gradient[np.uintp(begin + i)]
                    add_row(
                        row, real[0, i], stiffness, cut2, x, length, real[1, i], real[2, i], columns
                    )
            m0, mx, my, mxx, mxy, myy = take_moments(columns, left, right, f[0])
            moments[g, 0], moments[g, 1], moments[g, 2] = m0, mx, my
            moments[g, 3], moments[g, 4], moments[g, 5] = mxx, mxy, myy


@parallel_kernel(APPROXIMATE, "numpy")
def project_gaussians_backward(
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    view: np.ndarray,
    cone: bool,
    half_detector: np.ndarray,
    footprints: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    moments: np.ndarray,
    position_gradient: np.ndarray,
    scale_gradient: np.ndarray,
    rotation_gradient: np.ndarray,
    density_gradient: np.ndarray,
    screen_gradient: np.ndarray,
    visible: np.ndarray,
) -> None:
    """Add the gradients of one view, given the moments of its image gradient.

    `screen_gradient` collects the norm of the gradient of the projected centre, in units of half a
    detector (`half_detector`: columns, rows, times the number of views, see `ScreenStatistics`);
    `visible` counts the views that saw the Gaussian.
    """
    count = len(positions)
    for chunk in prange(CHUNKS):
        rotation, jacobian = np.empty((3, 3), f4), np.empty((3, 3), f4)
        half, half_slope = np.empty((2, 3), f4), np.empty((2, 3), f4)
        turn, slope = np.empty((3, 3), f4), np.empty((3, 3), f4)
        for g in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            if last[g] < first[g]:
                continue
            _, _, along_a, along_b, depth, distance = _project_centre(
                positions[g], view, cone, jacobian
            )
            rotation_matrix(rotations[g], rotation)
            _half(jacobian, rotation, scales[g], half)
            # The inverse C of A.
            cc = footprints[g, 4]
            cr = -footprints[g, 2] * cc
            rr = footprints[g, 3] - footprints[g, 2] * cr
            height = footprints[g, 5]
            mass = moments[g, 0] * height  # d loss / d log height
            density_gradient[g] += moments[g, 0] * footprints[g, 6]
            column = height * (cc * moments[g, 1] + cr * moments[g, 2])
            row = height * (cr * moments[g, 1] + rr * moments[g, 2])
            screen_gradient[g] += math.sqrt(
                (column * half_detector[0]) ** 2 + (row * half_detector[1]) ** 2
            )
            visible[g] += f4(1)
            # Twice d loss / d A = height C M C - mass C, with M the second moments.
            a = height * (cc * moments[g, 3] + cr * moments[g, 4]) - mass
            b = height * (cc * moments[g, 4] + cr * moments[g, 5])
            c = height * (cr * moments[g, 3] + rr * moments[g, 4])
            d = height * (cr * moments[g, 4] + rr * moments[g, 5]) - mass
            plane_cc = a * cc + b * cr
            plane_cr = a * cr + b * rr
            plane_rr = c * cr + d * rr
            for j in range(3):
                half_slope[0, j] = plane_cc * half[0, j] + plane_cr * half[1, j]
                half_slope[1, j] = plane_cr * half[0, j] + plane_rr * half[1, j]
            for j in range(3):
                scale = scales[g, j]
                scale_gradient[g, j] += (
                    mass + half_slope[0, j] * half[0, j] + half_slope[1, j] * half[1, j]
                ) / scale
                for i in range(3):
                    turn[i, j] = scale * (
                        jacobian[0, i] * half_slope[0, j] + jacobian[1, i] * half_slope[1, j]
                    )
                position_gradient[g, j] += jacobian[0, j] * column + jacobian[1, j] * row
            add_rotation_gradient(turn, rotations[g], rotation_gradient[g])
            if not cone:
                continue
            # The perspective changes with the position: d loss / d J, then d J / d position.
            per_determinant = mass / _determinant(jacobian)
            for i in range(3):
                for j in range(3):
                    i1, i2, j1, j2 = (i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3
                    slope[i, j] = per_determinant * (
                        jacobian[i1, j1] * jacobian[i2, j2] - jacobian[i1, j2] * jacobian[i2, j1]
                    )
            for i in range(2):
                for j in range(3):
                    for k in range(3):
                        slope[i, j] += half_slope[i, k] * rotation[j, k] * scales[g, k]
            scale = view[12] / (depth * depth)
            for i in range(2):
                along = normal = f4(0)
                for k in range(3):
                    along += slope[i, k] * view[6 + 3 * i + k]
                    normal += slope[i, k] * view[3 + k]
                place = along_a if i == 0 else along_b
                bend = f4(2) * place * normal - along
                for k in range(3):
                    position_gradient[g, k] += scale * (
                        bend * view[3 + k] - normal * view[6 + 3 * i + k]
                    )
            radial = f4(0)
            for k in range(3):
                radial += slope[2, k] * jacobian[2, k]
            for k in range(3):
                position_gradient[g, k] += (slope[2, k] - radial * jacobian[2, k]) / distance
