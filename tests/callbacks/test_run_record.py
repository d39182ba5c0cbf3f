import mmap
import signal
import subprocess
import sys

import lightning
import pytest
import torch
import toy_run

from diffnr_lightning.callbacks.resource_use import ResourceUse
from diffnr_lightning.callbacks.run_record import RunRecord


@pytest.mark.filterwarnings("ignore")
def test_a_killed_run_resumes_to_the_same_parameters(tmp_path):
    whole, _ = toy_run.fit(tmp_path / "whole.ckpt")
    checkpoint = tmp_path / "killed.ckpt"
    killed = subprocess.run(
        [sys.executable, toy_run.__file__, str(checkpoint), "27"], capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    kept = torch.load(checkpoint, weights_only=True)
    assert kept["iteration"] == 20
    resumed, record = toy_run.fit(checkpoint)
    assert resumed.iteration == whole.iteration == 40
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.load(checkpoint, weights_only=True)["iteration"] == 40
    before = kept["callbacks"]["RunRecord"]["seconds"]
    assert before > 0
    assert record.use.seconds > before
    assert record.use.earlier_seconds == before


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_other_processes_draws_other_batches_and_is_not_gone_on_with(tmp_path):
    path = tmp_path / "run.ckpt"
    toy_run.fit(path, steps=10)
    kept = torch.load(path, weights_only=True)
    torch.save({**kept, "processes": 4}, path)
    with pytest.raises(ValueError, match="was written by 4 processes, and this run has 1"):
        toy_run.fit(path, steps=20)
    del kept["processes"]  # as of an earlier version
    torch.save(kept, path)
    resumed, _ = toy_run.fit(path, steps=20)
    assert resumed.iteration == 20


@pytest.mark.filterwarnings("ignore")
def test_progress_counts_batches_up_to_the_last(tmp_path):
    seen = []
    toy_run.fit(tmp_path / "run.ckpt", steps=25, progress=lambda *shown: seen.append(shown))
    assert [(done, total) for done, total, _ in seen] == [(10, 25), (20, 25), (25, 25)]
    assert all(text.startswith("loss ") for _, _, text in seen)


def test_every_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="every is 0"):
        RunRecord(tmp_path / "run.ckpt", every=0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of memory")
def test_a_run_does_not_count_the_memory_of_the_one_before():
    first = ResourceUse()
    # Pages of its own: a tensor may get what a heap has kept of earlier ones, and the peak would not rise.
    with mmap.mmap(-1, 300 * 2**20) as pages:
        for place in range(0, len(pages), mmap.PAGESIZE):
            pages[place] = 1
    peak = first.peak_memory_mb
    assert ResourceUse().peak_memory_mb < peak - 200


def test_what_a_run_has_cost_travels_with_its_checkpoint(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    kept = ResourceUse().kept()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**30)
    resumed = ResourceUse()
    assert resumed.as_metrics()["peak_gpu_memory_mb"] == 1024
    resumed.take_up(kept)
    assert resumed.as_metrics()["peak_gpu_memory_mb"] == 3 * 1024
    del kept["peak_gpu_memory_mb"]  # as of an earlier version
    resumed.take_up(kept)
    assert resumed.as_metrics()["peak_gpu_memory_mb"] == 1024


def test_resource_use_is_in_seconds_and_megabytes():
    use = ResourceUse()
    held = torch.ones(64, 2**18)  # 64 MiB
    metrics = use.as_metrics()
    assert held.sum() > 0
    assert 0 <= metrics["seconds"] < 60
    assert 64 < metrics["peak_memory_mb"] < 100_000
    use.earlier_peak_mb = 1e6
    assert use.peak_memory_mb == 1e6


class Remembering(toy_run.Toy):
    """Lets Lightning keep its arguments, of which one is no plain value."""

    def __init__(self, folder):
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_a_module_that_keeps_its_arguments_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_run, "Toy", lambda: Remembering(tmp_path))
    toy_run.fit(tmp_path / "run.ckpt", steps=10)
    assert "hyper_parameters" not in torch.load(tmp_path / "run.ckpt", weights_only=True)
    resumed, _ = toy_run.fit(tmp_path / "run.ckpt", steps=20)
    assert resumed.iteration == 20 and resumed.hparams.folder == tmp_path


class Validated(toy_run.Toy):
    """Has something to validate, and notes after which batch that was done."""

    def __init__(self):
        super().__init__()
        self.events = []

    def validation_step(self, batch, batch_idx):
        self.events.append(("validated", self.iteration))

    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        self.events.append(("kept", self.iteration))


class Stream(torch.utils.data.IterableDataset):
    """Five batches, which nobody knows beforehand."""

    def __iter__(self):
        return iter(range(5))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("length", "events"),
    [
        (
            {"max_epochs": 3, "check_val_every_n_epoch": 2},
            [("kept", 5), ("validated", 10), ("kept", 10), ("kept", 15)],
        ),
        (
            {"max_steps": 20, "check_val_every_n_epoch": None, "val_check_interval": 10},
            [
                *[("kept", 5), ("validated", 10), ("kept", 10)],
                *[("kept", 15), ("validated", 20), ("kept", 20)],
            ],
        ),
        # Nobody knows beforehand when the clock asks for one: what was kept before it is replaced after it.
        (
            {"max_epochs": 2, "val_check_interval": {"hours": 1}},
            [("kept", 5), ("kept", 10)],
        ),
        (
            {"max_epochs": 1, "val_check_interval": "00:00:00:00"},
            [*[("validated", n) for n in range(1, 5)]]
            + [("kept", 5), ("validated", 5), ("kept", 5)],
        ),
    ],
    ids=["some epochs", "through epochs", "rare by the clock", "often by the clock"],
)
def test_a_checkpoint_waits_for_no_validation_that_does_not_come(tmp_path, length, events):
    assert recorded(tmp_path / "run.ckpt", range(5), **length) == events


@pytest.mark.filterwarnings("ignore")
def test_a_validation_at_an_end_that_nobody_knows_is_in_the_checkpoint(tmp_path):
    events = recorded(tmp_path / "run.ckpt", Stream(), max_epochs=1)
    assert events[-2:] == [("validated", 5), ("kept", 5)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("steps", "last"), [(5, ["validated", "kept"]), (7, ["kept"])])
def test_a_validation_after_the_training_writes_no_checkpoint_again(tmp_path, steps, last):
    """Whether the last batch was validated in the training or not."""
    length = {"max_steps": steps, "check_val_every_n_epoch": None, "val_check_interval": 5}
    events = recorded(tmp_path / "run.ckpt", range(10), again=True, **length)
    assert events[-len(last) - 1 :] == [(name, steps) for name in (*last, "validated")]
    assert events.count(("kept", steps)) == 1


def recorded(checkpoint, batches, again=False, **length):
    """What happens in a training, and, where it is asked for, in a validation of its own after it."""
    module = Validated()
    trainer = lightning.Trainer(
        **length, accelerator="cpu", devices=1, logger=False, num_sanity_val_steps=0,
        callbacks=[RunRecord(checkpoint, every=5)], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    held_out = torch.utils.data.DataLoader([0])
    trainer.fit(module, torch.utils.data.DataLoader(batches), held_out)
    if again:
        trainer.validate(module, held_out, verbose=False)
    return module.events
