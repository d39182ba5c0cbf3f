"""SCD and DDIP3D: what a slab is held to, what adaptation brings, and that nothing of it stays behind."""

import io

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from learning_denoiser import LearningDenoiser

from diffnr_lightning.consistency import LeastSquares
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.priors import CompactDenoiser
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.diffusion import ddip3d, scd
from diffnr_lightning.solvers.diffusion.adaptation import SlabLoss, drawn_slabs, side_by_side
from diffnr_lightning.solvers.diffusion.lora import adapted

GRID = VolumeGrid((8, 8, 8), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(4),
    source_to_axis_mm=60.0,
    source_to_detector_mm=90.0,
    detector_shape=(13, 12),
    pixel_mm=2.5,
)
SAMPLERS = {
    "scd": (scd, {"steps": 4, "updates": 2, "every": 2, "slices": 3, "rank": 2}),
    "ddip3d": (ddip3d, {"steps": 4, "updates": 2, "slices": 3, "rank": 2}),
}


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return 0.5 + 0.02 * torch.randn(GRID.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def projections(truth) -> torch.Tensor:
    return project(truth, GRID, SCAN)


def rms(volume: torch.Tensor) -> float:
    return float(volume.double().square().mean().sqrt())


class Oracle(LearningDenoiser):
    """Knows the slices."""

    def __init__(self, truth: torch.Tensor) -> None:
        super().__init__()
        self.truth = 2.0 * truth - 1.0

    def predict(self, noisy, step, told=None):
        signal, deviation = float(self.schedule.signal[step]), float(self.schedule.deviation[step])
        place = self.place if len(noisy) < len(self.truth) else slice(None)
        clean = self.truth[place, None] + self.learned(noisy)
        return (noisy - signal * clean) / deviation


def test_a_slab_of_a_cone_beam_is_held_to_what_the_others_leave(truth, projections):
    fit = LeastSquares.weighted(projections, GRID, SCAN, None, 1.0)
    oracle, noisy = Oracle(truth), torch.randn(GRID.shape)
    for iterations in (0, 2):
        loss = SlabLoss(fit, 1.0 / fit.largest(), oracle, iterations=iterations)
        loss.hold(truth)
        oracle.place = slice(2, 5)
        assert loss(noisy, 500, oracle.place) < 1e-10
        assert loss._rows[2, 5] != slice(0, 13)
        loss.hold(truth + 0.3 * (torch.arange(8) == 6)[:, None, None])
        assert loss(noisy, 500, oracle.place) > 1e-8
    # Air beside the detector is no reason to end.
    high = SCAN.window(slice(0, 1))
    beside = LeastSquares.weighted(projections[:, :1], GRID, high, None, 1.0)
    loss = SlabLoss(beside, 1.0, oracle, iterations=1)
    loss.hold(truth)
    oracle.place = slice(0, 2)
    assert loss(noisy, 500, oracle.place) < 1e-6


def test_adaptation_lowers_the_residual(truth, projections):
    """Of a prior that expects less than there is."""
    fit = LeastSquares.weighted(projections, GRID, SCAN, None, 1.0)
    denoiser = LearningDenoiser(0.1, 1e-3)
    loss = SlabLoss(fit, 1.0 / fit.largest(), denoiser, iterations=1)
    loss.hold(torch.full(GRID.shape, 0.5))
    noisy = denoiser.schedule.add_noise(2 * truth - 1, torch.randn(GRID.shape), 500)
    with adapted(denoiser, 1, 0, biases=True) as adapter:
        before = loss(noisy, 500, slice(0, 8)).detach()
        adapter.tune(lambda _: loss(noisy, 500, slice(0, 8)), updates=40, rate=0.05)
        assert loss(noisy, 500, slice(0, 8)) < 0.5 * before


@pytest.mark.parametrize("name", SAMPLERS)
def test_adaptation_brings_a_wrong_prior_nearer_to_the_truth(name, truth, projections):
    sampler, options = SAMPLERS[name]
    few, scan = projections[:2], SCAN[:2]
    options = options | {"steps": 6, "updates": 8, "cg_iterations": 1, "slices": 8, "rank": 4}
    options["initial"] = torch.zeros(GRID.shape)
    errors, left = [], []
    for rate in (1e-9, 0.1):
        denoiser = LearningDenoiser(0.1, 1e-4)
        volume = sampler(few, GRID, scan, denoiser, rate=rate, **options)
        errors.append(rms(volume - truth))
        left.append(rms(project(volume, GRID, scan) - few))
    assert errors[1] < 0.7 * errors[0]
    assert left[1] < 0.5 * left[0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_denoiser_that_knows_the_truth_gives_it(name, truth, projections):
    sampler, options = SAMPLERS[name]
    oracle = Oracle(truth)
    # Slices that are all the volume has, so that the oracle knows which they are.
    options = options | {"slices": 8, "nonnegative": False}
    if name == "scd":
        options["variation"] = 0.0
    volume = sampler(projections, GRID, SCAN, oracle, **options)
    assert rms(volume - truth) < 1e-3


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_killed_sampler_goes_on_and_leaves_the_prior_as_it_was(name, projections, monkeypatch):
    sampler, options = SAMPLERS[name]
    torch.manual_seed(0)
    denoiser = CompactDenoiser(channels=1, widths=(8,), gaps=0).eval().requires_grad_(False)
    weights = {name: value.clone() for name, value in denoiser.state_dict().items()}

    def kill(done, total, _):
        if done == 2:
            raise KeyboardInterrupt

    def run(**more):
        return sampler(projections, GRID, SCAN, denoiser, seed=3, **options | more)

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
    assert calls == [(3, 4), (4, 4)]
    assert torch.equal(resumed, whole)
    assert torch.equal(run(state=state), whole)
    assert all(torch.equal(value, weights[n]) for n, value in denoiser.state_dict().items())
    with pytest.raises(ValueError, match="state is that of a sampler with rank 2; 3 is expected"):
        run(state=state, rank=3)


def test_slabs_lie_in_the_volume():
    assert side_by_side(8, 3) == [slice(0, 3), slice(3, 6), slice(6, 8)]
    drawn = drawn_slabs(8, 3, 50, 1, 2)
    assert {place.stop - place.start for place in drawn} == {3}
    assert {place.start for place in drawn} == set(range(6))
    assert drawn == drawn_slabs(8, 3, 50, 1, 2) != drawn_slabs(8, 3, 50, 1, 3)
    assert drawn_slabs(2, 3, 1, 0, 0) == [slice(0, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate is 0.0"),
        ({"updates": 0}, "updates 0"),
        ({"slices": 0}, "slices 0"),
        ({"rank": 0}, "rank is 0"),
        ({"eta": 2.0}, "eta is 2.0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
@pytest.mark.parametrize("sampler", [scd, ddip3d])
def test_refusals_say_what_was_expected(sampler, options, message, projections):
    with pytest.raises(ValueError, match=message):
        sampler(projections, GRID, SCAN, LearningDenoiser(), **options)


@pytest.mark.parametrize("sampler", [scd, ddip3d])
def test_a_denoiser_of_stacks_is_refused(sampler, projections):
    with pytest.raises(ValueError, match="the denoiser is one of 3 channels"):
        sampler(projections, GRID, SCAN, GaussianDenoiser(channels=3))
