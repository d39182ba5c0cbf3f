"""What a checkpoint of finetuning holds, and that a killed run which is resumed ends as a whole one."""

import copy

import lightning
import pytest
import torch
from killed_run import Killed, StopAt
from tiny_finetuning import ITERATIONS, Darkness, both, finetuning, fit

from diffnr_lightning.data.slice_pairs import SlicePairData
from diffnr_lightning.losses import DiffAugment
from diffnr_lightning.priors import PatchDiscriminator, load_prior, read_header
from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.training.training_run import train_in_folder


@both
def test_killed_and_resumed_run_equals_an_uninterrupted_one(boxes, tmp_path, gan):
    whole = finetuning(gan=gan)
    fit(whole, boxes)
    with pytest.raises(Killed):
        fit(finetuning(gan=gan), boxes, StopAt(5, tmp_path / "run.ckpt"))
    resumed = finetuning(gan=gan)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1)  # what the resumed process starts with must not matter
    trainer = fit(resumed, boxes, checkpoint=tmp_path / "run.ckpt")
    assert resumed.iteration == whole.iteration == ITERATIONS
    assert trainer.global_step == whole.optimizer_steps
    expected = whole.state_dict()
    assert resumed.state_dict().keys() == expected.keys()
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


class Augmenting(PatchDiscriminator):
    """Looks at what is changed at random."""

    def forward(self, degraded, candidate):
        return super().forward(degraded, DiffAugment()(2 * candidate - 1))


def test_what_is_drawn_at_random_is_drawn_again_by_a_resumed_run(boxes, tmp_path):
    torch.manual_seed(0)
    judge = Augmenting(8)
    runs = [finetuning(gan=True, discriminator=copy.deepcopy(judge)) for _ in range(3)]
    whole, killed, resumed = runs
    fit(whole, boxes)
    with pytest.raises(Killed):
        fit(killed, boxes, StopAt(5, tmp_path / "run.ckpt"))
    torch.manual_seed(77)  # another process stands elsewhere in its random numbers
    fit(resumed, boxes, checkpoint=tmp_path / "run.ckpt")
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_average_is_in_the_checkpoint_and_in_the_export(boxes, tmp_path):
    module = finetuning()
    with pytest.raises(Killed):
        fit(module, boxes, StopAt(5, tmp_path / "run.ckpt"))
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


def test_frozen_weights_are_not_in_the_checkpoint(boxes, tmp_path):
    module = finetuning(lambda_lpips=1.0, lpips=Darkness())
    module.prior.encoder.requires_grad_(False)
    with pytest.raises(Killed):
        fit(module, boxes, StopAt(5, tmp_path / "run.ckpt"))
    kept = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith(("objective", "prior.encoder")) for name in kept)
    assert "prior.conv_out.weight" in kept
    again = finetuning(lambda_lpips=1.0, lpips=Darkness())
    again.prior.encoder.requires_grad_(False)
    fit(again, boxes, checkpoint=tmp_path / "run.ckpt")
    assert again.iteration == ITERATIONS
    other = finetuning(lambda_lpips=1.0, lpips=Darkness())
    with pytest.raises(ValueError, match=r"has no weight prior\.encoder.*new run folder"):
        fit(other, boxes, checkpoint=tmp_path / "run.ckpt")


def test_resumed_original_run_ends_with_the_same_weights(boxes, tmp_path):
    whole, killed, resumed = (finetuning(gan=True, steps="original") for _ in range(3))
    fit(whole, boxes)
    with pytest.raises(Killed):
        fit(killed, boxes, StopAt(5, tmp_path / "run.ckpt"))
    fit(resumed, boxes, checkpoint=tmp_path / "run.ckpt")
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


class KillAfter(lightning.Callback):
    """Leave the run after a batch."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.iteration == self.iteration:
            raise Killed


def test_checkpoints_wait_for_the_step_of_accumulated_gradients(boxes, tmp_path):
    def trained(folder, **callbacks):
        task, run = finetuning(accumulate=4), RunFolder(tmp_path / folder, {"seed": 1})
        data = SlicePairData([boxes], ITERATIONS, ("two",), batch_size=2, crop=24, seed=1)
        run.begin()
        train_in_folder(
            run, task, data, lambda scores: None, job="finetune", title="", iterations=ITERATIONS,
            validate_every=ITERATIONS, checkpoint_every=3, curves=None, callbacks=callbacks,
            accelerator="cpu", devices=1,
        )  # fmt: skip
        return task.state_dict()

    whole = trained("whole")
    with pytest.raises(Killed):
        trained("killed", kill=KillAfter(7))
    kept = torch.load(tmp_path / "killed" / "checkpoint.ckpt", weights_only=True)
    assert kept["iteration"] == 4
    for name, tensor in trained("killed").items():
        assert torch.equal(tensor, whole[name]), name
