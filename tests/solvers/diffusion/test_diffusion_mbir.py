"""DiffusionMBIR with priors whose posterior is known: where it ends, how far samples lie apart, that it goes on."""

import importlib

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from small_scan import GRID, VARIANCE, cone, drawn, posterior_mean, rms

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.priors import NoiseSchedule
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import cgls
from diffnr_lightning.solvers.diffusion import diffusion_mbir

MEAN = (0.5 + 0.2 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).expand(
    GRID.shape
)
SCAN = cone(3, coarse=3)
PLAIN = {"coupling": 0.0, "nonnegative": False}


@pytest.fixture
def silent(monkeypatch):
    """No noise: what is returned is about the mean of what noise would give."""
    module = importlib.import_module("diffnr_lightning.solvers.diffusion.sampling")
    monkeypatch.setattr(module, "slice_noise", lambda _, like, *__: 0.0 * like)


@pytest.fixture(scope="module")
def projections() -> torch.Tensor:
    return project(MEAN + drawn(0) - 0.5, GRID, SCAN)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    "schedule", [None, NoiseSchedule.exploding(steps=1000)], ids=["preserving", "exploding"]
)
def test_the_posterior_mean_of_exact_projections(projections, schedule):
    """Within 1 % of the prior's deviation in 50 steps of one iteration each."""
    wanted = posterior_mean(MEAN, projections, SCAN)
    denoiser = GaussianDenoiser(MEAN[0], VARIANCE, schedule=schedule)
    found = diffusion_mbir(projections, GRID, SCAN, denoiser, steps=50, **PLAIN)
    assert rms(MEAN - wanted) > 0.2 * VARIANCE**0.5
    assert rms(found - wanted) < 0.01 * VARIANCE**0.5


def test_samples_lie_apart_as_the_posterior_says(projections):
    """Within 15 % in 100 steps: where rays see nothing, as voxels of the prior; the rest is explained."""
    denoiser = GaussianDenoiser(MEAN[0], VARIANCE)
    found = diffusion_mbir(projections, GRID, SCAN, denoiser, steps=100, seed=1, **PLAIN)
    wanted = posterior_mean(MEAN, projections, SCAN)
    unseen = (1.0 - projections.numel() / MEAN.numel()) ** 0.5
    assert rms(found - wanted) == pytest.approx(unseen * VARIANCE**0.5, rel=0.15)
    assert rms(project(found, GRID, SCAN) - projections) < 0.01 * rms(projections)


@pytest.mark.usefixtures("silent")
def test_a_prior_without_information_leaves_conjugate_gradients():
    """But for the last step, which is one of algebraic reconstruction."""
    scan = cone(6)
    projections = project(drawn(0), GRID, scan)
    wanted = cgls(projections, GRID, scan, iterations=6, nonnegative=False)
    options = {"steps": 1, "cg_iterations": 6, "initial": torch.zeros(GRID.shape)}
    once = diffusion_mbir(projections, GRID, scan, GaussianDenoiser(), **options, **PLAIN)
    assert rms(once - wanted) < 0.01 * rms(wanted)
    missing = rms(project(wanted, GRID, scan) - projections)
    assert rms(project(once, GRID, scan) - projections) < missing


def test_the_corrector_looks_at_the_level_that_the_predictor_reached(projections):
    denoiser = GaussianDenoiser(MEAN[0], VARIANCE)
    diffusion_mbir(projections, GRID, SCAN, denoiser, steps=4)
    assert [step for _, step, _ in denoiser.asked] == [750, 500, 500, 250, 250, 0, 0]
    denoiser.asked.clear()
    diffusion_mbir(projections, GRID, SCAN, denoiser, steps=4, snr=0.0, start=0.1)
    assert [step for _, step, _ in denoiser.asked] == [75, 50, 25, 0]


@pytest.mark.parametrize(("snr", "gaps"), [(0.16, [3, 1, 3, 1, 3]), (0.0, [3, 1, 3])])
def test_alternating_stacks_jump_at_every_second_evaluation(projections, snr, gaps):
    denoiser = GaussianDenoiser(0.5, VARIANCE, channels=3, gaps=4)
    options = {"steps": 3, "snr": snr, "stacks": "alternating"}
    diffusion_mbir(projections, GRID, SCAN, denoiser, **options)
    assert [gap for *_, gap in denoiser.asked] == gaps


def test_a_grid_that_no_ray_meets_is_left_to_the_prior(projections):
    above = VolumeGrid(GRID.shape, GRID.voxel_mm, (0.0, 0.0, 500.0))
    denoiser = GaussianDenoiser(0.5, VARIANCE)
    found, same = (
        diffusion_mbir(measured, above, SCAN, denoiser, steps=3)
        for measured in (projections, 0.0 * projections)
    )
    assert torch.isfinite(found).all()
    assert torch.equal(found, same)


def test_variation_between_slices_takes_jitter_away(projections):
    denoiser = GaussianDenoiser(MEAN[0], VARIANCE)

    def jitter(**options):
        return rms(torch.diff(diffusion_mbir(projections, GRID, SCAN, denoiser, **options), dim=0))

    assert jitter(steps=20, coupling=0.1, threshold=0.02) < 0.9 * jitter(steps=20, coupling=0.0)


def test_a_killed_sampler_goes_on_to_an_equal_volume(projections):
    denoiser = GaussianDenoiser(0.5, VARIANCE, channels=3, gaps=4)
    options = {"steps": 5, "stacks": "adjacent", "slice_noise_kind": "correlated", "seed": 3}

    def kill(done, total, _):
        if done == 2:
            raise KeyboardInterrupt

    whole = diffusion_mbir(projections, GRID, SCAN, denoiser, **options)
    state, calls = {}, []
    with pytest.raises(KeyboardInterrupt):
        diffusion_mbir(projections, GRID, SCAN, denoiser, state=state, progress=kill, **options)
    options |= {"state": state, "progress": lambda *call: calls.append(call[:2])}
    assert torch.equal(diffusion_mbir(projections, GRID, SCAN, denoiser, **options), whole)
    assert calls == [(3, 5), (4, 5), (5, 5)]
    with pytest.raises(ValueError, match=r"state is that of a sampler with snr 0\.16; 0\.1 is"):
        diffusion_mbir(projections, GRID, SCAN, denoiser, snr=0.1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snr": 0.6}, "snr is 0.6; a number from 0 to 0.5"),
        ({"start": 0.0}, "start is 0.0"),
        ({"cg_iterations": 0}, "cg_iterations is 0"),
        ({"stacks": "single"}, "stacks is single and the denoiser sees 3"),
        ({"threshold": -1.0}, "threshold is -1.0"),
    ],
)
def test_refusals_say_what_was_expected(projections, options, message):
    with pytest.raises(ValueError, match=message):
        diffusion_mbir(projections, GRID, SCAN, GaussianDenoiser(channels=3), **options)
