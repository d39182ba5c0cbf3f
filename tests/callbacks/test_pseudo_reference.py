from dataclasses import replace

import lightning
import numpy as np
import pytest
import torch

from diffnr_lightning.callbacks import PseudoReference
from diffnr_lightning.consistency import align, best_share
from diffnr_lightning.data import ScanData
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import VoxelGrid
from diffnr_lightning.solvers import backprojected_residual

pytestmark = pytest.mark.filterwarnings("ignore")

GRID = VolumeGrid((10, 12, 14), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(8),
    source_to_axis_mm=70.0,
    source_to_detector_mm=100.0,
    detector_shape=(16, 16),
    pixel_mm=2.4,
)
TRUTH = torch.exp(-0.5 * (GRID.points() / torch.tensor([6.0, 4.0, 5.0])).square().sum(-1))
PROJECTIONS = project(TRUTH, GRID, SCAN)


class Halving(torch.nn.Module):
    """A prior that halves slices, and remembers what it was told."""

    context, size, biplanar_size, residual = 0, None, 64, False

    def __init__(self):
        super().__init__()
        self.told = []

    def repair(self, slices, conditioning):
        self.told.append((int(conditioning.plane[0]), len(slices), float(conditioning.views[0])))
        return 0.5 * slices[:, 0]


class Watch(lightning.Callback):
    """Note whenever there is a new reference."""

    def __init__(self):
        self.references = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        kept = list(self.references.values())
        if pl_module.reference is not None and not (kept and kept[-1] is pl_module.reference):
            self.references[pl_module.iteration] = pl_module.reference


def callback(**options):
    made = PseudoReference(**options)
    made.prior = Halving()
    return made


def run(made, steps=9):
    representation = VoxelGrid(GRID)
    representation.initialise(TRUTH, PROJECTIONS, SCAN, seed=0)
    module = SceneOptimization(representation, SCAN, GRID, rate_scale=0.0, lambda_tv=0.0)
    watch = Watch()
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        callbacks=[made, watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=ScanData(PROJECTIONS, seed=0, iterations=steps))
    return watch.references


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({"every": 4}, [4, 8]),
        # The last batch has no use for a new reference.
        ({"every": 3}, [3, 6]),
        ({"every": 2, "repairs": 3}, [2, 4, 6]),
        ({"every": 9}, []),
    ],
)
def test_references_are_made_when_they_are_due(options, batches):
    made = callback(**options)
    references = run(made)
    assert list(references) == batches
    assert made.made == len(batches)
    for reference in references.values():
        torch.testing.assert_close(reference, 0.5 * TRUTH)
        assert not reference.requires_grad
    # The next scan is served from the beginning.
    assert list(run(made)) == batches


def test_the_prior_is_told_planes_and_views():
    made = callback(every=5, planes=("axial", "sagittal"), batch_size=4)
    run(made)
    told = made.prior.told
    assert {plane for plane, _, _ in told} == {0, 2}
    assert sum(n for plane, n, _ in told if plane == 0) == 10
    assert sum(n for plane, n, _ in told if plane == 2) == 14
    assert max(n for _, n, _ in told) == 4
    assert {views for _, _, views in told} == {8.0}


def test_an_aligned_reference_fits_the_projections_better():
    plain, aligned = (run(callback(every=5, align_iterations=n))[5] for n in (0, 8))
    torch.testing.assert_close(aligned, align(plain, PROJECTIONS, GRID, SCAN, iterations=8))
    residuals = [(project(v, GRID, SCAN) - PROJECTIONS).norm() for v in (plain, aligned)]
    assert residuals[1] < 0.9 * residuals[0]


def test_a_repair_that_the_projections_contradict_is_taken_in_part(caplog):
    # What fits badly has a residual to compare with.
    volume = 1.2 * TRUTH
    whole = callback().repair(volume, PROJECTIONS, GRID, SCAN)
    assert not caplog.text
    made = callback(tolerance=0.5)
    taken = made.repair(volume, PROJECTIONS, GRID, SCAN)
    share = best_share(volume, whole, PROJECTIONS, GRID, SCAN) / 2
    assert made.doubted
    assert share == pytest.approx(0.1 / 0.6, rel=0.05)
    torch.testing.assert_close(taken, torch.lerp(volume, whole, share))
    assert f"{100 * share:.0f} % of its repair is taken" in caplog.text
    trusting = callback(tolerance=100.0)
    torch.testing.assert_close(trusting.repair(volume, PROJECTIONS, GRID, SCAN), whole)
    assert not trusting.doubted


class Adding(Halving):
    """A prior that adds the residual that it is shown."""

    residual = True

    def repair(self, slices, conditioning):
        return (slices + conditioning.residual)[:, 0].clamp(0, 1)


def test_a_prior_that_looks_at_the_residual_is_shown_it():
    made = callback()
    made.prior = Adding()
    volume = 0.9 * TRUTH
    repaired = made.repair(volume, PROJECTIONS, GRID, SCAN)
    missing = backprojected_residual(volume, PROJECTIONS, GRID, SCAN)
    torch.testing.assert_close(repaired, (volume + missing).clamp(0, 1))
    assert (repaired - TRUTH).norm() < 0.6 * (volume - TRUTH).norm()


def test_a_pass_repairs_what_the_one_before_left():
    # This prior leaves half of the residual each time.
    made = callback(passes=3, align_iterations=2)
    made.prior = Adding()
    after = list(made.after_each_pass(0.9 * TRUTH, PROJECTIONS, GRID, SCAN))
    torch.testing.assert_close(made.repair(0.9 * TRUTH, PROJECTIONS, GRID, SCAN), after[-1])
    once = callback(align_iterations=2)
    once.prior = made.prior
    volume = 0.9 * TRUTH
    for expected in after:
        volume = once.repair(volume, PROJECTIONS, GRID, SCAN)
        torch.testing.assert_close(volume, expected)
    errors = [(v - TRUTH).norm() for v in after]
    assert errors[2] < errors[1] < errors[0]


class Hesitating(Adding):
    """A prior that adds another share of the residual in each pass."""

    def __init__(self, shares):
        super().__init__()
        self.shares = iter(shares)
        self.share = None

    def repair(self, slices, conditioning):
        if conditioning.position.min() == -1:  # the first slices of a volume
            self.share = next(self.shares)
        return (slices + self.share * conditioning.residual)[:, 0].clamp(0, 1)


@pytest.mark.parametrize(
    ("shares", "taken", "doubted"),
    [
        ((0.7, 0.01, 0.01), 3, False),
        # The second finds much left to explain.
        ((0.1, 0.7, 0.01), 1, True),
        # The second lets the residual grow.
        ((0.7, -0.7, 0.01), 1, True),
        # The first does, a little and much.
        ((-0.01, 0.5, 0.5), 1, False),
        ((-0.5, 0.5, 0.5), 1, True),
    ],
)
def test_passes_that_the_projections_contradict_cast_doubt(shares, taken, doubted):
    made = callback(passes=3, batch_size=64, tolerance=0.1)
    made.prior = Hesitating(shares)
    assert len(list(made.after_each_pass(0.9 * TRUTH, PROJECTIONS, GRID, SCAN))) == taken
    assert made.doubted is doubted
    made.prior = Hesitating((0.7, 0.01, 0.01))
    # Doubt lasts, and leaves one pass.
    again = list(made.after_each_pass(0.9 * TRUTH, PROJECTIONS, GRID, SCAN))
    assert len(again) == (1 if doubted else 3)
    assert made.doubted is doubted
    made.setup(None, None, "fit")
    assert made.doubted is False


def test_without_a_tolerance_nothing_is_doubted():
    made = callback(passes=2, batch_size=64)
    made.prior = Hesitating((0.1, 0.7))
    assert len(list(made.after_each_pass(0.9 * TRUTH, PROJECTIONS, GRID, SCAN))) == 2
    assert not made.doubted


def test_a_scan_without_filtered_backprojection_is_repaired_without_the_residual(caplog):
    made = callback()
    made.prior = Adding()
    climb = np.linspace(-4, 4, len(SCAN))[:, None] * [0.0, 0.0, 1.0]
    helix = replace(SCAN, source_mm=SCAN.source_mm + climb, detector_mm=SCAN.detector_mm + climb)
    torch.testing.assert_close(made.repair(TRUTH, PROJECTIONS, GRID, helix), TRUTH)
    assert "no residual can be backprojected" in caplog.text


def test_count_and_doubt_survive_a_checkpoint():
    made, resumed = callback(repairs=2), callback(repairs=2)
    made.made, made.doubted = 2, True
    resumed.load_state_dict(made.state_dict())
    assert (resumed.made, resumed.doubted) == (2, True)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="every is 0"):
        PseudoReference(every=0)
    with pytest.raises(ValueError, match="passes is 0"):
        PseudoReference(passes=0)
    with pytest.raises(ValueError, match="tolerance is -1"):
        PseudoReference(tolerance=-1)
