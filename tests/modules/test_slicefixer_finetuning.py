from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins import MixedPrecision

from diffnr_lightning.data.slice_pairs import SlicePairData, write_pairs
from diffnr_lightning.metrics import r2_protocol
from diffnr_lightning.modules import SliceFixerFinetuning
from diffnr_lightning.modules.held_out_scores import conditioning_of
from diffnr_lightning.priors import (
    CompactSliceFixer,
    Conditioning,
    PatchDiscriminator,
    load_prior,
    read_header,
    repair_volume,
)

ITERATIONS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two cases of boxes, and the boxes with streaks."""
    folder = tmp_path_factory.mktemp("pairs")
    generator = torch.Generator().manual_seed(0)
    for case in ("one", "two"):
        clean = torch.full((4, 32, 32), 0.2)
        for z in range(4):
            top, left = torch.randint(2, 14, (2,), generator=generator)
            clean[z, top : top + 14, left : left + 14] = 0.7
        streaks = 0.15 * torch.sin(1.3 * torch.arange(32.0))
        write_pairs(
            folder,
            case,
            degraded=(clean + streaks)[None],
            clean=clean,
            biplanar=torch.rand(2, 16, 16, generator=generator),
            info={"case": case, "views": 24},
        )
    return folder


class Losses(Logger):
    """Keeps what the run logs while it trains."""

    name, version = "losses", 0

    def __init__(self):
        super().__init__()
        self.l2: list[float] = []

    def log_metrics(self, metrics, step=None):
        if "train_l2" in metrics:
            self.l2.append(metrics["train_l2"])

    def log_hyperparams(self, *args):
        pass


class Steps(lightning.Callback):
    """Keeps the two counters after each batch."""

    def __init__(self):
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.seen.append((pl_module.iteration, trainer.global_step))


class StopAt(lightning.Callback):
    """Saves after a batch and leaves the run, as a kill after the checkpoint would."""

    def __init__(self, iteration, path):
        self.iteration, self.path = iteration, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.iteration == self.iteration:
            trainer.save_checkpoint(self.path)
            raise Killed


class Killed(Exception):  # noqa: N818
    pass


def finetuning(iterations=ITERATIONS, gan=False, **changed) -> SliceFixerFinetuning:
    torch.manual_seed(3)
    network = CompactSliceFixer(channels=(8, 16), embedding=16)
    options = {"rate": 2e-3, "warmup": 2, "log_every": 1, "average_decay": 0.9}
    if gan:
        options |= {"lambda_gan": 0.05, "gan_start": 3, "discriminator": PatchDiscriminator(8)}
    return SliceFixerFinetuning(network, iterations, **{**options, **changed})


def fit(module, folder, *callbacks, checkpoint=None, **trainer_options) -> lightning.Trainer:
    data = SlicePairData(
        [folder], module.iterations, ("two",), batch_size=2, crop=24, planes=("axial",), seed=1
    )
    trainer = lightning.Trainer(
        **{
            "accelerator": "cpu",
            "max_steps": module.optimizer_steps,
            "max_epochs": 1,
            "logger": False,
            "callbacks": list(callbacks),
            "val_check_interval": module.iterations,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **trainer_options,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


both = pytest.mark.parametrize("gan", [False, True], ids=["alone", "with discriminator"])


def test_overfits_and_repairs_better_than_the_identity(folder):
    module, losses = finetuning(50, rate=6e-3), Losses()
    trainer = fit(module, folder, logger=losses)
    assert sum(losses.l2[-8:]) < 0.4 * sum(losses.l2[:8])
    scores = trainer.callback_metrics
    assert scores["val_psnr_gain"] > 2
    assert scores["val_psnr_gain"] == pytest.approx(
        (scores["val_psnr"] - scores["val_psnr_before"]).item(), abs=1e-4
    )
    assert scores["val_psnr_gain_least"] <= scores["val_psnr_gain"] + 1e-5
    assert scores["val_ssim"] > scores["val_ssim_before"]


def test_validation_of_an_untrained_prior_gains_nothing(folder):
    module = finetuning(1, rate=1e-12)
    scores = fit(module, folder).callback_metrics
    assert scores["val_psnr_gain"].item() == pytest.approx(0, abs=1e-3)


@both
def test_killed_and_resumed_run_equals_an_uninterrupted_one(folder, tmp_path, gan):
    whole = finetuning(gan=gan)
    fit(whole, folder)
    with pytest.raises(Killed):
        fit(finetuning(gan=gan), folder, StopAt(5, tmp_path / "run.ckpt"))
    resumed = finetuning(gan=gan)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1)  # what the resumed process starts with must not matter
    trainer = fit(resumed, folder, checkpoint=tmp_path / "run.ckpt")
    assert resumed.iteration == whole.iteration == ITERATIONS
    assert trainer.global_step == whole.optimizer_steps
    expected = whole.state_dict()
    assert resumed.state_dict().keys() == expected.keys()
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@both
def test_iteration_counts_batches_and_global_step_both_optimisers(folder, gan):
    module, steps = finetuning(gan=gan), Steps()
    fit(module, folder, steps)
    a_batch = 2 if gan else 1
    assert module.optimizer_steps == a_batch * ITERATIONS
    assert steps.seen == [(i, a_batch * i) for i in range(1, ITERATIONS + 1)]


@both
def test_log_axis_counts_batches(folder, tmp_path, gan):
    logger = CSVLogger(tmp_path, name="", version="")
    fit(finetuning(gan=gan, log_every=4), folder, logger=logger)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    entries = [dict(zip(header, row.split(","), strict=True)) for row in rows[1:]]
    assert [int(entry["step"]) for entry in entries if entry["train_l2"]] == [3, 7, 11]
    assert [int(entry["step"]) for entry in entries if entry["val_psnr"]] == [11]
    assert ("train_gan" in header) == gan
    assert ("train_discriminator" in header) == gan


def test_discriminator_waits_for_its_start(folder):
    module = finetuning(gan=True, gan_start=ITERATIONS)
    before = {n: p.clone() for n, p in module.discriminator.named_parameters()}
    trainer = fit(module, folder)
    assert trainer.global_step == 2 * ITERATIONS
    for name, parameter in module.discriminator.named_parameters():
        assert torch.equal(parameter, before[name])
    alone = finetuning()
    fit(alone, folder)
    for mine, other in zip(module.prior.parameters(), alone.prior.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_adversarial_term_trains_both_networks(folder):
    with_gan, alone = finetuning(gan=True), finetuning()
    before = [p.clone() for p in with_gan.discriminator.parameters()]
    for module in (with_gan, alone):
        fit(module, folder)
    pairs = zip(with_gan.prior.parameters(), alone.prior.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    pairs = zip(with_gan.discriminator.parameters(), before, strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)
    assert all(p.requires_grad for p in with_gan.discriminator.parameters())


def test_average_is_in_the_checkpoint_and_in_the_export(folder, tmp_path):
    module = finetuning()
    with pytest.raises(Killed):
        fit(module, folder, StopAt(5, tmp_path / "run.ckpt"))
    kept = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert kept["iteration"] == 5
    assert int(kept["state_dict"]["average.updates"]) == 5
    average = kept["state_dict"]["average.conv_out/weight"]
    present = kept["state_dict"]["prior.conv_out.weight"]
    assert not torch.equal(average, present)
    module.export(tmp_path / "weights.safetensors", {"data": "boxes"})
    exported = load_prior(tmp_path / "weights.safetensors")
    assert torch.equal(exported.conv_out.weight, average.half().float())
    assert torch.equal(module.prior.conv_out.weight, present)
    metadata = read_header(tmp_path / "weights.safetensors")["metadata"]
    assert metadata == {"iteration": 5, "data": "boxes"}


def test_the_last_part_of_the_run_is_averaged_plainly(folder):
    class Weights(lightning.Callback):
        seen: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.seen.append(pl_module.prior.conv_out.weight.detach().clone())

    module, weights = finetuning(average_last=0.25), Weights()
    fit(module, folder, weights)
    average = dict(module.average.named_buffers())["conv_out/weight"]
    torch.testing.assert_close(average, torch.stack(weights.seen[-3:]).mean(0))


def test_validation_uses_the_average_and_returns_the_slices(folder):
    module = finetuning()
    trainer = fit(module, folder)
    (batch,) = list(trainer.datamodule.val_dataloader())
    module.log_dict = module.log = lambda *args, **kwargs: None
    shown = module.validation_step(batch, 0)
    assert {name: tuple(t.shape) for name, t in shown.items()} == {
        name: (4, 32, 32) for name in ("degraded", "repaired", "clean")
    }
    assert torch.equal(shown["degraded"], batch.degraded[:, 1])
    assert torch.equal(shown["clean"], batch.clean[:, 0])
    with torch.no_grad():
        for name, parameter in module.prior.named_parameters():
            parameter.copy_(module.average.state_dict()[name.replace(".", "/")])
    repaired = module.prior.repair(batch.degraded, conditioning_of(batch))
    assert torch.equal(shown["repaired"], repaired)


def test_rates_rise_and_fall(folder):
    module = finetuning(iterations=100, warmup=10, final_rate=0.2, rate=1e-3)
    assert [module.rate_factor(i) for i in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert module.rate_factor(10) == 1
    assert module.rate_factor(55) == pytest.approx(0.2 + 0.8 * 0.5)
    assert module.rate_factor(99) == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 89 / 90)))
    assert module.rate_factor(100) == module.rate_factor(1000) == pytest.approx(0.2)
    factors = [module.rate_factor(i) for i in range(100)]
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert finetuning(iterations=100, warmup=0).rate_factor(0) == 1


def test_both_optimisers_follow_the_rates(folder):
    class Rates(lightning.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.seen.append([o.param_groups[0]["lr"] for o in trainer.optimizers])

    module = finetuning(gan=True, rate=1e-3, discriminator_rate=5e-4)
    rates = Rates()
    fit(module, folder, rates)
    factors = [module.rate_factor(i) for i in range(ITERATIONS)]
    for (prior, discriminator), factor in zip(rates.seen, factors, strict=True):
        assert prior == pytest.approx(1e-3 * factor)
        assert discriminator == pytest.approx(5e-4 * factor)


def test_gradients_are_clipped(folder):
    class Norms(lightning.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            gradients = [p.grad for p in pl_module.prior.parameters()]
            self.seen.append(torch.nn.utils.get_total_norm(gradients).item())

    free, clipped = Norms(), Norms()
    fit(finetuning(gradient_norm=1e9), folder, free)
    fit(finetuning(gradient_norm=1e-3), folder, clipped)
    assert max(free.seen) > 1e-2
    assert max(clipped.seen) == pytest.approx(1e-3, rel=1e-2)


@both
def test_bfloat16_trains(folder, gan):
    module, losses = finetuning(gan=gan), Losses()
    fit(module, folder, logger=losses, precision="bf16-mixed")
    assert losses.l2[-1] < losses.l2[0]
    assert all(p.dtype == torch.float32 for p in module.parameters())


def float16() -> dict[str, list[MixedPrecision]]:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def test_float16_gradients_are_unscaled_before_they_are_clipped(folder):
    halves, exact = Losses(), Losses()
    fit(finetuning(gradient_norm=0.05), folder, logger=halves, **float16())
    fit(finetuning(gradient_norm=0.05), folder, logger=exact)
    assert halves.l2 == pytest.approx(exact.l2, rel=0.05)
    fit(finetuning(gan=True, gan_start=0), folder, **float16())


def test_float16_refuses_a_discriminator_that_waits(folder):
    with pytest.raises(ValueError, match="gan_start is 3 with float16"):
        fit(finetuning(gan=True), folder, **float16())


def test_terms_of_no_weight_are_not_computed():
    repaired, clean = torch.rand(2, 2, 16, 16)
    for weights, names in (
        ({"lambda_l2": 1, "lambda_l1": 0, "lambda_ssim": 0}, {"l2"}),
        ({"lambda_l2": 0, "lambda_l1": 2, "lambda_ssim": 1}, {"l1", "dssim"}),
    ):
        assert finetuning(**weights).objective.terms(repaired, clean, clean).keys() == names
    terms = finetuning(lambda_l1=1).objective.terms(clean, clean, clean)
    assert all(term.item() == pytest.approx(0, abs=1e-5) for term in terms.values())


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"lambda_l2": -1.0}, "expected none negative and one positive"),
        ({"lambda_l2": 0.0, "lambda_ssim": 0.0}, "expected none negative and one positive"),
        ({"iterations": 0}, "iterations=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"gan_start": -1}, "gan_start=-1"),
        ({"rate": 0.0}, r"rate=0\.0"),
        ({"average_decay": 1.0}, "decay is 1.0"),
        ({"average_last": 1.5}, "average_last is 1.5"),
    ],
)
def test_options_are_checked(wrong, match):
    with pytest.raises(ValueError, match=match):
        finetuning(**wrong)


def test_no_adversarial_weight_builds_no_discriminator():
    assert finetuning().discriminator is None
    assert isinstance(finetuning(lambda_gan=0.1).discriminator, PatchDiscriminator)


class Darkness(torch.nn.Module):
    """Stands in for a perceptual network: frozen weights that the loss passes through."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, repaired, clean=None):
        target = 0 if clean is None else clean
        return self.scale * (repaired - target).square().mean(dim=(1, 2))


def test_perceptual_terms_train_the_prior_and_stay_frozen(folder):
    options = {"lambda_l2": 0.0, "lambda_ssim": 0.0, "lambda_lpips": 1.0, "lambda_clip": 0.5}
    module = finetuning(**options, lpips=Darkness(), similarity=Darkness())
    before = [p.clone() for p in module.prior.parameters()]
    fit(module, folder)
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


def test_frozen_weights_are_not_in_the_checkpoint(folder, tmp_path):
    module = finetuning(lambda_lpips=1.0, lpips=Darkness())
    module.prior.encoder.requires_grad_(False)
    with pytest.raises(Killed):
        fit(module, folder, StopAt(5, tmp_path / "run.ckpt"))
    kept = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith(("objective", "prior.encoder")) for name in kept)
    assert "prior.conv_out.weight" in kept
    again = finetuning(lambda_lpips=1.0, lpips=Darkness())
    again.prior.encoder.requires_grad_(False)
    fit(again, folder, checkpoint=tmp_path / "run.ckpt")
    assert again.iteration == ITERATIONS
    other = finetuning(lambda_lpips=1.0, lpips=Darkness())
    with pytest.raises(ValueError, match=r"has no weight prior\.encoder.*new run folder"):
        fit(other, folder, checkpoint=tmp_path / "run.ckpt")


def test_accumulated_batches_are_one_large_batch(folder):
    class Batches(SlicePairData):
        def __init__(self, size, module):
            super().__init__([folder], module.iterations, (), 0, batch_size=size, crop=24, seed=1)

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


def test_original_order_of_steps(folder):
    module, steps = finetuning(gan=True, steps="original"), Steps()
    before = [p.clone() for p in module.discriminator.parameters()]
    fit(module, folder, steps)
    assert module.optimizer_steps == 4 * ITERATIONS
    assert steps.seen == [(i, 4 * i) for i in range(1, ITERATIONS + 1)]
    pairs = zip(module.discriminator.parameters(), before, strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match="accumulate is 2 with steps 'original'"):
        finetuning(gan=True, steps="original", accumulate=2)


def test_resumed_original_run_ends_with_the_same_weights(folder, tmp_path):
    whole, killed, resumed = (finetuning(gan=True, steps="original") for _ in range(3))
    fit(whole, folder)
    with pytest.raises(Killed):
        fit(killed, folder, StopAt(5, tmp_path / "run.ckpt"))
    fit(resumed, folder, checkpoint=tmp_path / "run.ckpt")
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_whole_volumes_are_scored_before_and_after(folder, tmp_path):
    module, logger = finetuning(), CSVLogger(tmp_path, name="", version="")
    data = SlicePairData(
        [folder], ITERATIONS, ("two",), batch_size=2, crop=24, validation="volumes"
    )
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=module.optimizer_steps, max_epochs=1, logger=logger,
        val_check_interval=ITERATIONS, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data)
    (pair,) = data.val_dataloader()
    scores = trainer.callback_metrics
    expected = r2_protocol(pair.degraded, pair.clean)
    assert scores["val_psnr_before"].item() == pytest.approx(expected["psnr"], rel=1e-5)
    assert scores["val_ssim_before"].item() == pytest.approx(expected["ssim"], rel=1e-5)
    first = torch.zeros(1)
    conditioning = Conditioning(pair.biplanar[None], first.long(), first, pair.views[None])
    with module.average.applied(module.prior):
        repaired = repair_volume(module.prior, pair.degraded, conditioning, batch_size=8)
    after = r2_protocol(repaired, pair.clean)
    assert scores["val_psnr"].item() == pytest.approx(after["psnr"], rel=1e-4)


@pytest.mark.parametrize("gan", ["alone", "discriminator"])
def test_two_processes_hold_equal_weights(folder, tmp_path, gan):
    script = Path(__file__).with_name("finetuning_on_two_processes.py")
    subprocess.run(
        [sys.executable, script, folder, tmp_path, gan],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert first["items"] != second["items"]
    assert first["scores"] == second["scores"]
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
