import pytest
import torch

from diffnr_lightning.losses import DiffAugment

OFF = {"brightness": 0, "contrast": 0, "translation": 0, "cutout": 0}


def images(*shape: int) -> torch.Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def test_without_strength_nothing_changes():
    shown = images(3, 20, 24)
    torch.testing.assert_close(DiffAugment(**OFF)(shown), shown)


def test_brightness_shifts_each_image_by_its_own_amount():
    torch.manual_seed(0)
    shown = images(400, 2, 2)
    shift = DiffAugment(**OFF | {"brightness": 0.5})(shown) - shown
    assert shift.flatten(1).std(dim=1).max() < 1e-6
    assert -0.5 <= shift.min() < -0.48 and 0.48 < shift.max() <= 0.5
    assert abs(shift.mean()) < 0.05


def test_contrast_spreads_about_the_mean_of_an_image():
    torch.manual_seed(0)
    shown = images(400, 4, 4)
    seen = DiffAugment(**OFF | {"contrast": 0.5})(shown)
    torch.testing.assert_close(seen.mean((1, 2)), shown.mean((1, 2)))
    factors = seen.std(dim=(1, 2)) / shown.std(dim=(1, 2))
    assert 0.5 <= factors.min() < 0.52 and 1.48 < factors.max() <= 1.5


def test_translation_moves_an_image_whole_and_fills_with_zeros():
    torch.manual_seed(0)
    shown = images(300, 16, 24)
    seen = DiffAugment(**OFF | {"translation": 0.125})(shown)
    found = set()
    for before, after in zip(shown, seen, strict=True):
        padded = torch.nn.functional.pad(before, (3, 3, 2, 2))
        fits = [
            (dy, dx)
            for dy in range(5)
            for dx in range(7)
            if torch.allclose(after, padded[dy : dy + 16, dx : dx + 24], atol=1e-6)
        ]
        assert len(fits) == 1
        found.update(fits)
    assert len(found) == 5 * 7


@pytest.mark.parametrize(("height", "width"), [(16, 24), (15, 9)])
def test_cutout_blanks_one_rectangle_that_may_reach_outside(height, width):
    torch.manual_seed(0)
    blank = DiffAugment(**OFF | {"cutout": 0.5})(torch.ones(600, height, width)) == 0
    rows, columns = blank.any(dim=2), blank.any(dim=1)
    assert torch.equal(blank, rows[:, :, None] & columns[:, None])
    for marks, edge in ((rows, height), (columns, width)):
        assert (marks.int().diff(dim=1).abs().sum(dim=1) <= 2).all()
        lengths = marks.sum(dim=1)
        assert lengths.max() == round(0.5 * edge)
        assert lengths.min() in (edge // 4, edge // 4 + 1)
        coverage = marks.float().mean(dim=0)
        assert (coverage - coverage.flip(0)).abs().max() < 0.1  # no side is preferred


def test_gradients_pass_through():
    torch.manual_seed(0)
    shown = images(2, 8, 8).double().requires_grad_()
    augment = DiffAugment()

    def repeated(x):
        torch.manual_seed(4)
        return augment(x)

    assert torch.autograd.gradcheck(repeated, shown)


def test_draws_follow_the_generator_of_torch_and_differ_between_images():
    augment, shown = DiffAugment(), images(1, 16, 16).expand(4, -1, -1)
    torch.manual_seed(7)
    first = augment(shown)
    assert not torch.equal(first, augment(shown))
    torch.manual_seed(7)
    assert torch.equal(first, augment(shown))
    assert not torch.equal(first[0], first[1])


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match=r"brightness=-0\.1"):
        DiffAugment(brightness=-0.1)
    with pytest.raises(ValueError, match=r"cutout=1\.5"):
        DiffAugment(cutout=1.5)
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        DiffAugment()(torch.zeros(2, 1, 8, 8))
