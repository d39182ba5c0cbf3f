"""The discriminator of finetuning: when it begins, what it trains, and the original order of steps."""

import pytest
import torch
from tiny_finetuning import ITERATIONS, Steps, finetuning, fit

from diffnr_lightning.priors import PatchDiscriminator


@pytest.mark.parametrize(("steps", "each"), [("joint", 2), ("original", 4)])
def test_discriminator_waits_for_its_start(boxes, steps, each):
    module = finetuning(gan=True, gan_start=ITERATIONS, steps=steps)
    before = {n: p.clone() for n, p in module.discriminator.named_parameters()}
    trainer = fit(module, boxes)
    assert trainer.global_step == each * ITERATIONS
    for name, parameter in module.discriminator.named_parameters():
        assert torch.equal(parameter, before[name])
    alone = finetuning()
    fit(alone, boxes)
    for mine, other in zip(module.prior.parameters(), alone.prior.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_adversarial_term_trains_both_networks(boxes):
    with_gan, alone = finetuning(gan=True), finetuning()
    before = [p.clone() for p in with_gan.discriminator.parameters()]
    for module in (with_gan, alone):
        fit(module, boxes)
    pairs = zip(with_gan.prior.parameters(), alone.prior.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    pairs = zip(with_gan.discriminator.parameters(), before, strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)
    assert all(p.requires_grad for p in with_gan.discriminator.parameters())


def test_original_steps_of_the_adversarial_term_alone_are_not_taken_twice(boxes):
    """The first step of a batch has no term then, and what the batch before has left is no gradient of this one."""
    options = {"lambda_l2": 0.0, "lambda_ssim": 0.0, "gan_start": 0}
    module = finetuning(gan=True, steps="original", **options)
    moved, last = [], [p.clone() for p in module.prior.parameters()]

    def watch(optimizer, *args):
        moved.append(
            any(not torch.equal(a, b) for a, b in zip(module.prior.parameters(), last, strict=True))
        )
        last[:] = [p.clone() for p in module.prior.parameters()]

    configured = module.configure_optimizers

    def configure():
        prior, judge = configured()
        prior.register_step_post_hook(watch)
        return [prior, judge]

    module.configure_optimizers = configure
    fit(module, boxes)
    assert moved == [False, True] * ITERATIONS


def test_no_adversarial_weight_builds_no_discriminator():
    assert finetuning().discriminator is None
    assert isinstance(finetuning(lambda_gan=0.1).discriminator, PatchDiscriminator)


def test_original_order_of_steps(boxes):
    module, steps = finetuning(gan=True, steps="original"), Steps()
    before = [p.clone() for p in module.discriminator.parameters()]
    fit(module, boxes, steps)
    assert module.optimizer_steps == 4 * ITERATIONS
    assert steps.seen == [(i, 4 * i) for i in range(1, ITERATIONS + 1)]
    pairs = zip(module.discriminator.parameters(), before, strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match="accumulate is 2 with steps 'original'"):
        finetuning(gan=True, steps="original", accumulate=2)
