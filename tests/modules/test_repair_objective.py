"""The terms of a repair's loss: the paper's weights, what each adds, and that no weight computes nothing."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_finetuning import Darkness, finetuning, fit

from diffnr_lightning.modules.repair_objective import RepairObjective

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NONE = dict.fromkeys(("l2", "relative", "l1", "dssim", "lpips", "clip", "gan"), 0.0)
PRESETS = ("slicefixer_luna16", "slicefixer_toothfairy")


def preset(name: str) -> dict:
    return yaml.safe_load((CONFIGS / "finetune" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PRESETS)
def test_the_squared_error_of_the_papers_preset_is_that_of_images_in_minus_one_to_one(name):
    """pix2pix-turbo: weight 1 on mean((2 a - 1) - (2 b - 1))^2, which DiffNR takes over."""
    repaired, clean = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    weight = preset(name)["module"]["init_args"]["lambda_l2"]
    objective = RepairObjective({**NONE, "l2": weight})
    theirs = ((2 * repaired - 1) - (2 * clean - 1)).square().mean()
    torch.testing.assert_close(objective.total(objective.terms(repaired, clean, clean)), theirs)


@pytest.mark.parametrize(("name", "iterations"), [(PRESETS[0], 70_000), (PRESETS[1], 40_000)])
def test_the_papers_preset_has_the_papers_numbers(name, iterations):
    config = preset(name)
    options = config["module"]["init_args"]
    assert config["iterations"] == iterations
    assert (options["lambda_clip"], options["lambda_gan"], options["lambda_ssim"]) == (4, 0.4, 0.5)
    assert options["rate"] == options["discriminator_rate"] == 1e-5
    # What the paper leaves open is pix2pix-turbo's: constant rates, its order of steps, no average.
    assert (options["warmup"], options["final_rate"]) == (0, 1)
    assert (options["steps"], options["average_decay"]) == ("original", 0)
    assert options["betas"] == options["discriminator_betas"] == [0.9, 0.999]
    assert (config["data"]["batch_size"], config["data"]["flips"]) == (4, False)


def test_the_total_weighs_the_terms():
    repaired, clean = torch.rand(2, 2, 16, 16)
    objective = RepairObjective({**NONE, "l2": 2.0, "l1": 3.0})
    error = repaired - clean
    expected = 2 * error.square().mean() + 3 * error.abs().mean()
    torch.testing.assert_close(objective.total(objective.terms(repaired, clean, clean)), expected)


def test_the_relative_error_counts_good_and_bad_slices_alike():
    generator = torch.Generator().manual_seed(0)
    clean, noise, left = torch.rand(3, 2, 16, 16, generator=generator)
    scales = torch.tensor([0.1, 1.0])[:, None, None]
    objective = RepairObjective({**NONE, "relative": 1.0})
    term = objective.terms(clean + 0.5 * scales * noise, clean, clean + scales * noise)["relative"]
    assert term.item() == pytest.approx(0.25, rel=5e-3)
    # The repair of a slice that was perfect is not asked to be so to the last bit.
    term = objective.terms(clean + 1e-3 * left, clean, clean)["relative"]
    assert 0.02 < term.item() < 0.05


def test_terms_of_no_weight_are_not_computed():
    repaired, clean = torch.rand(2, 2, 16, 16)
    for weights, names in (
        ({"lambda_l2": 1, "lambda_l1": 0, "lambda_ssim": 0}, {"l2"}),
        ({"lambda_l2": 0, "lambda_l1": 2, "lambda_ssim": 1}, {"l1", "dssim"}),
    ):
        assert finetuning(**weights).objective.terms(repaired, clean, clean).keys() == names
    terms = finetuning(lambda_l1=1).objective.terms(clean, clean, clean)
    assert all(term.item() == pytest.approx(0, abs=1e-5) for term in terms.values())


def test_perceptual_terms_train_the_prior_and_stay_frozen(boxes):
    options = {"lambda_l2": 0.0, "lambda_ssim": 0.0, "lambda_lpips": 1.0, "lambda_clip": 0.5}
    module = finetuning(**options, lpips=Darkness(), similarity=Darkness())
    before = [p.clone() for p in module.prior.parameters()]
    fit(module, boxes)
    pairs = zip(module.prior.parameters(), before, strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert module.objective.lpips.scale.item() == module.objective.similarity.scale.item() == 2
    repaired, clean = torch.rand(2, 2, 16, 16)
    terms = module.objective.terms(repaired, clean, clean)
    assert terms.keys() == {"lpips", "clip"}
    assert terms["clip"].item() == pytest.approx(2 * repaired.square().mean().item())


@pytest.mark.parametrize("weight", ["lambda_lpips", "lambda_clip"])
def test_a_perceptual_weight_needs_its_network(weight):
    with pytest.raises(ValueError, match="needs the network '(lpips|similarity)'"):
        finetuning(**{weight: 1.0})
