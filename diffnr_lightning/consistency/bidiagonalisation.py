"""Golub-Kahan bidiagonalisation: a linear operator as seen from one right-hand side."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# A direction this much shorter than the first ones is rounding.
_EXHAUSTED = 1e-6


class Bidiagonalisation:
    """Grow orthonormal directions in which an operator explains a right-hand side best.

    After k steps ``B V = U M`` with V the k `directions`, M the (k + 1, k) `matrix`, and U orthonormal with
    ``b = |b| U[:, 0]``. So ``|B V c - b| = |M c - |b| e_1|`` for coefficients c, and the same with any penalty on
    ``|V c| = |c|``: problems of millions of unknowns become problems of k.

    Args:
        forward: B, volumes to projections.
        adjoint: its exact adjoint.
        target: b, any shape; not zero.

    Attributes:
        directions: k volumes, orthonormal.
        length: ``|b|``.
        left_over: share of it that no combination of the directions explains.

    Source: C. Paige, M. Saunders, "LSQR", ACM TOMS 1982. Directions are orthogonalised against all before; those of
    the projections need it not and are not kept (H. Simon, H. Zha, SIAM J. Sci. Comput. 2000).
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        target: Tensor,
    ) -> None:
        self._forward, self._adjoint = forward, adjoint
        self.length = float(_norm(target))
        self.directions: list[Tensor] = []
        self._left = target / self.length
        self._diagonal: list[float] = []
        self._below: list[float] = []
        self.left_over = 1.0
        self._rotated = 1.0  # cosine of the last rotation that made M triangular

    def grow(self) -> bool:
        """Add one direction; False where there is none left."""
        direction = self._adjoint(self._left)
        for _ in range(2):  # twice is enough (Parlett)
            for earlier in self.directions:
                inner = torch.dot(earlier.flatten(), direction.flatten())
                direction = direction - earlier * inner
        lengths = [_norm(direction)]
        direction = direction / _divisor(lengths[0])
        left = self._forward(direction) - lengths[0] * self._left
        lengths.append(_norm(left))
        # A device is waited for here alone.
        size, below = torch.stack(lengths).tolist()
        if size <= _EXHAUSTED * max(self._diagonal, default=0.0) or size == 0:
            return False
        self.directions.append(direction)
        self._diagonal.append(size)
        self._below.append(below)
        self._left = left / _divisor(lengths[1])
        pivot = math.hypot(self._rotated * size, below)
        self._rotated, sine = self._rotated * size / pivot, below / pivot
        self.left_over *= sine
        return True

    @property
    def matrix(self) -> np.ndarray:
        """M, (k + 1, k) float64, lower bidiagonal."""
        count = len(self.directions)
        matrix = np.zeros((count + 1, count))
        matrix[np.arange(count), np.arange(count)] = self._diagonal
        matrix[np.arange(count) + 1, np.arange(count)] = self._below
        return matrix

    def combined(self, coefficients: np.ndarray) -> Tensor:
        """Return the sum of the directions with these coefficients, (k,)."""
        total = torch.zeros_like(self.directions[0])
        for coefficient, direction in zip(coefficients, self.directions, strict=True):
            total.add_(direction, alpha=float(coefficient))
        return total


def _norm(array: Tensor) -> Tensor:
    return torch.linalg.vector_norm(array, dtype=torch.float64)


def _divisor(length: Tensor) -> Tensor:
    """Return a length, or 1 in the place of 0."""
    return torch.where(length > 0, length, 1.0)
