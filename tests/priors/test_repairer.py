from dataclasses import replace

import numpy as np
import pytest
import torch
from blob_scan import GRID, PROJECTIONS, SCAN, TRUTH, Halving

from diffnr_lightning.consistency import agree, align, unexplained, with_unseen_of
from diffnr_lightning.priors import Repairer
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import backprojected_residual, residual_evidence

MEASURED = (PROJECTIONS, GRID, SCAN)
WEIGHTS = torch.full_like(PROJECTIONS, 100.0)


def noisy() -> tuple:
    noise = torch.randn(PROJECTIONS.shape, generator=torch.Generator().manual_seed(6))
    return PROJECTIONS + noise / WEIGHTS.sqrt(), GRID, SCAN


class Adding(Halving):
    """A prior that adds the residual that it is given."""

    residual = True

    def repair(self, slices, conditioning):
        return (slices + conditioning.residual)[:, 0].clamp(0, 1)


def repairer(prior=None, **options):
    made = Repairer(**options)
    made.prior = prior or Halving()
    return made


def test_slices_of_all_planes_are_repaired_in_batches():
    made = repairer(planes=("axial", "sagittal"), batch_size=4)
    repaired = made.repair(TRUTH, *MEASURED)
    torch.testing.assert_close(repaired.volume, 0.5 * TRUTH)
    assert repaired.agreement is None
    calls = made.prior.calls
    assert {plane for plane, _, _ in calls} == {0, 2}
    assert sum(n for plane, n, _ in calls if plane == 0) == 10
    assert sum(n for plane, n, _ in calls if plane == 2) == 14
    assert max(n for _, n, _ in calls) == 4
    assert {views for _, _, views in calls} == {8.0}


def test_a_prior_is_lent_to_the_device_of_the_volume():
    """As a GPU, whose memory others need, such as the next method of a curation."""

    class Elsewhere(Halving):
        def __init__(self):
            super().__init__()
            self.weight, self.moves = torch.nn.Parameter(torch.empty(1, device="meta")), []

        def to(self, device):
            self.moves.append(str(device))

        def repair(self, slices, conditioning):
            self.moves.append("asked")
            return super().repair(slices, conditioning)

    made = repairer(Elsewhere(), batch_size=10)
    made.repair(TRUTH, *MEASURED)
    assert made.prior.moves == ["cpu", "asked", "meta"]


def test_an_aligned_repair_fits_the_projections_better():
    plain, aligned = (repairer(align_iterations=n).repair(TRUTH, *MEASURED).volume for n in (0, 8))
    torch.testing.assert_close(aligned, align(plain, *MEASURED, iterations=8))
    residuals = [(project(v, GRID, SCAN) - PROJECTIONS).norm() for v in (plain, aligned)]
    assert residuals[1] < 0.9 * residuals[0]


def test_a_repair_explains_the_projections_as_well_as_what_it_repaired():
    measured = noisy()
    plain = repairer().repair(TRUTH, *measured, weights=WEIGHTS)
    held = repairer(consistency="agreement").repair(TRUTH, *measured, weights=WEIGHTS)
    level = unexplained(TRUTH, *measured, weights=WEIGHTS)
    expected = agree(plain.volume, *measured, weights=WEIGHTS, level=level)
    torch.testing.assert_close(held.volume, expected.volume)
    assert held.agreement.level == level
    assert held.agreement.after < 0.2 * held.agreement.before
    assert (held.volume - TRUTH).norm() < 0.5 * (plain.volume - TRUTH).norm()


def test_a_repair_that_the_projections_contradict_is_the_last(caplog):
    caplog.set_level("INFO", "diffnr")
    halving = repairer(consistency="agreement", passes=3)
    assert len(list(halving.each_pass(TRUTH, *noisy(), weights=WEIGHTS))) == 1
    assert "contradict" in caplog.text
    # One that leaves volumes as they are is never contradicted.
    harmless = repairer(Adding(), consistency="agreement", passes=3)
    assert len(list(harmless.each_pass(TRUTH, *noisy(), weights=WEIGHTS))) == 3


def test_without_weights_a_repair_is_aligned_instead_and_says_so(caplog):
    plain = repairer().repair(TRUTH, *MEASURED).volume
    held = repairer(consistency="agreement").repair(TRUTH, *MEASURED)
    torch.testing.assert_close(held.volume, align(plain, *MEASURED))
    assert held.agreement is None
    assert caplog.text.count("the noise of the rays is not known") == 1


def test_only_what_the_projections_do_not_see_of_a_repair_is_taken():
    whole = repairer().repair(TRUTH, *MEASURED).volume
    taken = repairer(consistency="null_space").repair(TRUTH, *MEASURED).volume
    torch.testing.assert_close(taken, with_unseen_of(TRUTH, whole, GRID, SCAN).clamp(min=0))
    changes = [(project(v, GRID, SCAN) - PROJECTIONS).norm() for v in (whole, taken)]
    assert changes[1] < 0.1 * changes[0]


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


class Differing(Halving):
    """A prior that adds 0.1 to what it sees, and a part of that less in axial slices and more in coronal ones."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def repair(self, slices, conditioning):
        return slices[:, 0] + 0.1 + 0.1 * self.part * (float(conditioning.plane[0]) * 2 - 1)


@pytest.mark.parametrize(("part", "passes"), [(0.5, 4), (0.9, 2)])
def test_passes_follow_while_planes_agree_on_what_they_change(part, passes, caplog):
    caplog.set_level("INFO", "diffnr")
    planes = ("axial", "coronal")
    made = repairer(Differing(part), planes=planes, passes=2, most_passes=4)
    steps = list(made.each_pass(0.1 * TRUTH + 0.03, *MEASURED))
    assert [step.passes for step in steps] == list(range(1, passes + 1))
    assert ("the planes differ" in caplog.text) == (passes == 2)


def test_a_further_pass_that_the_projections_undo_is_left_out(caplog, monkeypatch):
    caplog.set_level("INFO", "diffnr")
    made = repairer(planes=("axial", "coronal"), passes=2, most_passes=4)
    # What is held to the projections lies as far on the other side as the prior went.
    monkeypatch.setattr(made, "_held", lambda before, after, *_, **__: (2 * before - after, None))
    (only,) = made.each_pass(0.4 * TRUTH, *MEASURED)
    assert "pass 2 is left out" in caplog.text
    torch.testing.assert_close(only.volume, 0.6 * TRUTH)


def test_a_scan_without_filtered_backprojection_is_repaired_without_the_residual(caplog):
    climb = np.linspace(-4, 4, len(SCAN))[:, None] * [0.0, 0.0, 1.0]
    helix = replace(SCAN, source_mm=SCAN.source_mm + climb, detector_mm=SCAN.detector_mm + climb)
    repaired = repairer(Adding()).repair(TRUTH, PROJECTIONS, GRID, helix).volume
    torch.testing.assert_close(repaired, TRUTH)
    assert "no residual can be backprojected" in caplog.text


@pytest.mark.parametrize("wrong", [{"passes": 3, "planes": ("axial", "coronal")}, {"passes": 1}])
def test_most_passes_need_planes_and_no_more_passes_before(wrong):
    with pytest.raises(ValueError, match="most_passes is 2"):
        Repairer(most_passes=2, **wrong)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="passes is 0"):
        Repairer(passes=0)
    with pytest.raises(ValueError, match="consistency is 'blind'"):
        Repairer(consistency="blind")
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
