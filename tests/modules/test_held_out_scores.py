"""The scores of held-out slices and volumes, before and after the repair."""

import warnings
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_finetuning import ITERATIONS, both, finetuning, fit

from diffnr_lightning.batches import SlicePair, VolumePair
from diffnr_lightning.data.slice_pairs import SlicePairData
from diffnr_lightning.metrics import r2_protocol
from diffnr_lightning.modules import SliceFixerFinetuning
from diffnr_lightning.modules.held_out_scores import (
    MOST_DB,
    conditioning_of,
    score_slices,
    score_volume,
)
from diffnr_lightning.priors import CompactSliceFixer, Conditioning, repair_volume


def test_validation_of_an_untrained_prior_gains_nothing(boxes):
    module = finetuning(1, rate=1e-12)
    scores = fit(module, boxes).callback_metrics
    assert scores["val_psnr_gain"].item() == pytest.approx(0, abs=1e-3)


def test_validation_uses_the_average_and_returns_the_slices(boxes):
    module = finetuning()
    trainer = fit(module, boxes)
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


def test_whole_volumes_are_scored_before_and_after(boxes, tmp_path):
    module, logger = finetuning(), CSVLogger(tmp_path, name="", version="")
    data = SlicePairData([boxes], ITERATIONS, ("two",), batch_size=2, crop=24, validation="volumes")
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
        repaired = repair_volume(module.prior, pair.degraded, conditioning, batch_size=2)
    after = r2_protocol(repaired, pair.clean)
    assert scores["val_psnr"].item() == pytest.approx(after["psnr"], rel=1e-4)


def test_slices_are_repaired_at_the_size_that_volumes_are():
    seen = []

    class Repairs(CompactSliceFixer):
        size = 16

        def repair(self, slices, conditioning):
            seen.append(tuple(slices.shape[-2:]))
            return super().repair(slices, conditioning)

    volume = 0.1 + 0.9 * torch.rand(3, 8, 8)
    slices, one = volume[:, None], torch.zeros(3)
    pair = SlicePair(slices, slices, torch.rand(1, 2, 8, 8), one, one.long(), one, slices, slices)
    prior = Repairs(context=0, channels=(8,), embedding=8)
    shown, _, after = score_slices(prior, pair)
    assert seen == [(16, 16)]
    assert shown["repaired"].shape == (3, 8, 8)
    whole = repair_volume(prior, volume, conditioning_of(pair), residual=volume, noise=volume)
    torch.testing.assert_close(shown["repaired"], whole)
    assert 0 < after["psnr"] < MOST_DB


def test_a_training_that_diverged_says_so():
    prior = CompactSliceFixer(context=0, channels=(8,), embedding=8)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.fill_(torch.nan)
    volume = torch.rand(3, 8, 8) + 0.1
    pair = VolumePair(volume, volume, torch.rand(2, 8, 8), torch.tensor(24.0), volume, volume)
    with pytest.raises(ValueError, match="the training has diverged; lower its rates"):
        score_volume(prior, pair, 3)
    slices, one = volume[:, None], torch.zeros(3)
    batch = SlicePair(slices, slices, torch.rand(1, 2, 8, 8), one, one.long(), one, slices, slices)
    with pytest.raises(ValueError, match="of held-out slices .* the training has diverged; lower"):
        score_slices(prior, batch)


@both
def test_a_training_that_diverges_ends(boxes, gan):
    module = finetuning(4, gan=gan, rate=1e30, log_every=50)
    with pytest.raises(ValueError, match="diverged by iteration 4, .* in prior.*; lower its rates"):
        fit(module, boxes, limit_val_batches=0)


@pytest.mark.parametrize(("batch_size", "most"), [(1, 1), (3, 3), (64, 8)])
def test_a_volume_is_repaired_in_batches_as_large_as_those_of_training(batch_size, most):
    seen = []

    class Repairs(CompactSliceFixer):
        def repair(self, slices, conditioning):
            seen.append(len(slices))
            return super().repair(slices, conditioning)

    module = SliceFixerFinetuning(Repairs(channels=(8,), embedding=8), 1)
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(batch_size=batch_size))
    volume = torch.rand(10, 8, 8) + 0.1
    module.validation_step(
        VolumePair(volume, volume, torch.rand(2, 8, 8), torch.tensor(24.0), volume, volume), 0
    )
    assert max(seen) == most
    assert sum(seen) == 10
