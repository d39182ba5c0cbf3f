"""Callbacks know where a run ends, whether its Trainer was given steps, an epoch or both."""

import lightning
import pytest
import torch
from blob_scan import GRID, PROJECTIONS, SCAN, TRUTH, Halving

from diffnr_lightning.callbacks import Convergence, PseudoReference, RepairedProjections
from diffnr_lightning.callbacks.run_record import RunRecord
from diffnr_lightning.data import ScanData
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.priors import ProjectionRepairer, Repairer
from diffnr_lightning.representations import VoxelGrid

pytestmark = pytest.mark.filterwarnings("ignore")
LENGTHS = pytest.mark.parametrize(
    "length",
    [
        {"max_steps": 6},
        {"max_epochs": 1},
        {"max_steps": 100, "max_epochs": 1},
        {"max_steps": 6, "max_epochs": 2},
    ],
)


def fitted(callback, length, checkpoint=None):
    representation = VoxelGrid(GRID)
    representation.initialise(TRUTH, PROJECTIONS, SCAN, seed=0)
    trainer = lightning.Trainer(
        **length,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = SceneOptimization(representation, SCAN, GRID, lambda_tv=0.0)
    data = ScanData(PROJECTIONS, seed=0, iterations=6)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return callback


def halving(repairer):
    repairer.prior = Halving()
    return repairer


@LENGTHS
def test_priors_take_part_in_all_but_the_last_batch(length):
    assert fitted(PseudoReference(halving(Repairer()), every=3), length).made == 1
    views = RepairedProjections(halving(ProjectionRepairer()), at=[2, 4, 6])
    assert fitted(views, length).made == 2


@LENGTHS
def test_points_are_spread_over_the_run(length):
    kept = fitted(Convergence(torch.zeros(GRID.shape), points=2), length)
    assert kept.history["iteration"] == [3, 6]


@LENGTHS
def test_checkpoints_are_kept_now_and_then_and_at_the_end(length, tmp_path, monkeypatch):
    kept = []
    write = lightning.Trainer.save_checkpoint
    monkeypatch.setattr(
        lightning.Trainer,
        "save_checkpoint",
        lambda trainer, path: (kept.append(trainer.global_step), write(trainer, path)),
    )
    record = RunRecord(tmp_path / "run.ckpt", every=4)
    fitted(record, length)
    assert kept == [4, 6]
    fitted(record, length, record.checkpoint)
    assert kept == [4, 6]
