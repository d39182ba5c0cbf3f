"""DINR: where the alternation ends, what holds the representation, and that it goes on where it was killed."""

import io

import pytest
import torch
from learning_denoiser import LearningDenoiser
from torch import nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import Siren
from diffnr_lightning.solvers.diffusion import dinr

GRID = VolumeGrid((2, 8, 8), 2.0)
SCAN = ScanGeometry.parallel(
    angles_rad=uniform_angles(3, 180), detector_shape=(2, 12), pixel_mm=2.0
)
OPTIONS = {"steps": 4, "updates": 2, "iterations": 40, "first_iterations": 40, "rank": 2}


class Voxels(nn.Module):
    """The voxels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(GRID.shape))

    def initialise(self, volume, projections, scan, seed):
        self.values.data.copy_(volume)

    def query(self, grid):
        return 1.0 * self.values

    def constrain(self):
        pass

    def parameter_groups(self):
        return [{"name": "voxels", "params": [self.values], "lr": 0.03}]


class Oracle(LearningDenoiser):
    """Knows the slices."""

    def __init__(self, truth: torch.Tensor) -> None:
        super().__init__()
        self.truth = 2.0 * truth[:, None] - 1.0

    def predict(self, noisy, step, told=None):
        signal, deviation = float(self.schedule.signal[step]), float(self.schedule.deviation[step])
        return (noisy - signal * (self.truth + self.learned(noisy))) / deviation


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return 0.2 + 0.5 * torch.rand(GRID.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def projections(truth) -> torch.Tensor:
    return project(truth, GRID, SCAN)


def rms(volume: torch.Tensor) -> float:
    return float(volume.square().mean().sqrt())


def test_a_denoiser_that_knows_the_truth_gives_it_as_far_as_rho_lets_it(truth, projections):
    errors, left = [], []
    for rho in (0.0, 1.0):
        volume = dinr(projections, GRID, SCAN, Oracle(truth), Voxels(), rho=rho, **OPTIONS)
        errors.append(rms(volume - truth))
        left.append(rms(project(volume, GRID, SCAN) - projections))
    assert errors[1] < 0.02
    assert errors[1] < 0.3 * errors[0]
    # Without rho the projections alone are fitted.
    assert left[0] < 0.05 * rms(projections)


def test_adaptation_brings_a_wrong_prior_to_the_projections(projections):
    left = []
    options = OPTIONS | {"updates": 8, "rho": 1.0, "first_iterations": 0, "iterations": 20}
    options["initial"] = torch.zeros(GRID.shape)
    for rate in (1e-9, 0.03):
        prior = LearningDenoiser(0.0, 1e-3)
        volume = dinr(projections, GRID, SCAN, prior, Voxels(), rate=rate, **options)
        left.append(rms(project(volume, GRID, SCAN) - projections))
    assert left[1] < 0.6 * left[0]


def test_omega_is_how_noisy_it_begins(truth, projections):
    seen = []

    class Watching(Oracle):
        def predict(self, noisy, step, told=None):
            seen.append((step, float(noisy.std())))
            return super().predict(noisy, step, told)

    for omega in (1.0, 0.1):
        options = OPTIONS | {"first_iterations": 1, "iterations": 1, "omega": omega}
        dinr(projections, GRID, SCAN, Watching(truth), Voxels(), **options)
    first = [spread for step, spread in seen if step == 750]
    assert first[-1] < 0.4 * first[0]


def test_a_killed_sampler_goes_on_and_leaves_the_prior_as_it_was(projections, monkeypatch):
    prior = LearningDenoiser(0.4, 0.01)
    options = OPTIONS | {"iterations": 2, "first_iterations": 2, "rate": 0.01}

    def kill(done, total, _):
        if (done, total) == (2, options["steps"]):
            raise KeyboardInterrupt

    def run(**more):
        return dinr(projections, GRID, SCAN, prior, Siren(GRID, width=8), **options | more)

    whole, state = run(), {}
    with pytest.raises(KeyboardInterrupt):
        run(state=state, progress=kill)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    state, calls = torch.load(file, weights_only=True), []
    # The first volume is not made again.
    monkeypatch.delattr("diffnr_lightning.solvers.initial.initial_volume")
    resumed = run(state=state, progress=lambda *call: calls.append(call[:2]))
    assert torch.equal(resumed, whole)
    assert calls == [(3, 4), (4, 4)]
    assert not prior.mid_block.weight.any()
    assert isinstance(prior.mid_block, nn.Conv2d)
    with pytest.raises(ValueError, match="sampler with representation"):
        dinr(projections, GRID, SCAN, prior, Siren(GRID, width=9), state=state, **options)


@pytest.mark.parametrize("kept_after", [3, 5])
def test_a_first_fit_shows_how_far_it_is_and_goes_on_where_it_was_killed(
    kept_after, projections, monkeypatch
):
    """Also where its last iteration was kept, and no step."""
    options = OPTIONS | {"first_iterations": 5, "iterations": 2}

    def run(**more):
        prior, representation = LearningDenoiser(0.4, 0.01), Siren(GRID, width=8)
        return dinr(projections, GRID, SCAN, prior, representation, **options | more)

    calls, file, state = [], io.BytesIO(), {}

    def kill(done, total, text):
        calls.append((done, total))
        assert text.startswith("first fit")
        if done == kept_after:
            torch.save(state, file)
            raise KeyboardInterrupt

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(state=state, progress=kill)
    assert calls == [(number, 5) for number in range(1, kept_after + 1)]
    file.seek(0)
    state, calls = torch.load(file, weights_only=True), []
    monkeypatch.delattr("diffnr_lightning.solvers.initial.initial_volume")
    resumed = run(state=state, progress=lambda *call: calls.append(call[:2]))
    assert torch.equal(resumed, whole)
    left = [(number, 5) for number in range(kept_after + 1, 6)]
    assert calls == left + [(number, 4) for number in range(1, 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"omega": -1.0}, "omega is -1.0"),
        ({"rho": -1.0}, "rho is -1.0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"updates": 0}, "updates 0"),
    ],
)
def test_refusals_say_what_was_expected(options, message, projections):
    with pytest.raises(ValueError, match=message):
        dinr(projections, GRID, SCAN, LearningDenoiser(), Voxels(), **options)


def test_a_representation_of_another_grid_is_refused(projections):
    other = Siren(VolumeGrid((3, 8, 8), 2.0), width=8)
    with pytest.raises(ValueError, match=r"grid is \(3, 8, 8\)"):
        dinr(projections, GRID, SCAN, LearningDenoiser(), other)


def test_what_cannot_be_adapted_is_refused_before_the_first_fit(projections, monkeypatch):
    monkeypatch.delattr(Voxels, "query")
    with pytest.raises(ValueError, match="rank is 0"):
        dinr(projections, GRID, SCAN, LearningDenoiser(), Voxels(), **OPTIONS | {"rank": 0})
