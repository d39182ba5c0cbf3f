import pytest
import torch

from diffnr_lightning.losses import tv_3d, tv_3d_reference, variation


def test_ramp_has_the_mean_of_its_slopes():
    z, y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float32) for n in (4, 5, 6)), indexing="ij"
    )
    differences = {"z": 3 * 5 * 6, "y": 4 * 4 * 6, "x": 4 * 5 * 5}
    expected = (2 * differences["z"] + 3 * differences["y"] + 1 * differences["x"]) / sum(
        differences.values()
    )
    assert tv_3d(2 * z - 3 * y + x).item() == pytest.approx(expected, rel=1e-6)


def test_one_bright_voxel_counts_six_edges():
    volume = torch.zeros(3, 3, 3)
    volume[1, 1, 1] = 5
    volume.requires_grad_()
    value = tv_3d(volume)
    value.backward()
    assert value.item() == pytest.approx(5 * 6 / 54)
    assert volume.grad[1, 1, 1].item() == pytest.approx(6 / 54)
    assert volume.grad[0, 1, 1].item() == pytest.approx(-1 / 54)
    assert volume.grad[0, 0, 0].item() == 0


@pytest.mark.parametrize("shape", [(7, 8, 9), (1, 6, 5), (6, 1, 5), (4, 3, 1), (1, 1, 2)])
def test_kernel_equals_reference_in_value_and_gradient(shape):
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    got, want = volume.clone().requires_grad_(), volume.double().requires_grad_()
    value, oracle = tv_3d(got), tv_3d_reference(want)
    (3 * value).backward()
    (3 * oracle).backward()
    assert value.item() == pytest.approx(oracle.item(), rel=1e-5)
    torch.testing.assert_close(got.grad.double(), want.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(half):
    """The sum of all differences lies beyond the numbers of float16, and has more digits than bfloat16."""
    volume = torch.rand(64, 64, 64, generator=torch.Generator().manual_seed(0)).to(half)
    volume.requires_grad_()
    value = tv_3d(volume)
    value.backward()
    assert value.dtype == torch.float32 and volume.grad.dtype == half
    assert value.item() == pytest.approx(tv_3d(volume.detach().float()).item(), rel=1e-3)


def test_wrong_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        tv_3d(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="two voxels"):
        tv_3d(torch.zeros(1, 1, 1))


@pytest.mark.parametrize("shape", [(7, 8, 11), (1, 6, 5), (1, 1, 2)])
def test_triton_equals_reference_in_value_and_gradient(shape, triton_device):
    pytest.importorskip("triton")
    from diffnr_lightning.losses import variation_triton

    volume = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(0)).float()
    want = volume.double().requires_grad_()
    tv_3d_reference(want).backward()
    volume, gradient = volume.to(triton_device), torch.empty(shape, device=triton_device)
    scale = 1.0 / variation._count_differences(volume.shape)
    value = variation_triton.variation(volume, scale, gradient)
    assert value.item() == pytest.approx(tv_3d_reference(want).item(), rel=1e-5)
    torch.testing.assert_close(gradient.cpu().double(), want.grad, rtol=1e-5, atol=1e-9)
    assert torch.equal(variation_triton.variation(volume, scale, None), value)
