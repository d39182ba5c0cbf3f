"""The fused gradient against autograd."""

import pytest
import torch

from diffnr_lightning.solvers import total_variation, total_variation_gradient


@pytest.mark.parametrize("shape", [(7, 9, 11), (1, 1, 1), (1, 6, 5), (4, 1, 3), (3, 5, 1)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.7)])
def test_gradient_is_that_of_autograd(shape, spacing):
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    expected = total_variation_gradient(volume.double(), spacing)
    actual = total_variation_gradient(volume, spacing)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_lies_in_memory_as_the_volume_does():
    volume = torch.randn(7, 9, 11, generator=torch.Generator().manual_seed(2))
    columns = volume.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    gradient = total_variation_gradient(columns, (3.0, 1.0, 0.7))
    assert gradient.stride() == columns.stride()
    torch.testing.assert_close(gradient, total_variation_gradient(volume, (3.0, 1.0, 0.7)))


def test_gradcheck():
    volume = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: total_variation(v, (2.0, 1.0, 1.0)), volume)


def test_value_of_a_step_edge():
    volume = torch.zeros(6, 6, 6)
    volume[3:] = 2.0
    assert float(total_variation(volume, smoothing=0.0)) == pytest.approx(2.0 * 36)
    assert float(total_variation(volume, (2.0, 1.0, 1.0), 0.0)) == pytest.approx(36.0)


def test_constant_volume_has_no_gradient():
    assert float(total_variation_gradient(torch.full((5, 5, 5), 0.3)).abs().max()) == 0.0


def test_descent_lowers_it():
    volume = torch.rand(12, 12, 12, generator=torch.Generator().manual_seed(3))
    lower = volume - 0.01 * total_variation_gradient(volume)
    assert float(total_variation(lower)) < float(total_variation(volume))


@pytest.mark.parametrize("shape", [(7, 9, 11), (1, 1, 1), (4, 1, 3)])
def test_triton_gradient_is_that_of_autograd(shape, triton_device):
    pytest.importorskip("triton")
    from diffnr_lightning.solvers import total_variation_triton

    volume, spacing = (
        torch.randn(shape, generator=torch.Generator().manual_seed(2)),
        (3.0, 1.0, 0.7),
    )
    expected = total_variation_gradient(volume.double(), spacing)
    actual = total_variation_triton.total_variation_gradient(
        volume.to(triton_device), spacing, 1e-4
    )
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-5, atol=1e-5)
