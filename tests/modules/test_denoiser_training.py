from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from killed_run import Killed, StopAt

from diffnr_lightning.data.clean_slices import CleanPatchData, CleanSliceData
from diffnr_lightning.modules import DenoiserTraining
from diffnr_lightning.modules.denoiser_training import linear_error
from diffnr_lightning.priors import CompactDenoiser, PatchDenoiser, load_denoiser


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two bodies of boxes, as files."""
    return bodies(tmp_path_factory.mktemp("volumes"))


def bodies(folder):
    """Write two volumes in HU; return their names and files."""
    generator = np.random.default_rng(0)
    for name in ("one", "two"):
        volume = np.full((16, 16, 16), -1000, np.float32)
        volume[2:14, 2:14, 2:14] = 0
        for _ in range(6):
            z, y, x = generator.integers(3, 9, 3)
            volume[z : z + 4, y : y + 4, x : x + 4] = generator.uniform(-700, 900)
        np.save(folder / f"{name}.npy", volume)
    return {name: str(folder / f"{name}.npy") for name in ("one", "two")}


def training(iterations=8, **changed) -> DenoiserTraining:
    torch.manual_seed(3)
    network = CompactDenoiser(
        widths=(8, 16), fold=1, prediction=changed.pop("prediction", "v_prediction")
    )
    options = {"rate": 3e-3, "warmup": 2, "log_every": 1, "average_decay": 0.9, "levels": 4}
    return DenoiserTraining(network, iterations, **{**options, **changed})


def fit(module, sources, *callbacks, checkpoint=None, **options) -> lightning.Trainer:
    data = sources
    if isinstance(sources, dict):
        data = CleanSliceData(
            sources,
            iterations=module.iterations,
            batch_size=4,
            size=16,
            crops=(8, 16),
            held_out=["two"],
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
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            **options,
        }
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def test_it_learns_and_is_judged_by_noise_level(sources, tmp_path):
    module = training(60, rate=1e-2)
    before = fit(training(1, rate=1e-9), sources).callback_metrics
    after = fit(module, sources).callback_metrics
    assert after["val_noise"] < 0.7 * before["val_noise"]
    levels = [float(after[f"val_noise_{step:04d}"]) for step in (125, 375, 625, 875)]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] < 0.2
    assert 0 < after["val_linear_0875"] < after["val_linear_0125"] < 1
    module.export(tmp_path / "out", {"data": "phantoms"})
    exported = load_denoiser(tmp_path / "out")
    average = module.average.state_dict()["unet/conv_in/weight"]
    torch.testing.assert_close(exported.unet.conv_in.weight, average.half().float())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(sources, tmp_path, dropout):
    whole, first, second = training(), training(), training()
    for module in (whole, first, second):
        for layer in module.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = dropout
    fit(whole, sources)
    with pytest.raises(Killed):
        fit(first, sources, StopAt(3, tmp_path / "kept.ckpt"))
    torch.manual_seed(77)  # another process stands elsewhere in its random numbers
    fit(second, sources, checkpoint=tmp_path / "kept.ckpt")
    assert second.iteration == 8
    for (name, tensor), other in zip(
        whole.state_dict().items(), second.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_weights_are_those_of_the_loss_of_the_clean_image(prediction):
    module = training(prediction=prediction)
    step = torch.tensor([50, 300, 900])
    a = module.denoiser.schedule.alpha_bar[step].float()
    snr = a / (1 - a)
    # The squared error of the clean image, of which that of what the network returns is a multiple.
    multiple = {"epsilon": 1 / snr, "v_prediction": 1 - a, "sample": torch.ones(3)}[prediction]
    torch.testing.assert_close(module._weights(step), snr.clamp(max=5) * multiple)
    module.min_snr = 0
    assert torch.equal(module._weights(step), torch.ones(3))


def test_errors_of_a_scaled_network_count_as_its_own_output():
    denoiser = CompactDenoiser(1, (8, 16), gaps=0, voxels=(-0.7, 0.4))
    module = DenoiserTraining(denoiser, 1, min_snr=0.0)
    step, noisy = torch.tensor([5, 300, 900]), torch.randn(3, 1, 8, 8)
    scaled = [
        denoiser.preconditioning.leaving(output, noisy, step, denoiser.schedule)
        for output in (torch.zeros_like(noisy), torch.full_like(noisy, 0.3))
    ]
    errors = (scaled[1] - scaled[0]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(module._weights(step) * errors, torch.full((3,), 0.09))


def test_steps_are_drawn_by_their_ratio_of_noise_to_signal():
    places = (torch.arange(2000) + 0.5) / 2000
    module = training()
    schedule = module.denoiser.schedule
    assert torch.equal(module._steps(places)[::2], torch.arange(1000))
    module.ratios = (-1.0, 0.7)
    drawn = module._steps(places)
    found = (schedule.deviation / schedule.signal).log()[drawn]
    assert float(found.mean()) == pytest.approx(-1.0, abs=0.02)
    assert float(found.std()) == pytest.approx(0.7, abs=0.02)
    with pytest.raises(ValueError, match="positive deviation"):
        training(ratios=(0.0, 0.0))


def test_a_short_schedule_is_judged_at_each_of_its_steps_once():
    torch.manual_seed(3)
    module = DenoiserTraining(CompactDenoiser(widths=(8, 16), fold=1, steps=3), levels=8)
    assert module.held_out_steps == [0, 1, 2]
    assert len(set(module.held_out.names)) == len(module.held_out.names)


def test_the_linear_filter_is_the_best_of_its_kind():
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(64, 1, 16, 16, generator=generator)
    # Of white noise in white noise nothing can be told but the share of each.
    assert float(linear_error(white, (0.3 / 0.7) ** 0.5)) == pytest.approx(0.3, abs=0.02)
    assert float(linear_error(torch.full((4, 1, 8, 8), 0.7), 0.3)) == pytest.approx(0, abs=1e-6)


def test_patches_are_learned_too(sources):
    torch.manual_seed(3)
    module = DenoiserTraining(PatchDenoiser(8, (8, 16), embedding=16), 3, warmup=1, levels=2)
    data = CleanPatchData(sources, iterations=3, batch_size=2, size=16, patch=8, held_out=["two"])
    before = module.denoiser.conv_in.weight.detach().clone()
    scores = fit(module, data).callback_metrics
    assert 0 < scores["val_noise_0750"] < scores["val_noise_0250"] < 1.2
    assert not torch.equal(before, module.denoiser.conv_in.weight)


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_training_that_diverges_ends(sources, log_every):
    module = training(4, rate=1e30, log_every=log_every)
    with pytest.raises(ValueError, match=r"diverged by iteration \d, .* in denoiser.*; lower its"):
        fit(module, sources, limit_val_batches=0)
    assert module.iteration == {1: 2, 50: 4}[log_every]


def test_held_out_noise_that_is_no_number_ends_a_training(sources):
    module = training(4, log_every=50)
    with torch.no_grad():
        module.average.get_buffer("unet/conv_in/weight").fill_(torch.nan)
    with pytest.raises(ValueError, match="diverged by iteration 1, with val_noise_0125 = nan"):
        fit(module, sources, val_check_interval=1)


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"rate": 0.0}, {"min_snr": -1.0}, {"levels": 0}]
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match="expected iterations and levels >= 1"):
        training(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gradient_norm": 0.0},  # all gradients would be scaled to nothing
        {"gradient_norm": -1.0},  # and turned round
        {"final_rate": -0.1},
        {"log_every": 0},
    ],
)
def test_options_by_which_nothing_would_be_learned(wrong):
    with pytest.raises(ValueError, match="gradient_norm > 0, final_rate >= 0 and log_every >= 1"):
        training(**wrong)


def held_out(sources, rank, world_size):
    """The metric of one of several processes after the validation of three batches."""
    module = training()
    data = CleanSliceData(sources, iterations=8, size=16, crops=(16,), held_out=["two"])
    trainer = SimpleNamespace(global_rank=rank, world_size=world_size, is_global_zero=True)
    data.trainer = module._trainer = trainer
    data.setup("fit")
    trainer.val_dataloaders = data.val_dataloader()
    with torch.no_grad():
        for batch_idx, batch in enumerate(trainer.val_dataloaders):
            module.validation_step(batch, batch_idx)
    return module.held_out


def test_unequal_shares_of_the_held_out_batches_score_as_all_of_them(sources):
    first, second = (held_out(sources, rank, 2) for rank in (0, 1))
    assert (first.count, second.count) == (2, 1)
    for name, score in held_out(sources, 0, 1).compute().items():
        summed = getattr(first, f"sum_{name}") + getattr(second, f"sum_{name}")
        torch.testing.assert_close(summed / 3, score)


@pytest.mark.slow
def test_two_processes_hold_equal_weights_and_score_as_one(sources, tmp_path):
    script = Path(__file__).with_name("denoiser_training_on_two_processes.py")
    package = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, script, tmp_path, *sources.values()],
        check=True,
        timeout=300,
        env=environment,
        capture_output=True,
    )
    ends = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    assert ends[0]["items"] != ends[1]["items"]
    for name, tensor in ends[0]["state"].items():
        assert torch.equal(tensor, ends[1]["state"][name]), name
    module = DenoiserTraining(CompactDenoiser(widths=(8, 16)), 3, levels=1)
    module.load_state_dict(ends[0]["state"])
    data = CleanSliceData(sources, iterations=3, size=16, crops=(16,), held_out=["two"])
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (alone,) = trainer.validate(module, datamodule=data, verbose=False)
    for end in ends:
        assert {name: end["scores"][name] for name in alone} == pytest.approx(alone, rel=1e-5)
