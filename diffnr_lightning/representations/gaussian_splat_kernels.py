"""Numba kernels of X-ray splatting: project 3D Gaussians, sum their footprints, and the way back.

A Gaussian with covariance S and peak density rho is seen, to first order around its centre, as a 2D Gaussian with
covariance A = (J S J^T)[:2, :2], where the rows of J are the gradients of column, row and position along the ray. Its
footprint has the height rho sqrt(2 pi |J S J^T| / |A|). Bands of rows own their pixels and every sum runs in the order
of the Gaussians, so that results do not depend on the number of threads.

View rows (V, 17): source or, for parallel beam, detector centre (3); detector normal or ray direction (3); unit u (3);
unit v (3); source-detector distance; pitch u; pitch v; column and row where the normal through the source meets the
detector. Footprints (N, 6): column, row, inverse covariance (cc, cr, rr) in pixels, height.
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
BAND = 8
CHUNKS = 64
SQRT_TWO_PI = f4(math.sqrt(2 * math.pi))


@njit(cache=True, fastmath=True)
def _project_centre(
    p: np.ndarray, view: np.ndarray, cone: bool, jacobian: np.ndarray, place: np.ndarray
) -> None:
    """Write J (3, 3) and place: column, row, offsets along u and v, depth, distance from the source."""
    x, y, z = p[0] - view[0], p[1] - view[1], p[2] - view[2]
    along_u = x * view[6] + y * view[7] + z * view[8]
    along_v = x * view[9] + y * view[10] + z * view[11]
    place[2], place[3] = along_u, along_v
    if cone:
        depth = x * view[3] + y * view[4] + z * view[5]
        distance = math.sqrt(x * x + y * y + z * z)
        per_u, per_v = view[12] / view[13], view[12] / view[14]
        for k in range(3):
            jacobian[0, k] = per_u * (view[6 + k] / depth - along_u * view[3 + k] / (depth * depth))
            jacobian[1, k] = per_v * (view[9 + k] / depth - along_v * view[3 + k] / (depth * depth))
        jacobian[2, 0], jacobian[2, 1], jacobian[2, 2] = x / distance, y / distance, z / distance
        place[0] = per_u * along_u / depth + view[15]
        place[1] = per_v * along_v / depth + view[16]
        place[4], place[5] = depth, distance
    else:
        for k in range(3):
            jacobian[0, k] = view[6 + k] / view[13]
            jacobian[1, k] = view[9 + k] / view[14]
            jacobian[2, k] = view[3 + k]
        place[0] = along_u / view[13] + view[15]
        place[1] = along_v / view[14] + view[16]
        place[4] = f4(1)


@njit(inline="always")
def _determinant(m):  # noqa: ANN001, ANN202 -- inlined into kernels
    return (
        m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
        - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
        + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
    )


@njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def project_gaussians(
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    densities: np.ndarray,
    view: np.ndarray,
    cone: bool,
    cut: np.float32,
    gain: np.float32,
    rows: int,
    footprints: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
) -> None:
    """Write the footprints in one view and the first and last row of each (last < first: not seen)."""
    count = len(positions)
    for chunk in prange(CHUNKS):
        rotation, jacobian = np.empty((3, 3), f4), np.empty((3, 3), f4)
        place, half = np.empty(6, f4), np.empty((2, 3), f4)
        for g in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            first[g], last[g] = 1, 0
            _project_centre(positions[g], view, cone, jacobian, place)
            if place[4] <= f4(0):
                continue
            rotation_matrix(rotations[g], rotation)
            for i in range(2):
                for j in range(3):
                    half[i, j] = scales[g, j] * (
                        jacobian[i, 0] * rotation[0, j]
                        + jacobian[i, 1] * rotation[1, j]
                        + jacobian[i, 2] * rotation[2, j]
                    )
            cc = half[0, 0] * half[0, 0] + half[0, 1] * half[0, 1] + half[0, 2] * half[0, 2]
            cr = half[0, 0] * half[1, 0] + half[0, 1] * half[1, 1] + half[0, 2] * half[1, 2]
            rr = half[1, 0] * half[1, 0] + half[1, 1] * half[1, 1] + half[1, 2] * half[1, 2]
            area = cc * rr - cr * cr
            if not area > f4(1e-12):
                continue
            footprints[g, 0], footprints[g, 1] = place[0], place[1]
            footprints[g, 2], footprints[g, 3], footprints[g, 4] = rr / area, -cr / area, cc / area
            volume = abs(_determinant(jacobian)) * scales[g, 0] * scales[g, 1] * scales[g, 2]
            footprints[g, 5] = densities[g] * gain * SQRT_TWO_PI * volume / math.sqrt(area)
            reach = cut * math.sqrt(rr)
            low = max(f4(0), math.ceil(place[1] - reach))
            high = min(f4(rows - 1), math.floor(place[1] + reach))
            if high >= low:
                first[g], last[g] = int(low), int(high)


@njit(parallel=True, cache=True, fastmath=FAST, error_model="numpy")
def splat(
    footprints: np.ndarray, first: np.ndarray, last: np.ndarray, cut2: np.float32, image: np.ndarray
) -> None:
    """Add the footprints to an image (H, W)."""
    rows, columns = image.shape
    for band in prange((rows + BAND - 1) // BAND):
        top, bottom = band * BAND, min(rows, band * BAND + BAND)
        for g in range(len(first)):
            if first[g] >= bottom or last[g] < top:
                continue
            cc, height = footprints[g, 2], footprints[g, 5]
            slant = footprints[g, 3] / cc
            rest = footprints[g, 4] - footprints[g, 3] * slant
            for i in range(max(top, first[g]), min(bottom, last[g] + 1)):
                dy = f4(i) - footprints[g, 1]
                q = rest * dy * dy
                left = cut2 - q
                if left <= f4(0):
                    continue
                middle = footprints[g, 0] - slant * dy
                reach = math.sqrt(left / cc)
                begin, count = span(middle, reach, columns)
                if count <= 0:
                    continue
                row = image[i, begin : begin + count]
                from_middle = f4(begin) - middle
                for j in range(count):
                    dx = from_middle + f4(j)
                    row[j] += height * bell(q + cc * dx * dx)


@njit(parallel=True, cache=True, fastmath=FAST, error_model="numpy")
def splat_moments(
    footprints: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    cut2: np.float32,
    gradient: np.ndarray,
    moments: np.ndarray,
) -> None:
    """Write the moments (N, 6) of gradient times bell: 1, x, y, xx, xy, yy about each centre."""
    columns = gradient.shape[1]
    count = len(first)
    for chunk in prange(4 * CHUNKS):
        # Interleaved, because neighbours in the list may all be large.
        for g in range(chunk, count, 4 * CHUNKS):
            m0 = mx = my = mxx = mxy = myy = f4(0)
            cc = footprints[g, 2]
            if last[g] >= first[g]:
                slant = footprints[g, 3] / cc
                rest = footprints[g, 4] - footprints[g, 3] * slant
                for i in range(first[g], last[g] + 1):
                    dy = f4(i) - footprints[g, 1]
                    q = rest * dy * dy
                    left = cut2 - q
                    if left <= f4(0):
                        continue
                    shift = -slant * dy
                    middle = footprints[g, 0] + shift
                    reach = math.sqrt(left / cc)
                    begin, length = span(middle, reach, columns)
                    if length <= 0:
                        continue
                    row = gradient[i, begin : begin + length]
                    from_middle = f4(begin) - middle
                    s0 = s1 = s2 = f4(0)
                    for j in range(length):
                        dx = from_middle + f4(j)
                        w = row[j] * bell(q + cc * dx * dx)
                        s0 += w
                        s1 += w * dx
                        s2 += w * dx * dx
                    along = s1 + shift * s0
                    m0 += s0
                    mx += along
                    my += dy * s0
                    mxx += s2 + f4(2) * shift * s1 + shift * shift * s0
                    mxy += dy * along
                    myy += dy * dy * s0
            moments[g, 0], moments[g, 1], moments[g, 2] = m0, mx, my
            moments[g, 3], moments[g, 4], moments[g, 5] = mxx, mxy, myy


@njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def project_gaussians_backward(
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    densities: np.ndarray,
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

    `screen_gradient` collects the norm of the gradient of the projected centre, in units of half a detector
    (`half_detector`: columns, rows); `visible` counts the views that saw the Gaussian.
    """
    count = len(positions)
    for chunk in prange(CHUNKS):
        rotation, jacobian = np.empty((3, 3), f4), np.empty((3, 3), f4)
        place, covariance = np.empty(6, f4), np.empty((3, 3), f4)
        slope, row_slope = np.empty((3, 3), f4), np.empty((3, 3), f4)
        plane, turned = np.empty((2, 2), f4), np.empty((2, 3), f4)
        for g in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            if last[g] < first[g]:
                continue
            _project_centre(positions[g], view, cone, jacobian, place)
            rotation_matrix(rotations[g], rotation)
            cc, cr, rr = footprints[g, 2], footprints[g, 3], footprints[g, 4]
            height = footprints[g, 5]
            # d loss / d log height
            mass = moments[g, 0] * height
            column = height * (cc * moments[g, 1] + cr * moments[g, 2])
            row = height * (cr * moments[g, 1] + rr * moments[g, 2])
            screen_gradient[g] += math.sqrt(
                (column * half_detector[0]) ** 2 + (row * half_detector[1]) ** 2
            )
            visible[g] += f4(1)
            # d loss / d A = C M C height / 2 - C mass / 2, with C the inverse of A and M the second moments.
            h = f4(0.5) * height
            a = cc * moments[g, 3] + cr * moments[g, 4]
            b = cc * moments[g, 4] + cr * moments[g, 5]
            c = cr * moments[g, 3] + rr * moments[g, 4]
            d = cr * moments[g, 4] + rr * moments[g, 5]
            plane[0, 0] = h * (a * cc + b * cr) - f4(0.5) * mass * cc
            plane[0, 1] = h * (a * cr + b * rr) - f4(0.5) * mass * cr
            plane[1, 0] = plane[0, 1]
            plane[1, 1] = h * (c * cr + d * rr) - f4(0.5) * mass * rr
            for i in range(2):
                for j in range(3):
                    turned[i, j] = plane[i, 0] * jacobian[0, j] + plane[i, 1] * jacobian[1, j]
            for i in range(3):
                for j in range(3):
                    slope[i, j] = jacobian[0, i] * turned[0, j] + jacobian[1, i] * turned[1, j]
            add_shape_gradient(
                slope, rotation, scales[g], rotations[g], scale_gradient[g], rotation_gradient[g]
            )
            for k in range(3):
                scale_gradient[g, k] += mass / scales[g, k]
                position_gradient[g, k] += jacobian[0, k] * column + jacobian[1, k] * row
            density_gradient[g] += mass / densities[g]
            if not cone:
                continue
            # The perspective changes with the position: d loss / d J, then d J / d position.
            for i in range(3):
                for j in range(3):
                    covariance[i, j] = f4(0)
                    for k in range(3):
                        covariance[i, j] += (
                            rotation[i, k] * scales[g, k] * scales[g, k] * rotation[j, k]
                        )
            per_determinant = mass / _determinant(jacobian)
            for i in range(3):
                for j in range(3):
                    i1, i2, j1, j2 = (i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3
                    cofactor = (
                        jacobian[i1, j1] * jacobian[i2, j2] - jacobian[i1, j2] * jacobian[i2, j1]
                    )
                    row_slope[i, j] = per_determinant * cofactor
                    if i < 2:
                        for k in range(3):
                            row_slope[i, j] += f4(2) * turned[i, k] * covariance[k, j]
            depth = place[4]
            for i in range(2):
                per_pixel = view[12] / view[13 + i]
                unit = 6 + 3 * i
                along = normal = f4(0)
                for k in range(3):
                    along += row_slope[i, k] * view[unit + k]
                    normal += row_slope[i, k] * view[3 + k]
                bend = f4(2) * place[2 + i] * normal / depth - along
                for k in range(3):
                    position_gradient[g, k] += (
                        per_pixel * (bend * view[3 + k] - normal * view[unit + k]) / (depth * depth)
                    )
            radial = f4(0)
            for k in range(3):
                radial += row_slope[2, k] * jacobian[2, k]
            for k in range(3):
                position_gradient[g, k] += (row_slope[2, k] - radial * jacobian[2, k]) / place[5]
