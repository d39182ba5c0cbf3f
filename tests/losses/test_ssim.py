import numba
import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from diffnr_lightning.losses import SsimReference, ssim, ssim_2d, ssim_2d_reference, ssim_3d
from diffnr_lightning.losses.ssim import gaussian_window


def slices(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pair(*shape):
    reference = slices(*shape)
    return (reference + 0.2 * (slices(*shape, seed=1) - 0.5)), reference


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 70), (3, 40, 5), (4, 33, 47)])
@pytest.mark.parametrize("data_range", [1.0, 2.5])
def test_kernel_equals_reference_in_value_and_gradient(shape, data_range):
    prediction, reference = pair(*shape)
    weights = slices(shape[0], seed=2)
    got = prediction.clone().requires_grad_()
    want = prediction.double().requires_grad_()
    value = ssim_2d(got, reference, data_range)
    oracle = ssim_2d_reference(want, reference.double(), data_range)
    (weights * value).sum().backward()
    (weights.double() * oracle).sum().backward()
    assert value.grad_fn.name().startswith("_SliceSimilarity")
    torch.testing.assert_close(value.double(), oracle, rtol=0, atol=1e-5)
    error = (got.grad.double() - want.grad).norm() / want.grad.norm()
    assert error < 1e-5


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_reference_keeps_its_digits_on_every_device(device):
    """A GPU's convolutions may round float32 to TF32, where variances this small are lost."""
    reference = 0.9 + 0.01 * slices(2, 24, 40)
    prediction = reference + 0.005 * slices(2, 24, 40, seed=1)
    found = ssim_2d_reference(prediction.to(device), reference.to(device))
    assert found.dtype == torch.float32
    exact = ssim_2d_reference(prediction.double(), reference.double())
    torch.testing.assert_close(found.cpu().double(), exact, rtol=0, atol=2e-3)


def test_second_moments_are_float64_on_a_gpu():
    kinds = (torch.float32, torch.float64)
    assert [ssim._type_of_moments(kind, torch.device("cuda")) for kind in kinds] == 2 * [
        torch.float64
    ]
    assert [ssim._type_of_moments(kind, torch.device("cpu")) for kind in kinds] == list(kinds)


def test_equal_slices_score_one_with_a_flat_slope():
    image = slices(3, 20, 30).requires_grad_()
    value = ssim_2d(image, image.detach())
    value.sum().backward()
    torch.testing.assert_close(value, torch.ones(3), rtol=0, atol=1e-6)
    assert image.grad.abs().max() < 1e-6


def test_constant_slices_reduce_to_the_luminance_term_in_the_interior():
    # Far from the border variances vanish: the index is (2ab + C1) / (a^2 + b^2 + C1). The sum of
    # the index grows by a ring of border pixels and by interior pixels; its second difference over
    # the edge of a square holds two interior pixels and nothing else.
    a, b = 0.3, 0.8
    sums = [
        ssim_2d(torch.full((1, n, n), a), torch.full((1, n, n), b)).double().item() * n * n
        for n in (40, 41, 42)
    ]
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert (sums[2] - 2 * sums[1] + sums[0]) / 2 == pytest.approx(expected, abs=2e-3)


def test_reference_gradient_in_double_precision():
    prediction, reference = pair(2, 9, 8)
    torch.autograd.gradcheck(
        lambda p, r: ssim_2d_reference(p, r),
        (prediction.double().requires_grad_(), reference.double().requires_grad_()),
    )


def test_torchmetrics_agrees_where_no_window_leaves_the_image():
    # torchmetrics reflects at the border where we put zeros: in a frame of zeros both are the same.
    prediction, reference = (torch.nn.functional.pad(t, (12,) * 4) for t in pair(1, 30, 34))
    _, full = structural_similarity_index_measure(
        prediction[None], reference[None], data_range=1.0, return_full_image=True
    )
    height, width = prediction.shape[-2:]
    ours = ssim_2d(prediction, reference).item()
    full = full.reshape(height, width)
    assert ours == pytest.approx(full.mean().item(), abs=1e-5)


def test_window_is_normalised_and_symmetric():
    taps = gaussian_window()
    assert taps.size == 11
    assert taps.sum() == pytest.approx(1)
    np.testing.assert_allclose(taps, taps[::-1])


def test_gradient_of_a_reference_is_not_lost():
    prediction, reference = pair(1, 12, 12)
    reference.requires_grad_()
    ssim_2d(prediction, reference).sum().backward()
    assert reference.grad.abs().sum() > 0


def test_half_precision_is_computed_in_single():
    prediction, reference = pair(1, 16, 16)
    low = ssim_2d(prediction.bfloat16(), reference.bfloat16())
    assert low.dtype == torch.float32
    same = ssim_2d(prediction.bfloat16().float(), reference.bfloat16().float())
    torch.testing.assert_close(low, same, rtol=0, atol=1e-5)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
def test_threads_do_not_change_a_bit():
    prediction, reference = pair(21, 24, 26)
    before = numba.get_num_threads()
    results = []
    for count in (1, 2):
        numba.set_num_threads(count)
        volume = prediction.clone().requires_grad_()
        value = ssim_3d(volume, reference)
        value.backward()
        results.append((value.detach(), volume.grad))
    numba.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def volume_loop(prediction, reference):
    """Mean of three axes, slice by slice, empty reference slices left out."""
    axes = []
    for axis in range(3):
        values = [
            ssim_2d_reference(p[None], r[None])[0]
            for p, r in zip(prediction.unbind(axis), reference.unbind(axis), strict=True)
            if r.max() > 0
        ]
        axes.append(torch.stack(values).mean())
    return torch.stack(axes).mean()


def hollow_pair():
    prediction, reference = pair(14, 22, 18)
    reference[:3] = 0
    reference[:, 20:] = 0
    reference[:, :, 5] = 0
    return prediction, reference


@pytest.mark.parametrize("prepared", [False, True])
def test_volume_equals_the_loop_over_slices(prepared):
    prediction, reference = hollow_pair()
    got = prediction.clone().requires_grad_()
    want = prediction.double().requires_grad_()
    value = ssim_3d(got, SsimReference(reference) if prepared else reference)
    oracle = volume_loop(want, reference.double())
    value.backward()
    oracle.backward()
    assert value.item() == pytest.approx(oracle.item(), abs=1e-5)
    assert (got.grad.double() - want.grad).norm() / want.grad.norm() < 1e-5


def test_volume_in_double_precision_takes_the_same_slices():
    prediction, reference = hollow_pair()
    value = ssim_3d(prediction.double(), reference.double())
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(volume_loop(prediction, reference).item(), abs=1e-5)


def test_empty_slices_can_be_counted():
    prediction, reference = hollow_pair()
    counted = ssim_3d(prediction, reference, skip_empty=False)
    axes = [
        ssim_2d_reference(prediction.movedim(axis, 0), reference.movedim(axis, 0)).mean()
        for axis in range(3)
    ]
    assert counted.item() == pytest.approx(torch.stack(axes).mean().item(), abs=1e-5)
    assert counted < ssim_3d(prediction, reference)


def test_a_volume_that_is_a_view_is_served():
    prediction, reference = hollow_pair()
    turned = ssim_3d(prediction.permute(1, 2, 0), reference.permute(1, 2, 0))
    assert turned.item() == pytest.approx(ssim_3d(prediction, reference).item(), abs=1e-6)


def test_ascent_raises_the_similarity():
    prediction, reference = hollow_pair()
    volume = prediction.clone().requires_grad_()
    before = ssim_3d(volume, reference)
    before.backward()
    after = ssim_3d(volume.detach() + 20 * volume.grad, reference)
    assert after > before


def test_contradictions_are_refused():
    volume = slices(4, 5, 6)
    with pytest.raises(ValueError, match=r"\(4, 5, 6\).*\(4, 5, 5\)"):
        ssim_3d(volume, volume[:, :, :5])
    with pytest.raises(ValueError, match="no value above zero"):
        ssim_3d(volume, torch.zeros(4, 5, 6))
    with pytest.raises(ValueError, match="data_range is 0"):
        ssim_2d(volume, volume, data_range=0)
    with pytest.raises(ValueError, match="skip_empty"):
        ssim_3d(volume, SsimReference(volume), skip_empty=False)
    with pytest.raises(ValueError, match=r"\(Z, Y, X\)"):
        SsimReference(volume[0])
