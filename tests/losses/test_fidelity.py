import pytest
import torch

from diffnr_lightning.losses import l1


def test_mean_of_differences():
    prediction, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert l1(prediction, target).item() == 1.5


def test_a_target_is_never_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 4, 4\).*\(1, 4, 4\)"):
        l1(torch.zeros(2, 4, 4), torch.zeros(1, 4, 4))
