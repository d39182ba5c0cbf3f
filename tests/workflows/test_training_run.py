"""What a training refuses of Lightning before it begins."""

import pytest
from lightning.pytorch.trainer.connectors import accelerator_connector

from diffnr_lightning.workflows.training_run import _trainer

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
