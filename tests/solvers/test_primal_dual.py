"""The halves of a primal-dual step, against what they are defined by."""

import pytest
import torch

from diffnr_lightning.solvers.primal_dual import ascend, descend, vectors_like

RATIOS = (1.0, 0.5, 0.8)
SHAPE = (4, 5, 7)


def differences(volume: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(3, *volume.shape, dtype=volume.dtype)
    found[0, :-1] = RATIOS[0] * (volume[1:] - volume[:-1])
    found[1, :, :-1] = RATIOS[1] * (volume[:, 1:] - volume[:, :-1])
    found[2, :, :, :-1] = RATIOS[2] * (volume[:, :, 1:] - volume[:, :, :-1])
    return found


@pytest.fixture(params=[torch.float32, torch.float64])
def drawn(request):
    """Four volumes and a dual variable that is zero across the far faces; compiled and in torch."""
    generator = torch.Generator().manual_seed(0)
    volumes = [torch.rand(SHAPE, generator=generator).to(request.param) for _ in range(4)]
    dual = torch.randn(3, *SHAPE, generator=generator).to(request.param)
    dual[0, -1] = dual[1, :, -1] = dual[2, :, :, -1] = 0.0
    return volumes, dual


def test_the_volume_goes_down_the_adjoint_of_the_differences(drawn):
    (volume, ahead, drift, step), dual = drawn
    before = volume.clone().requires_grad_()
    (pull,) = torch.autograd.grad((differences(before) * dual).sum(), before)
    wanted = (before.detach() - step * (drift + pull)).clamp(min=0.0)
    assert (wanted == 0).any() and (wanted > 0).any()
    descend(volume, ahead, drift, dual, step, RATIOS)
    torch.testing.assert_close(volume, wanted)
    torch.testing.assert_close(ahead, 2 * wanted - before.detach())


def test_the_dual_variable_goes_up_the_differences_and_stays_in_its_balls(drawn):
    (ahead, step, bound, _), dual = drawn
    bound[0] = 0.0
    wanted = dual + step * differences(ahead)
    most = 1.5 * bound
    wanted = wanted * (most / torch.maximum(wanted.norm(dim=0), most)).nan_to_num(0.0)
    shortened = wanted.norm(dim=0) > 0.999 * most
    assert shortened.any() and not shortened.all()
    ascend(dual, ahead, step, bound, 1.5, RATIOS)
    torch.testing.assert_close(dual, wanted)
    assert (dual[:, 0] == 0).all()


def test_steps_run_through_volumes_as_they_lie_in_memory():
    def columns(volume):
        return volume.permute(1, 2, 0).contiguous().permute(2, 0, 1)

    generator = torch.Generator().manual_seed(2)
    volume, ahead, drift, step, bound = (torch.rand(SHAPE, generator=generator) for _ in range(5))
    dual = torch.zeros(3, *SHAPE)
    laid_out = [columns(v) for v in (volume, ahead, drift, step, bound)]
    dual_laid_out = vectors_like(laid_out[0])
    assert dual_laid_out.shape == dual.shape and (dual_laid_out == 0).all()
    assert dual_laid_out[1].stride() == laid_out[0].stride()
    for _ in range(3):
        ascend(dual, ahead, step, bound, 1.5, RATIOS)
        descend(volume, ahead, drift, dual, step, RATIOS)
        same, line, pull, length, most = laid_out
        ascend(dual_laid_out, line, length, most, 1.5, RATIOS)
        descend(same, line, pull, dual_laid_out, length, RATIOS)
    for found, wanted in ((same, volume), (line, ahead), (dual_laid_out, dual)):
        torch.testing.assert_close(found, wanted)


def test_triton_steps_equal_those_of_torch(triton_device):
    pytest.importorskip("triton")
    from diffnr_lightning.solvers import primal_dual_triton

    generator = torch.Generator().manual_seed(1)
    wanted = [torch.rand(SHAPE, generator=generator).double() for _ in range(5)]
    dual = torch.randn(3, *SHAPE, generator=generator).double()
    dual[0, -1] = dual[1, :, -1] = dual[2, :, :, -1] = 0.0
    found = [a.float().to(triton_device) for a in wanted]
    found_dual = dual.float().to(triton_device)
    volume, ahead, drift, step, bound = wanted
    descend(volume, ahead, drift, dual, step, RATIOS)
    ascend(dual, ahead, step, bound, 1.5, RATIOS)
    volume, ahead, drift, step, bound = found
    primal_dual_triton.descend(volume, ahead, drift, found_dual, step, RATIOS)
    primal_dual_triton.ascend(found_dual, ahead, step, bound, 1.5, RATIOS)
    for actual, expected in zip([volume, ahead, found_dual], [*wanted[:2], dual], strict=True):
        torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-5, atol=1e-6)
