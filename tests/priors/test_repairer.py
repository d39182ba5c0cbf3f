from dataclasses import replace

import numpy as np
import pytest
import torch

from diffnr_lightning.consistency import align, best_share
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.priors import Repairer
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import backprojected_residual, residual_evidence

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
MEASURED = (PROJECTIONS, GRID, SCAN)


class Halving(torch.nn.Module):
    """A prior that halves slices, and remembers planes, batches and numbers of views."""

    context, size, biplanar_size, residual = 0, None, 64, False

    def __init__(self):
        super().__init__()
        self.calls = []

    def repair(self, slices, conditioning):
        self.calls.append((int(conditioning.plane[0]), len(slices), float(conditioning.views[0])))
        return 0.5 * slices[:, 0]


class Adding(Halving):
    """A prior that adds the residual that it is given."""

    residual = True

    def repair(self, slices, conditioning):
        return (slices + conditioning.residual)[:, 0].clamp(0, 1)


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


def repairer(prior=None, **options):
    made = Repairer(**options)
    made.prior = prior or Halving()
    return made


def test_slices_of_all_planes_are_repaired_in_batches():
    made = repairer(planes=("axial", "sagittal"), batch_size=4)
    repaired = made.repair(TRUTH, *MEASURED)
    torch.testing.assert_close(repaired.volume, 0.5 * TRUTH)
    assert (repaired.share, repaired.contradicted) == (1.0, False)
    calls = made.prior.calls
    assert {plane for plane, _, _ in calls} == {0, 2}
    assert sum(n for plane, n, _ in calls if plane == 0) == 10
    assert sum(n for plane, n, _ in calls if plane == 2) == 14
    assert max(n for _, n, _ in calls) == 4
    assert {views for _, _, views in calls} == {8.0}


def test_an_aligned_repair_fits_the_projections_better():
    plain, aligned = (repairer(align_iterations=n).repair(TRUTH, *MEASURED).volume for n in (0, 8))
    torch.testing.assert_close(aligned, align(plain, *MEASURED, iterations=8))
    residuals = [(project(v, GRID, SCAN) - PROJECTIONS).norm() for v in (plain, aligned)]
    assert residuals[1] < 0.9 * residuals[0]


def test_a_repair_that_the_projections_contradict_is_taken_in_part(caplog):
    # What fits badly has a residual to compare with.
    volume = 1.2 * TRUTH
    whole = repairer().repair(volume, *MEASURED).volume
    assert not caplog.text
    taken = repairer(tolerance=0.5).repair(volume, *MEASURED)
    share = best_share(volume, whole, *MEASURED) / 2
    assert taken.contradicted
    assert taken.share == share == pytest.approx(0.1 / 0.6, rel=0.05)
    torch.testing.assert_close(taken.volume, torch.lerp(volume, whole, share))
    assert f"contradict the repair: {100 * share:.0f} % of it is taken" in caplog.text
    lenient = repairer(tolerance=100.0).repair(volume, *MEASURED)
    torch.testing.assert_close(lenient.volume, whole)
    assert not lenient.contradicted


def test_a_repair_after_a_contradicted_one_is_taken_in_part_too():
    volume = 1.2 * TRUTH
    taken = repairer(passes=3).repair(volume, *MEASURED, contradicted=True)
    assert taken.contradicted
    assert taken.share == pytest.approx(0.1 / 0.6, rel=0.05)


def test_a_prior_that_takes_the_residual_gets_it():
    volume = 0.9 * TRUTH
    repaired = repairer(Adding()).repair(volume, *MEASURED).volume
    missing = backprojected_residual(volume, *MEASURED)
    torch.testing.assert_close(repaired, (volume + missing).clamp(0, 1))
    assert (repaired - TRUTH).norm() < 0.6 * (volume - TRUTH).norm()


def test_a_pass_repairs_what_the_one_before_left():
    # This prior leaves half of the residual each time.
    made = repairer(Adding(), passes=3, align_iterations=2)
    volume = 0.9 * TRUTH
    after = [step.volume for step in made.each_pass(volume, *MEASURED)]
    torch.testing.assert_close(made.repair(volume, *MEASURED).volume, after[-1])
    once = repairer(Adding(), align_iterations=2)
    for expected in after:
        volume = once.repair(volume, *MEASURED).volume
        torch.testing.assert_close(volume, expected)
    errors = [(v - TRUTH).norm() for v in after]
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize(
    ("shares", "taken", "contradicted"),
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
def test_passes_that_the_projections_contradict(shares, taken, contradicted):
    def passes(shares, **before):
        made = repairer(Hesitating(shares), passes=3, batch_size=64, tolerance=0.1)
        return list(made.each_pass(0.9 * TRUTH, *MEASURED, **before))

    made = passes(shares)
    assert [step.taken for step in made] == [True] * taken + [False] * (len(made) - taken)
    assert [step.contradicted for step in made] == [False] * (len(made) - 1) + [contradicted]
    # After a contradicted repair of the same scan one pass is made; another scan begins anew.
    assert len(passes((0.7, 0.01, 0.01), contradicted=True)) == 1
    assert len(passes((0.7, 0.01, 0.01))) == 3


def test_without_a_tolerance_nothing_is_contradicted():
    made = repairer(Hesitating((0.1, 0.7)), passes=2, batch_size=64)
    steps = list(made.each_pass(0.9 * TRUTH, *MEASURED))
    assert [(step.taken, step.contradicted) for step in steps] == [(True, False)] * 2


def test_a_scan_without_filtered_backprojection_is_repaired_without_the_residual(caplog):
    climb = np.linspace(-4, 4, len(SCAN))[:, None] * [0.0, 0.0, 1.0]
    helix = replace(SCAN, source_mm=SCAN.source_mm + climb, detector_mm=SCAN.detector_mm + climb)
    repaired = repairer(Adding()).repair(TRUTH, PROJECTIONS, GRID, helix).volume
    torch.testing.assert_close(repaired, TRUTH)
    assert "no residual can be backprojected" in caplog.text


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="passes is 0"):
        Repairer(passes=0)
    with pytest.raises(ValueError, match="tolerance is -1"):
        Repairer(tolerance=-1)
    with pytest.raises(ValueError, match="without weights"):
        Repairer(overrides={"text": False})


@pytest.mark.parametrize(("width", "taken"), [(5, True), (6, False), (None, False)])
def test_stored_features_go_to_a_prior_that_takes_them(width, taken):
    class Keeping(Halving):
        feature_width = width

        def repair(self, slices, conditioning):
            self.biplanar = conditioning.biplanar
            return slices[:, 0]

    features = torch.rand(1, 2, 5)
    made = repairer(Keeping())
    made.repair(TRUTH, *MEASURED, features=features)
    assert (made.prior.biplanar.shape == features.shape) is taken
    assert not taken or torch.equal(made.prior.biplanar, features)
    made.repair(TRUTH, *MEASURED)
    assert made.prior.biplanar.ndim == 4


def test_a_prior_that_takes_the_noise_gets_it_where_the_weights_tell_it():
    class Listening(Adding):
        def __init__(self, noise):
            super().__init__()
            self.noise, self.heard = noise, []

        def repair(self, slices, conditioning):
            self.heard.append(conditioning.noise)
            return super().repair(slices, conditioning)

    weights = torch.linspace(1, 100, 16).expand(8, 16, 16).contiguous()
    for noise in (True, False):
        made = repairer(Listening(noise), batch_size=64)
        repaired = made.repair(0.9 * TRUTH, *MEASURED, weights=weights).volume
        evidence = residual_evidence(0.9 * TRUTH, *MEASURED, weights)
        torch.testing.assert_close(repaired, (0.9 * TRUTH + evidence.residual).clamp(0, 1))
        expected = evidence.noise[:, None].clamp(max=1) if noise else torch.zeros(1, 1, 1, 1)
        torch.testing.assert_close(made.prior.heard[0], expected)
    made = repairer(Listening(True))
    made.repair(0.9 * TRUTH, *MEASURED)
    assert not made.prior.heard[0].any()
