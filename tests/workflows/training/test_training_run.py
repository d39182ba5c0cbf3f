"""What a training refuses of Lightning before it begins, and what one leaves that is killed while it validates."""

import csv

import lightning
import pytest
import toy_run
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.connectors import accelerator_connector
from torch.utils.data import DataLoader

from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.training.training_run import _trainer, train_in_folder

FORKS = "would fork or spawn the processes, .* give strategy ddp in a script"


@pytest.mark.parametrize(
    "strategy", ["ddp_fork", "ddp_notebook", "ddp_spawn_find_unused_parameters_true"]
)
def test_processes_that_bring_back_weights_alone_are_refused(strategy):
    with pytest.raises(ValueError, match=FORKS):
        _trainer("cpu", 2, strategy=strategy, logger=False)


def test_a_notebook_is_not_left_to_fork(monkeypatch):
    monkeypatch.setattr(accelerator_connector, "_IS_INTERACTIVE", True)
    with pytest.raises(ValueError, match=f"devices is 2 and strategy 'auto', which {FORKS}"):
        _trainer("cpu", 2, strategy="auto", logger=False)
    assert _trainer("cpu", 1, strategy="auto", logger=False).world_size == 1


def test_processes_of_their_own_are_served():
    assert _trainer("cpu", 2, strategy="ddp", logger=False).world_size == 2


def test_a_task_that_trains_beside_others_says_why_they_are_in_its_way(monkeypatch, caplog):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with caplog.at_level("WARNING", "diffnr"):
        _trainer("cpu", 1, strategy="auto", logger=False)
    assert "one run of all needs --devices (4 on one node)" in caplog.text


class Validated(toy_run.Toy):
    """The toy, which logs as trainings do."""

    optimizer_steps = 12

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.logger.log_metrics({"train_loss": float(loss.detach())}, step=self.iteration - 1)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_weight", self.weight)


class Numbers(lightning.LightningDataModule):
    iterations, validation = 12, True

    def train_dataloader(self):
        return DataLoader(range(self.iterations))

    def val_dataloader(self):
        return DataLoader(range(2))


class KilledError(Exception):
    """Stands in for a kill."""


class KillIn(lightning.Callback):
    """Raise in a validation: in that after a number of batches, or in the final one."""

    def __init__(self, function, iteration):
        self.moment = function, iteration

    def on_validation_batch_start(self, trainer, pl_module, *args):
        if (trainer.state.fn, pl_module.iteration) == self.moment:
            raise KilledError


def curves_of(folder, *callbacks, finish=lambda scores: None):
    run = RunFolder(folder, {"seed": 0})
    run.open()
    train_in_folder(
        run,
        Validated(),
        Numbers(),
        finish,
        job="finetune",
        title="training",
        iterations=12,
        validate_every=6,
        checkpoint_every=3,
        curves=None,
        callbacks=dict(enumerate(callbacks)),
        accelerator="cpu",
        devices=1,
    )
    return (folder / "curves" / "metrics.csv").read_text()


@pytest.fixture(scope="module")
def whole_curves(tmp_path_factory):
    return curves_of(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(
    ("function", "iteration"), [("fit", 6), ("fit", 12), ("validate", 12), ("finish", 12)]
)
@pytest.mark.filterwarnings("ignore")
def test_a_run_killed_while_it_validates_has_the_same_curves(
    whole_curves, tmp_path, function, iteration
):
    def killed(scores):
        raise KilledError

    with pytest.raises(KilledError):
        curves_of(tmp_path / "run", KillIn(function, iteration), finish=killed)
    assert curves_of(tmp_path / "run") == whole_curves
    assert whole_curves.count("\n") == 1 + 12 + 3


class StopAfter(lightning.Callback):
    """Stop early, as `EarlyStopping` does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = pl_module.iteration == self.iteration


@pytest.mark.filterwarnings("ignore")
def test_the_final_scores_of_a_training_that_stops_early_are_of_its_last_batch(tmp_path):
    rows = list(csv.DictReader(curves_of(tmp_path / "run", StopAfter(7)).splitlines()))
    assert [row["step"] for row in rows if row["val_weight"]][-1] == "7"


@pytest.mark.filterwarnings("ignore")
def test_lightning_may_keep_checkpoints_of_its_own_beside(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="val_weight")
    curves_of(tmp_path / "run", best)
    assert len(list((tmp_path / "best").glob("*.ckpt"))) == 1


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_a_second_progress_bar_is_refused_by_its_name(tmp_path, bar):
    with pytest.raises(ValueError, match=f"callbacks hold a {bar.__name__}, .* leave it out"):
        curves_of(tmp_path / "run", bar())
    assert not (tmp_path / "run").exists()
