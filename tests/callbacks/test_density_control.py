import lightning
import pytest
import torch

from diffnr_lightning.callbacks.density_control import DensityControl
from diffnr_lightning.callbacks.run_record import RunRecord
from diffnr_lightning.data import ScanData
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import DensityLimits, GaussianCloud, VoxelGrid

pytestmark = pytest.mark.filterwarnings("ignore")

GRID = VolumeGrid((12, 12, 12), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(5),
    source_to_axis_mm=70.0,
    source_to_detector_mm=100.0,
    detector_shape=(16, 16),
    pixel_mm=2.4,
)
STEPS = 36
# So that there are clones, splits and a limit in a run of seconds.
LIMITS = DensityLimits(gradient=1e-3, large=0.09, most_gaussians=90)


class Interruption(lightning.Callback):
    """Fail before a batch."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.iteration + 1 == self.iteration:
            raise RuntimeError("interrupted")


class Watch(lightning.Callback):
    """Note the number of Gaussians after every batch."""

    def __init__(self):
        self.counts = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.counts.append(pl_module.representation.num_gaussians)


def control(**changes):
    options = {"start": 5, "every": 5, "until": 30, "limits": LIMITS, "seed": 2}
    return DensityControl(**{**options, **changes})


def fit(checkpoint, *callbacks, representation=None):
    """Optimise the same scene every time, from the checkpoint where there is one."""
    points = GRID.points()
    volume = torch.exp(-0.5 * (points / torch.tensor([6.0, 4.0, 5.0])).square().sum(-1))
    projections = project(volume, GRID, SCAN)
    representation = representation or GaussianCloud(GRID, num_gaussians=60)
    representation.initialise(volume, projections, SCAN, seed=0)
    module = SceneOptimization(representation, SCAN, GRID, tv_size=6, rate_scale=5.0)
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[*callbacks, RunRecord(checkpoint, every=7)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ScanData(projections, seed=0, iterations=STEPS)
    resume = checkpoint if checkpoint.exists() else None
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module, trainer.optimizers[0]


def test_the_cloud_grows_at_the_stated_batches_and_fits_better(tmp_path):
    watch = Watch()
    module, _ = fit(tmp_path / "a.ckpt", control(), watch)
    counts = [60, *watch.counts]
    changed = [batch for batch in range(1, STEPS + 1) if counts[batch] != counts[batch - 1]]
    # After the start, before the end, and every five batches; the limit is reached on the way.
    assert changed[0] == 10
    assert set(changed) <= {10, 15, 20, 25}
    assert 60 < max(watch.counts) <= 90
    assert module.representation.num_gaussians == watch.counts[-1]
    assert len(module.representation.statistics.gradient) == watch.counts[-1]


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    whole, optimizer = fit(tmp_path / "whole.ckpt", control())
    interrupted = tmp_path / "interrupted.ckpt"
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(interrupted, control(), Interruption(17))
    kept = torch.load(interrupted, weights_only=True)
    # Density control was at 10 and will be at 15: in between it gathers.
    assert kept["scene"]["iteration"] == 14
    statistics = next(v for k, v in kept["callbacks"].items() if k.startswith("DensityControl"))
    assert statistics["visible"].any()
    assert len(kept["state_dict"]["representation.positions"]) != 60
    resumed, other = fit(interrupted, control())
    assert resumed.iteration == whole.iteration == STEPS
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        for key, moment in optimizer.state[theirs].items():
            assert torch.equal(other.state[ours][key], moment)


def test_a_control_serves_several_fits(tmp_path):
    shared = control()
    first, _ = fit(tmp_path / "a.ckpt", shared)
    second, _ = fit(tmp_path / "b.ckpt", shared)
    assert torch.equal(first.representation.positions, second.representation.positions)


def test_what_a_finished_run_kept_is_not_put_into_the_next_one(tmp_path):
    fit(tmp_path / "a.ckpt", control())
    expected, _ = fit(tmp_path / "b.ckpt", control())
    shared = control()
    # Nothing is left to do, so this run restores its statistics and never starts.
    fit(tmp_path / "a.ckpt", shared)
    following, _ = fit(tmp_path / "c.ckpt", shared)
    assert torch.equal(following.representation.positions, expected.representation.positions)


def test_other_representations_are_refused(tmp_path):
    with pytest.raises(TypeError, match="VoxelGrid"):
        fit(tmp_path / "a.ckpt", control(), representation=VoxelGrid(GRID))


@pytest.mark.parametrize("every", [0, -3])
def test_every_must_be_positive(every):
    with pytest.raises(ValueError, match=f"every is {every}"):
        DensityControl(every=every)
