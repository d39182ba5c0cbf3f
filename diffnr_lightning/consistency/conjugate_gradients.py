"""Conjugate gradients for symmetric positive operators on volumes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def conjugate_gradients(
    operator: Callable[[Tensor], Tensor],
    target: Tensor,
    start: Tensor,
    *,
    iterations: int,
    tolerance: float = 0.0,
    scaling: Tensor | None = None,
) -> Tensor:
    """Solve ``H x = b`` approximately.

    Args:
        operator: H, symmetric and not negative; returns a new tensor of the shape of its argument.
        target: b, any shape.
        start: of the shape of the target; it is not changed.
        iterations: at most; each takes the operator once, and one more is for the start.
        tolerance: share of the target's norm, after scaling, below which the residual is small enough.
        scaling: positive, about one over the diagonal of H; None is 1.

    Returns:
        x, of the shape of the target.

    Source: M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems", 1952; with diagonal
    preconditioning.
    """
    volume = start.clone()
    residual = target - operator(volume)
    least = tolerance**2 * _inner(target, _scaled(target, scaling))
    direction, energy = torch.zeros_like(volume), 1.0
    for _ in range(iterations):
        scaled = _scaled(residual, scaling)
        before, energy = energy, _inner(residual, scaled)
        if energy <= least:
            break
        direction.mul_(energy / before).add_(scaled)
        image = operator(direction)
        curvature = _inner(direction, image)
        if curvature <= 0:  # what is left lies where the operator is zero
            break
        volume.add_(direction, alpha=energy / curvature)
        residual.sub_(image, alpha=energy / curvature)
    return volume


@torch.no_grad()
def conjugate_gradients_of_slices(
    operator: Callable[[Tensor], Tensor],
    target: Tensor,
    start: Tensor,
    *,
    iterations: int,
    tolerance: float = 0.0,
) -> Tensor:
    """Solve ``H x = b`` approximately where H leaves each slice to itself, each by steps of its own.

    Args:
        operator: H of a volume (Z, Y, X), as in `conjugate_gradients`.
        target: b.
        start: of the shape of the target; it is not changed.
        iterations: at most.
        tolerance: share of a slice's target below which its residual is small enough.

    Returns:
        x, (Z, Y, X).

    Source: as `conjugate_gradients`.
    """
    volume = start.clone()
    residual = target - operator(volume)
    least = tolerance**2 * _inner_of_slices(target, target)
    direction, energy = torch.zeros_like(volume), torch.ones_like(least)
    for _ in range(iterations):
        before, energy = energy, _inner_of_slices(residual, residual)
        unsolved = energy > least
        if not unsolved.any():
            break
        turn = torch.where(before > 0, energy / before, 0.0)
        direction.mul_(turn.to(volume)).add_(residual)
        image = operator(direction)
        curvature = _inner_of_slices(direction, image)
        step = torch.where(unsolved & (curvature > 0), energy / curvature, 0.0).to(volume)
        volume.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1.0)
    return volume


def _scaled(array: Tensor, scaling: Tensor | None) -> Tensor:
    return array if scaling is None else array * scaling


def _inner(first: Tensor, second: Tensor) -> float:
    return float((first * second).sum(dtype=torch.float64))


def _inner_of_slices(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=(1, 2), keepdim=True, dtype=torch.float64)
