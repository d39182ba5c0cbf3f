import pytest
import torch

from diffnr_lightning.losses import l1, mse, ssim_2d, structural_l1


def test_means_of_differences():
    prediction, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert l1(prediction, target).item() == 1.5
    assert mse(prediction, target).item() == 2.5


@pytest.mark.parametrize("loss", [l1, mse, structural_l1])
def test_a_target_is_never_broadcast(loss):
    with pytest.raises(ValueError, match=r"\(2, 4, 4\).*\(1, 4, 4\)"):
        loss(torch.zeros(2, 4, 4), torch.zeros(1, 4, 4))


def test_structural_loss_is_the_weighted_sum():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(2, 1, 14, 15, generator=generator)
    target = torch.rand(2, 1, 14, 15, generator=generator)
    similarity = ssim_2d(prediction[:, 0], target[:, 0], 2.0).mean()
    expected = l1(prediction, target) + 0.25 * (1 - similarity)
    assert structural_l1(prediction, target, 0.25, 2.0).item() == pytest.approx(expected.item())
    assert structural_l1(prediction, target, 0.0).item() == l1(prediction, target).item()
    assert structural_l1(target, target).item() == pytest.approx(0, abs=1e-6)


def test_structural_loss_wants_images():
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W\)"):
        structural_l1(torch.zeros(4), torch.zeros(4))
