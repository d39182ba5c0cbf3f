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
        self.length = _norm(target)
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
                direction = direction - earlier * _inner(earlier, direction)
        size = _norm(direction)
        if size <= _EXHAUSTED * max(self._diagonal, default=0.0) or size == 0:
            return False
        direction = direction / size
        left = self._forward(direction) - size * self._left
        below = _norm(left)
        self.directions.append(direction)
        self._diagonal.append(size)
        self._below.append(below)
        self._left = left / below if below > 0 else left
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


def _inner(first: Tensor, second: Tensor) -> float:
    return float(torch.dot(first.flatten(), second.flatten()))


def _norm(array: Tensor) -> float:
    return float(torch.linalg.vector_norm(array, dtype=torch.float64))
