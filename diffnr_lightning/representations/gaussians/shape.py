"""Numba pieces shared by splatting and voxelising: the exponential, ellipses row by row, rotations.

Shapes: N Gaussians; positions (N, 3) in x, y, z; scales (N, 3); rotations (N, 4) unit quaternions
w, x, y, z.
"""

from __future__ import annotations

import math

import numpy as np

from diffnr_lightning.kernels import kernel_part

f4 = np.float32
i4 = np.int32

LARGEST_CUT = 4.0
# Rows of an ellipse that are prepared at once; a constant, so that the compiler sees the strides.
BLOCK = 64
# Pixels that the processor handles at once.
LANES = 8


def _exponential_coefficients() -> list[np.float32]:
    """Fit exp(-q / 32) on [0, LARGEST_CUT^2], degree 5, small in the relative error everywhere."""
    x = LARGEST_CUT**2 / 64 * (np.cos(np.pi * (np.arange(400) + 0.5) / 400) - 1)
    powers = np.vander(x, 6, increasing=True) / np.exp(x)[:, None]
    weights = np.ones(len(x))
    for _ in range(50):
        coefficients = np.linalg.lstsq(powers * weights[:, None], weights, rcond=None)[0]
        error = np.abs(powers @ coefficients - 1)
        weights = weights * (error / error.max() + 0.1) ** 0.3
        weights /= weights.max()
    return [f4(c * (-1 / 32) ** k) for k, c in enumerate(coefficients)]


C0, C1, C2, C3, C4, C5 = _exponential_coefficients()


@kernel_part(inline=True)
def bell(q, cut2):  # noqa: ANN001, ANN201 -- float32 inside kernels
    """Return exp(-q / 2) for 0 <= q <= cut2 <= LARGEST_CUT^2, and 0 beyond.

    A polynomial, because a call of the C library would keep loops from being vectorised.
    """
    p = ((((C5 * q + C4) * q + C3) * q + C2) * q + C1) * q + C0
    p *= p
    p *= p
    p *= p
    p *= p
    return p if q <= cut2 else f4(0)


@kernel_part(inline=True)
def span(middle, reach, size):  # noqa: ANN001, ANN201 -- inlined into kernels
    """Return the first cell within `reach` of `middle` on an axis of `size` cells, and how many.

    It may hold a cell too many: the comparison in `bell` is what decides. 32-bit integers, because
    AVX2 cannot turn 64-bit ones into floats.
    """
    begin = i4(min(max(middle - reach + f4(0.999), f4(0)), f4(size)))
    end = i4(max(min(middle + reach + f4(1.001), f4(size)), f4(0)))
    return begin, max(i4(end - begin), i4(0))


@kernel_part(inline=True)
def dealt(task, count):  # noqa: ANN001, ANN201 -- inlined into kernels
    """Return which part of an object a task works on: from its two halves in turn.

    A thread gets tasks that follow one another, and the middle of an object is more work than its
    ends. `count` tasks serve as many parts, rounded up to an even number.
    """
    return task // 2 + (task % 2) * ((count + 1) // 2)


@kernel_part(inline=True)
def ellipse_rows(  # noqa: ANN201 -- inlined into kernels
    first,  # noqa: ANN001
    count,  # noqa: ANN001
    place,  # noqa: ANN001
    slope,  # noqa: ANN001
    stiffness,  # noqa: ANN001
    base,  # noqa: ANN001
    cut2,  # noqa: ANN001
    columns,  # noqa: ANN001
    real,  # noqa: ANN001
    whole,  # noqa: ANN001
):
    """Prepare rows of the ellipse q <= cut2 in an image; vectorised over the rows.

    With dr and dc the distances from the centre, q = base + stiffness[0] dr^2 + stiffness[1]
    (dc - slope dr)^2. Spans are widened to multiples of LANES and moved to the left where they
    would leave the image, so that few rows end in a loop over single pixels; for the same reason
    up to LANES - 1 rows more than asked for are written.

    Args:
        first: index of the first row, int32.
        count: rows, at most BLOCK, int32.
        place: column and row of the centre.
        slope: columns by which the middle of a row moves per row.
        stiffness: see above.
        base: see above.
        cut2: see above.
        columns: of the image, int32.
        real: (3, BLOCK) float32; out: q at the middle of the row, distance of the first pixel from
            the middle, distance of the row from the centre.
        whole: (2, BLOCK) int32; out: first pixel, number of pixels.
    """
    per_column = f4(1) / stiffness[1]
    for i in range(i4((count + LANES - 1) & -LANES)):
        distance = f4(i4(first + i)) - place[1]
        q = base + stiffness[0] * distance * distance
        reach = math.sqrt(max(cut2 - q, f4(0)) * per_column)
        middle = place[0] + slope * distance
        begin, length = span(middle, reach, columns)
        length = min(i4(i4(length + LANES - 1) & i4(-LANES)), columns)
        begin = min(begin, i4(columns - length))
        real[0, i], real[1, i], real[2, i] = q, f4(begin) - middle, distance
        whole[0, i], whole[1, i] = begin, length


@kernel_part(inline=True)
def add_row(row, q, stiffness, cut2, begin, count, offset, dy, columns):  # noqa: ANN001, ANN201 -- inlined
    """Add to `columns` (3, X) a row of pixels (X,) times bell: itself, times dy and times dy squared.

    Sums of columns, because a sum along the row would have to be regrouped to be fast, and
    compilations differ in how they regroup (`kernels.UNGROUPED`).

    Args:
        row: pixels.
        q: see `ellipse_rows`.
        stiffness: of the columns.
        cut2: see `ellipse_rows`.
        begin: first pixel.
        count: pixels.
        offset: of the first pixel from the middle of the ellipse in this row.
        dy: of the row from the centre.
        columns: see above.
    """
    dy_squared = dy * dy
    # Unsigned indices spare the check for negative ones, which prevents vectorising.
    first = np.uintp(begin)
    for j in range(count):
        dx = offset + f4(j)
        x = first + np.uintp(j)
        w = row[x] * bell(q + stiffness * dx * dx, cut2)
        columns[0, x] += w
        columns[1, x] += w * dy
        columns[2, x] += w * dy_squared


@kernel_part(inline=True)
def take_moments(columns, left, right, centre):  # noqa: ANN001, ANN201 -- inlined into kernels
    """Return the sums of 1, x, y, xx, xy and yy of what `add_row` made, about a centre, and clear it."""
    m0 = mx = my = mxx = mxy = myy = f4(0)
    for x in range(left, right):
        k = np.uintp(x)
        dx = f4(i4(x)) - centre
        s0, s1 = columns[0, k], columns[1, k]
        along = s0 * dx
        m0 += s0
        mx += along
        my += s1
        mxx += along * dx
        mxy += s1 * dx
        myy += columns[2, k]
        columns[0, k] = columns[1, k] = columns[2, k] = f4(0)
    return m0, mx, my, mxx, mxy, myy


@kernel_part(inline=True)
def rotation_matrix(q, matrix):  # noqa: ANN001, ANN201 -- inlined into kernels
    """Write the rotation of a unit quaternion into `matrix` (3, 3)."""
    one, two = f4(1), f4(2)
    w, x, y, z = q[0], q[1], q[2], q[3]
    matrix[0, 0] = one - two * (y * y + z * z)
    matrix[0, 1] = two * (x * y - w * z)
    matrix[0, 2] = two * (x * z + w * y)
    matrix[1, 0] = two * (x * y + w * z)
    matrix[1, 1] = one - two * (x * x + z * z)
    matrix[1, 2] = two * (y * z - w * x)
    matrix[2, 0] = two * (x * z - w * y)
    matrix[2, 1] = two * (y * z + w * x)
    matrix[2, 2] = one - two * (x * x + y * y)


@kernel_part(inline=True)
def add_rotation_gradient(d, quaternion, gradient):  # noqa: ANN001, ANN201 -- inlined into kernels
    """Add to `gradient` (4,) of a unit quaternion, given that of its rotation matrix, d (3, 3)."""
    two = f4(2)
    w, x, y, z = quaternion[0], quaternion[1], quaternion[2], quaternion[3]
    gradient[0] += two * (
        z * (d[1, 0] - d[0, 1]) + y * (d[0, 2] - d[2, 0]) + x * (d[2, 1] - d[1, 2])
    )
    gradient[1] += two * (
        y * (d[0, 1] + d[1, 0])
        + z * (d[0, 2] + d[2, 0])
        + w * (d[2, 1] - d[1, 2])
        - two * x * (d[1, 1] + d[2, 2])
    )
    gradient[2] += two * (
        x * (d[0, 1] + d[1, 0])
        + z * (d[1, 2] + d[2, 1])
        + w * (d[0, 2] - d[2, 0])
        - two * y * (d[0, 0] + d[2, 2])
    )
    gradient[3] += two * (
        x * (d[0, 2] + d[2, 0])
        + y * (d[1, 2] + d[2, 1])
        + w * (d[1, 0] - d[0, 1])
        - two * z * (d[0, 0] + d[1, 1])
    )


def check_cut(cut: float) -> None:
    """Refuse a cut that the kernels' exponential does not reach.

    Raises:
        ValueError: a cut outside (0, 4].
    """
    if not 0 < cut <= LARGEST_CUT:
        raise ValueError(f"cut is {cut}; a number in (0, {LARGEST_CUT:g}] is expected.")


def kept_mass(cut: float, dimensions: int) -> float:
    """Return the share of a Gaussian's mass within `cut` deviations, in 2 or 3 dimensions."""
    outside = math.exp(-0.5 * cut * cut)
    if dimensions == 2:
        return 1 - outside
    return math.erf(cut / math.sqrt(2)) - math.sqrt(2 / math.pi) * cut * outside
