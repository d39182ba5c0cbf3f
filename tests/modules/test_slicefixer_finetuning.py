"""Finetuning: it learns, counts batches, follows its rates and options, in each precision, on two processes."""

import math
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from tiny_finetuning import ITERATIONS, Losses, Steps, both, finetuning, fit

from diffnr_lightning.data.slice_pairs import SlicePairData


def test_overfits_and_repairs_better_than_the_identity(boxes):
    module, losses = finetuning(50, rate=6e-3), Losses()
    trainer = fit(module, boxes, logger=losses)
    assert sum(losses.l2[-8:]) < 0.4 * sum(losses.l2[:8])
    scores = trainer.callback_metrics
    assert scores["val_psnr_gain"] > 2
    assert scores["val_psnr_gain"] == pytest.approx(
        (scores["val_psnr"] - scores["val_psnr_before"]).item(), abs=1e-4
    )
    assert scores["val_psnr_gain_least"] <= scores["val_psnr_gain"] + 1e-5
    assert scores["val_ssim"] > scores["val_ssim_before"]


@both
def test_iteration_counts_batches_and_global_step_both_optimisers(boxes, gan):
    module, steps = finetuning(gan=gan), Steps()
    fit(module, boxes, steps)
    a_batch = 2 if gan else 1
    assert module.optimizer_steps == a_batch * ITERATIONS
    assert steps.seen == [(i, a_batch * i) for i in range(1, ITERATIONS + 1)]


@both
def test_log_axis_counts_batches(boxes, tmp_path, gan):
    logger = CSVLogger(tmp_path, name="", version="")
    fit(finetuning(gan=gan, log_every=4), boxes, logger=logger)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    entries = [dict(zip(header, row.split(","), strict=True)) for row in rows[1:]]
    assert [int(entry["step"]) for entry in entries if entry["train_l2"]] == [3, 7, 11]
    assert [int(entry["step"]) for entry in entries if entry["val_psnr"]] == [11]
    assert ("train_gan" in header) == gan
    assert ("train_discriminator" in header) == gan


def test_the_last_part_of_the_run_is_averaged_plainly(boxes):
    class Weights(lightning.Callback):
        seen: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.seen.append(pl_module.prior.conv_out.weight.detach().clone())

    module, weights = finetuning(average_last=0.25), Weights()
    fit(module, boxes, weights)
    average = dict(module.average.named_buffers())["conv_out/weight"]
    torch.testing.assert_close(average, torch.stack(weights.seen[-3:]).mean(0))


def test_rates_rise_and_fall(boxes):
    module = finetuning(iterations=100, warmup=10, final_rate=0.2, rate=1e-3)
    assert [module.rate_factor(i) for i in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert module.rate_factor(10) == 1
    assert module.rate_factor(55) == pytest.approx(0.2 + 0.8 * 0.5)
    assert module.rate_factor(99) == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 89 / 90)))
    assert module.rate_factor(100) == module.rate_factor(1000) == pytest.approx(0.2)
    factors = [module.rate_factor(i) for i in range(100)]
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert finetuning(iterations=100, warmup=0).rate_factor(0) == 1


def test_both_optimisers_follow_the_rates(boxes):
    class Rates(lightning.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.seen.append([o.param_groups[0]["lr"] for o in trainer.optimizers])

    module = finetuning(gan=True, rate=1e-3, discriminator_rate=5e-4)
    rates = Rates()
    fit(module, boxes, rates)
    factors = [module.rate_factor(i) for i in range(ITERATIONS)]
    for (prior, discriminator), factor in zip(rates.seen, factors, strict=True):
        assert prior == pytest.approx(1e-3 * factor)
        assert discriminator == pytest.approx(5e-4 * factor)


def test_gradients_are_clipped(boxes):
    class Norms(lightning.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            gradients = [p.grad for p in pl_module.prior.parameters()]
            self.seen.append(torch.nn.utils.get_total_norm(gradients).item())

    free, clipped = Norms(), Norms()
    fit(finetuning(gradient_norm=1e9), boxes, free)
    fit(finetuning(gradient_norm=1e-3), boxes, clipped)
    assert max(free.seen) > 1e-2
    assert max(clipped.seen) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"lambda_l2": -1.0}, "expected none negative and one positive"),
        ({"lambda_l2": 0.0, "lambda_ssim": 0.0}, "expected none negative and one positive"),
        ({"iterations": 0}, "iterations=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"gan_start": -1}, "gan_start=-1"),
        (
            {"lambda_l2": 0.0, "lambda_ssim": 0.0, "gan": True},
            "gan_start is 3, lambda_gan the only",
        ),
        ({"rate": 0.0}, r"rate=0\.0"),
        ({"average_decay": 1.0}, "decay is 1.0"),
        ({"average_last": 1.5}, "average_last is 1.5"),
        ({"steps": "orignal"}, "steps is 'orignal'"),
        ({"gradient_norm": 0.0}, r"gradient_norm=0\.0"),
        ({"final_rate": -0.1}, r"final_rate=-0\.1"),
        ({"log_every": 0}, "log_every=0"),
    ],
)
def test_options_are_checked(wrong, match):
    with pytest.raises(ValueError, match=match):
        finetuning(**wrong)


def test_accumulated_batches_are_one_large_batch(boxes):
    class Batches(SlicePairData):
        def __init__(self, size, module):
            super().__init__([boxes], module.iterations, (), 0, batch_size=size, crop=24, seed=1)

    def trained(size, iterations, accumulate):
        module = finetuning(
            iterations, accumulate=accumulate, warmup=0, final_rate=1.0, gradient_norm=1e9,
            lambda_ssim=0.0,
        )  # fmt: skip
        # Not Adam: it would turn the rounding of a gradient that should be zero into a step.
        module.configure_optimizers = lambda: torch.optim.SGD(module.prior.parameters(), lr=0.1)
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=module.optimizer_steps, max_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, datamodule=Batches(size, module))
        assert trainer.global_step == iterations // accumulate
        return module

    small, large = trained(2, 6, 2), trained(4, 3, 1)
    for mine, other in zip(small.prior.parameters(), large.prior.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_a_validation_keeps_the_gradients_of_accumulated_batches(boxes):
    """One after every batch, and one at the end."""
    often, once = (finetuning(accumulate=3) for _ in range(2))
    fit(often, boxes, val_check_interval=1)
    fit(once, boxes)
    for mine, other in zip(often.prior.parameters(), once.prior.parameters(), strict=True):
        assert torch.equal(mine, other)


@both
def test_bfloat16_trains(boxes, gan):
    module, losses = finetuning(gan=gan), Losses()
    fit(module, boxes, logger=losses, precision="bf16-mixed")
    assert losses.l2[-1] < losses.l2[0]
    assert all(p.dtype == torch.float32 for p in module.parameters())


def float16() -> dict[str, list[MixedPrecision]]:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def test_float16_gradients_are_unscaled_before_they_are_clipped(boxes):
    halves, exact = Losses(), Losses()
    fit(finetuning(gradient_norm=0.05), boxes, logger=halves, **float16())
    fit(finetuning(gradient_norm=0.05), boxes, logger=exact)
    assert halves.l2 == pytest.approx(exact.l2, rel=0.05)
    fit(finetuning(gan=True, gan_start=0), boxes, **float16())


def test_accumulated_float16_gradients_are_of_one_scale(boxes):
    """That of the discriminator's too, where the step of the prior has changed the scale: here each does."""

    class Exact(MixedPrecision):
        """Scales, but computes in float32."""

        def forward_context(self):
            return nullcontext()

    def trained(interval):
        module = finetuning(gan=True, gan_start=0, accumulate=2)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=interval)
        fit(module, boxes, plugins=[Exact("16-mixed", "cpu", scaler)])
        return list(module.parameters())

    for mine, other in zip(trained(1), trained(1000), strict=True):
        torch.testing.assert_close(mine, other)


def test_float16_refuses_a_discriminator_that_waits(boxes):
    with pytest.raises(ValueError, match="gan_start is 3 with float16"):
        fit(finetuning(gan=True), boxes, **float16())


def test_float16_refuses_steps_without_a_term(boxes):
    options = {"lambda_l2": 0.0, "lambda_ssim": 0.0, "gan_start": 0}
    module = finetuning(gan=True, steps="original", **options)
    with pytest.raises(
        ValueError, match="lambda_gan is the only weight with steps 'original' and float16"
    ):
        fit(module, boxes, **float16())


@pytest.mark.parametrize("gan", ["alone", "discriminator"])
def test_two_processes_hold_equal_weights(boxes, tmp_path, gan):
    script = Path(__file__).with_name("finetuning_on_two_processes.py")
    subprocess.run(
        [sys.executable, script, boxes, tmp_path, gan],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert first["items"] != second["items"]
    assert first["scores"] == second["scores"]
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
