"""Fused CPU kernels of the structural similarity: index and gradient of a slice in one visit.

A slice is filtered row by row and column by column with the same eleven taps; everything between
the input and the gradient stays in a scratch area of a few hundred kilobytes per thread, so that a
volume is read once per plane. Slices are handed to threads in blocks and nothing is summed across
slices, hence results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from diffnr_lightning.kernels import RELAXED, kernel_part, parallel_kernel, prange

RADIUS = 5
WINDOW_SIGMA = 1.5
K1 = 0.01
K2 = 0.03


def gaussian_window() -> np.ndarray:
    """Return the 11 normalised filter taps (float64)."""
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / WINDOW_SIGMA) ** 2)
    return taps / taps.sum()


@kernel_part(RELAXED)
def filter_along_row(row: np.ndarray, taps: np.ndarray, filtered: np.ndarray) -> None:
    """Filter a row padded by RADIUS zeros at both ends; `taps` run from the centre outwards."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    for j in range(filtered.size):
        filtered[j] = (
            t0 * row[j + 5]
            + t1 * (row[j + 4] + row[j + 6])
            + t2 * (row[j + 3] + row[j + 7])
            + t3 * (row[j + 2] + row[j + 8])
            + t4 * (row[j + 1] + row[j + 9])
            + t5 * (row[j] + row[j + 10])
        )


@kernel_part(RELAXED)
def filter_across_rows(
    rows: np.ndarray, first: int, taps: np.ndarray, filtered: np.ndarray
) -> None:
    """Filter rows first..first + 2 RADIUS into the one row in their middle."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    # Eleven separate rows instead of a loop over taps: the compiler then vectorises along the row.
    r0, r1, r2, r3 = rows[first], rows[first + 1], rows[first + 2], rows[first + 3]
    r4, r5, r6, r7 = rows[first + 4], rows[first + 5], rows[first + 6], rows[first + 7]
    r8, r9, r10 = rows[first + 8], rows[first + 9], rows[first + 10]
    for j in range(filtered.size):
        filtered[j] = (
            t0 * r5[j]
            + t1 * (r4[j] + r6[j])
            + t2 * (r3[j] + r7[j])
            + t3 * (r2[j] + r8[j])
            + t4 * (r1[j] + r9[j])
            + t5 * (r0[j] + r10[j])
        )


@kernel_part(RELAXED)
def fill_row(x: np.ndarray, row: np.ndarray) -> None:
    """Write x into a row padded by RADIUS."""
    for j in range(x.size):
        row[j + RADIUS] = x[j]


@kernel_part(RELAXED)
def fill_square_sum(x: np.ndarray, y: np.ndarray, row: np.ndarray) -> None:
    """Write x^2 + y^2 into a row padded by RADIUS; the index never needs the two squares apart."""
    for j in range(x.size):
        row[j + RADIUS] = x[j] * x[j] + y[j] * y[j]


@kernel_part(RELAXED)
def fill_product(x: np.ndarray, y: np.ndarray, row: np.ndarray) -> None:
    """Write x y into a row padded by RADIUS."""
    for j in range(x.size):
        row[j + RADIUS] = x[j] * y[j]


@kernel_part(RELAXED)
def similarity_of_row(moments: np.ndarray, c1: float, c2: float) -> float:
    """Sum the index a1 a2 / (b1 b2) over a row of filtered x, y, x^2 + y^2 and x y."""
    mx, my, squares, product = moments[0], moments[1], moments[2], moments[3]
    two = np.float32(2.0)
    total = np.float32(0.0)
    for j in range(mx.size):
        luminance = mx[j] * mx[j] + my[j] * my[j]
        a1 = two * mx[j] * my[j] + c1
        a2 = two * (product[j] - mx[j] * my[j]) + c2
        total += a1 * a2 / ((luminance + c1) * (squares[j] - luminance + c2))
    return total


# The three slopes are three loops with one output each: the compiler gives up vectorising a loop
# in which it would have to check several outputs against every input for overlap.
@kernel_part(RELAXED)
def slope_by_mean(moments: np.ndarray, c1: float, c2: float, slope: np.ndarray) -> None:
    """Differentiate the index by the filtered x (variance and covariance hold it too)."""
    mx, my, squares, product = moments[0], moments[1], moments[2], moments[3]
    one = np.float32(1.0)
    two = np.float32(2.0)
    for j in range(mx.size):
        luminance = mx[j] * mx[j] + my[j] * my[j]
        a1 = two * mx[j] * my[j] + c1
        a2 = two * (product[j] - mx[j] * my[j]) + c2
        b1 = luminance + c1
        b2 = squares[j] - luminance + c2
        inverse = one / (b1 * b2)
        index = a1 * a2 * inverse
        slope[j + RADIUS] = two * inverse * (my[j] * (a2 - a1) + mx[j] * index * (b1 - b2))


@kernel_part(RELAXED)
def slope_by_squares(moments: np.ndarray, c1: float, c2: float, slope: np.ndarray) -> None:
    """Differentiate the index by the filtered x^2 + y^2."""
    mx, my, squares, product = moments[0], moments[1], moments[2], moments[3]
    two = np.float32(2.0)
    for j in range(mx.size):
        luminance = mx[j] * mx[j] + my[j] * my[j]
        a1 = two * mx[j] * my[j] + c1
        a2 = two * (product[j] - mx[j] * my[j]) + c2
        b2 = squares[j] - luminance + c2
        slope[j + RADIUS] = -a1 * a2 / ((luminance + c1) * b2 * b2)


@kernel_part(RELAXED)
def slope_by_product(moments: np.ndarray, c1: float, c2: float, slope: np.ndarray) -> None:
    """Differentiate the index by the filtered x y."""
    mx, my, squares = moments[0], moments[1], moments[2]
    two = np.float32(2.0)
    for j in range(mx.size):
        luminance = mx[j] * mx[j] + my[j] * my[j]
        a1 = two * mx[j] * my[j] + c1
        slope[j + RADIUS] = two * a1 / ((luminance + c1) * (squares[j] - luminance + c2))


@kernel_part(RELAXED)
def add_gradient_of_row(
    x: np.ndarray, y: np.ndarray, slopes: np.ndarray, scale: float, gradient: np.ndarray
) -> None:
    """Collect the filtered slopes (by mean, by squares, by product) of a row, times `scale`."""
    by_mean, by_squares, by_product = slopes[0], slopes[1], slopes[2]
    two = np.float32(2.0)
    for j in range(x.size):
        gradient[j] += scale * (by_mean[j] + two * x[j] * by_squares[j] + y[j] * by_product[j])


@kernel_part()
def similarity_of_slice(
    x: np.ndarray,
    y: np.ndarray,
    start: int,
    row_stride: int,
    taps: np.ndarray,
    c1: np.float32,
    c2: np.float32,
    filtered: np.ndarray,
    filtered_slopes: np.ndarray,
    padded: np.ndarray,
    moments: np.ndarray,
    scale: np.float32,
    gradient: np.ndarray,
) -> float:
    """Mean index of one slice; adds scale * its gradient where `gradient` is not empty.

    Args:
        x: flat volume; row i of the slice is the run of W values from start + i row_stride.
        y: flat reference, laid out as `x`.
        start: of the slice in the flat arrays.
        row_stride: from row to row in the flat arrays.
        taps: (6,) filter from the centre outwards.
        c1: stabiliser of the luminance term.
        c2: stabiliser of the structure term.
        filtered: (4, H + 10, W) scratch whose first and last five rows are zero.
        filtered_slopes: (3, H + 10, W) scratch of the same kind; unused without gradient.
        padded: (4, W + 10) scratch whose first and last five columns are zero.
        moments: (4, W) scratch.
        scale: factor of the gradient.
        gradient: flat array laid out as `x`, or empty.

    Returns:
        The mean of the index over the H W pixels.
    """
    height = filtered.shape[1] - 2 * RADIUS
    width = filtered.shape[2]
    for i in range(height):
        begin = start + i * row_stride
        x_row, y_row = x[begin : begin + width], y[begin : begin + width]
        fill_row(x_row, padded[0])
        fill_row(y_row, padded[1])
        fill_square_sum(x_row, y_row, padded[2])
        fill_product(x_row, y_row, padded[3])
        for k in range(4):
            filter_along_row(padded[k], taps, filtered[k, i + RADIUS])
    total = 0.0
    for i in range(height):
        for k in range(4):
            filter_across_rows(filtered[k], i, taps, moments[k])
        total += similarity_of_row(moments, c1, c2)
        if gradient.size > 0:
            slope_by_mean(moments, c1, c2, padded[0])
            slope_by_squares(moments, c1, c2, padded[1])
            slope_by_product(moments, c1, c2, padded[2])
            for k in range(3):
                filter_along_row(padded[k], taps, filtered_slopes[k, i + RADIUS])
    if gradient.size > 0:
        share = np.float32(scale / np.float32(height * width))
        for i in range(height):
            begin = start + i * row_stride
            for k in range(3):
                filter_across_rows(filtered_slopes[k], i, taps, moments[k])
            add_gradient_of_row(
                x[begin : begin + width],
                y[begin : begin + width],
                moments,
                share,
                gradient[begin : begin + width],
            )
    return total / (height * width)


@parallel_kernel()
def similarity_of_slices(
    x: np.ndarray,
    y: np.ndarray,
    slices: np.ndarray,
    slice_stride: int,
    row_stride: int,
    height: int,
    width: int,
    taps: np.ndarray,
    c1: np.float32,
    c2: np.float32,
    scale: np.float32,
    gradient: np.ndarray,
    similarity: np.ndarray,
    num_threads: int,
) -> None:
    """Mean index of chosen slices of a volume, and the gradient of their sum.

    Args:
        x: flat float32 volume; row i of slice n is the run of `width` values from
            n slice_stride + i row_stride.
        y: flat float32 reference, laid out as `x`.
        slices: (N,) indices n, without repetition.
        slice_stride: from slice to slice.
        row_stride: from row to row.
        height: rows in a slice.
        width: values in a row.
        taps: (6,) filter from the centre outwards.
        c1: stabiliser of the luminance term.
        c2: stabiliser of the structure term.
        scale: factor of the gradient.
        gradient: flat array laid out as `x`, to which the gradient is added; empty where none is
            wanted.
        similarity: (N,) output.
        num_threads: number of blocks of slices. (An argument, because asking for it in here would
            switch the compiler's cache off.)
    """
    count = slices.size
    slope_rows = height + 2 * RADIUS if gradient.size > 0 else 1
    for thread in prange(num_threads):
        filtered = np.zeros((4, height + 2 * RADIUS, width), np.float32)
        filtered_slopes = np.zeros((3, slope_rows, width), np.float32)
        padded = np.zeros((4, width + 2 * RADIUS), np.float32)
        moments = np.empty((4, width), np.float32)
        for n in range(thread * count // num_threads, (thread + 1) * count // num_threads):
            similarity[n] = similarity_of_slice(
                x,
                y,
                slices[n] * slice_stride,
                row_stride,
                taps,
                c1,
                c2,
                filtered,
                filtered_slopes,
                padded,
                moments,
                scale,
                gradient,
            )
