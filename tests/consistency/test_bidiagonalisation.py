"""Directions of a linear operator: what they say of misfits, where they end, and how often a device is waited for."""

import numpy as np
import pytest
import torch

from diffnr_lightning.consistency.bidiagonalisation import Bidiagonalisation


def grown(rows, columns, most):
    """Operator (rows, columns), right-hand side, and as many directions as there are."""
    draw = torch.Generator().manual_seed(rows)
    matrix = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    target = torch.randn(rows, generator=draw, dtype=torch.float64)
    krylov = Bidiagonalisation(lambda u: matrix @ u, lambda r: matrix.T @ r, target)
    return matrix, target, krylov, [krylov.grow() for _ in range(most)]


def test_misfits_are_those_of_the_small_problem():
    matrix, target, krylov, found = grown(9, 7, 4)
    assert found == [True] * 4
    coefficients = np.array([0.3, -1.0, 2.0, 0.5])
    small = krylov.matrix @ coefficients
    small[0] -= krylov.length
    whole = matrix @ krylov.combined(coefficients) - target
    assert np.linalg.norm(small) == pytest.approx(float(whole.norm()))


def test_an_exhausted_space_ends_and_keeps_what_it_has():
    matrix, target, krylov, found = grown(6, 3, 5)
    assert found == [True, True, True, False, False]
    assert krylov.matrix.shape == (4, 3)
    least = np.linalg.lstsq(matrix.numpy(), target.numpy(), rcond=None)[1][0] ** 0.5
    assert krylov.left_over * krylov.length == pytest.approx(least)
    nothing = Bidiagonalisation(lambda u: 0 * u, lambda r: 0 * r, target)
    assert not nothing.grow()
    assert nothing.directions == []


def test_a_device_is_waited_for_once_a_direction(monkeypatch):
    _, _, krylov, _ = grown(9, 7, 0)
    fetched = []
    for name in ("item", "tolist", "__float__", "__bool__", "numpy"):
        fetch = getattr(torch.Tensor, name)

        def counted(tensor, fetch=fetch):
            fetched.append(tensor)
            return fetch(tensor)

        monkeypatch.setattr(torch.Tensor, name, counted)
    for _ in range(5):
        assert krylov.grow()
    assert len(fetched) == 5
