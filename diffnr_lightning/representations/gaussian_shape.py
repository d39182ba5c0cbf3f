"""Numba pieces shared by splatting and voxelising: the exponential, rotations and their gradients.

Shapes: N Gaussians; positions (N, 3) in x, y, z; scales (N, 3); rotations (N, 4) unit quaternions w, x, y, z.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

f4 = np.float32

# Contractions and reciprocals only: with full fastmath the order of a sum could depend on the compiler's mood.
FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
LARGEST_CUT = 4.0


def _exponential_coefficients() -> list[np.float32]:
    """Fit exp on [-LARGEST_CUT^2 / 32, 0] with a polynomial of degree 5, small in the relative error everywhere."""
    x = LARGEST_CUT**2 / 64 * (np.cos(np.pi * (np.arange(400) + 0.5) / 400) - 1)
    powers = np.vander(x, 6, increasing=True) / np.exp(x)[:, None]
    weights = np.ones(len(x))
    for _ in range(50):
        coefficients = np.linalg.lstsq(powers * weights[:, None], weights, rcond=None)[0]
        error = np.abs(powers @ coefficients - 1)
        weights = weights * (error / error.max() + 0.1) ** 0.3
        weights /= weights.max()
    return [f4(c) for c in coefficients]


C0, C1, C2, C3, C4, C5 = _exponential_coefficients()


@njit(inline="always")
def bell(q):  # noqa: ANN001, ANN201 -- a float32 inside kernels
    """Return exp(-q / 2) for 0 <= q <= LARGEST_CUT^2; the C library's would keep loops from being vectorised."""
    y = q * f4(-1 / 32)
    p = ((((C5 * y + C4) * y + C3) * y + C2) * y + C1) * y + C0
    p *= p
    p *= p
    p *= p
    p *= p
    return p


@njit(inline="always")
def span(middle, reach, size):  # noqa: ANN001, ANN201 -- inlined into kernels
    """Return the first index within `reach` of `middle` on an axis of `size` cells, and how many there are.

    32-bit integers, because AVX2 cannot turn 64-bit ones into floats.
    """
    begin = np.int32(max(middle - reach + f4(0.9999999), f4(0)))
    end = (
        np.int32(min(middle + reach, f4(size - 1)) + f4(1))
        if middle + reach >= f4(0)
        else np.int32(0)
    )
    return begin, np.int32(end - begin)


@njit(inline="always")
def rotation_matrix(q: np.ndarray, matrix: np.ndarray) -> None:
    """Write the rotation of a unit quaternion into `matrix` (3, 3)."""
    w, x, y, z = q[0], q[1], q[2], q[3]
    matrix[0, 0] = 1 - 2 * (y * y + z * z)
    matrix[0, 1] = 2 * (x * y - w * z)
    matrix[0, 2] = 2 * (x * z + w * y)
    matrix[1, 0] = 2 * (x * y + w * z)
    matrix[1, 1] = 1 - 2 * (x * x + z * z)
    matrix[1, 2] = 2 * (y * z - w * x)
    matrix[2, 0] = 2 * (x * z - w * y)
    matrix[2, 1] = 2 * (y * z + w * x)
    matrix[2, 2] = 1 - 2 * (x * x + y * y)


@njit(inline="always")
def add_shape_gradient(
    covariance_gradient: np.ndarray,
    rotation: np.ndarray,
    scale: np.ndarray,
    quaternion: np.ndarray,
    scale_gradient: np.ndarray,
    quaternion_gradient: np.ndarray,
) -> None:
    """Carry a gradient of the covariance R diag(s)^2 R^T back to scale and quaternion.

    Args:
        covariance_gradient: (3, 3), symmetric.
        rotation: (3, 3), R.
        scale: (3,), s.
        quaternion: (4,), of R.
        scale_gradient: (3,), added to.
        quaternion_gradient: (4,), added to.
    """
    d = np.empty((3, 3), f4)
    for j in range(3):
        total = f4(0)
        for i in range(3):
            slope = f4(0)
            for k in range(3):
                slope += covariance_gradient[i, k] * rotation[k, j]
            slope *= f4(2) * scale[j]
            total += slope * rotation[i, j]
            d[i, j] = slope * scale[j]
        scale_gradient[j] += total
    two = f4(2)
    w, x, y, z = quaternion[0], quaternion[1], quaternion[2], quaternion[3]
    quaternion_gradient[0] += two * (
        z * (d[1, 0] - d[0, 1]) + y * (d[0, 2] - d[2, 0]) + x * (d[2, 1] - d[1, 2])
    )
    quaternion_gradient[1] += two * (
        y * (d[0, 1] + d[1, 0])
        + z * (d[0, 2] + d[2, 0])
        + w * (d[2, 1] - d[1, 2])
        - two * x * (d[1, 1] + d[2, 2])
    )
    quaternion_gradient[2] += two * (
        x * (d[0, 1] + d[1, 0])
        + z * (d[1, 2] + d[2, 1])
        + w * (d[0, 2] - d[2, 0])
        - two * y * (d[0, 0] + d[2, 2])
    )
    quaternion_gradient[3] += two * (
        x * (d[0, 2] + d[2, 0])
        + y * (d[1, 2] + d[2, 1])
        + w * (d[1, 0] - d[0, 1])
        - two * z * (d[0, 0] + d[1, 1])
    )


def kept_mass(cut: float, dimensions: int) -> float:
    """Return the share of a Gaussian's mass within `cut` standard deviations, in 2 or 3 dimensions."""
    outside = math.exp(-0.5 * cut * cut)
    if dimensions == 2:
        return 1 - outside
    return math.erf(cut / math.sqrt(2)) - math.sqrt(2 / math.pi) * cut * outside
