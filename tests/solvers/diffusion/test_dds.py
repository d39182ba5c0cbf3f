"""DDS with priors whose posterior is known: where it ends, what it is told, and that it goes on where it was killed."""

import importlib
import io

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from small_scan import GRID, VARIANCE, cone, drawn, posterior_mean, rms, system

from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import cgls
from diffnr_lightning.solvers.diffusion import dds


@pytest.fixture
def silent(monkeypatch):
    """No noise: since everything is linear, what is returned is the mean of what noise would give."""
    module = importlib.import_module("diffnr_lightning.solvers.diffusion.sampling")
    monkeypatch.setattr(module, "slice_noise", lambda _, like, *__: 0.0 * like)


@pytest.mark.usefixtures("silent")
def test_a_prior_without_information_leaves_conjugate_gradients():
    scan = cone(6)
    projections = project(drawn(0), GRID, scan)
    wanted = cgls(projections, GRID, scan, iterations=6, nonnegative=False)
    options = {"cg_iterations": 6, "coupling": 0.0, "nonnegative": False, "eta": 0.0}
    options["initial"] = torch.zeros(GRID.shape)
    once = dds(projections, GRID, scan, GaussianDenoiser(), steps=1, **options)
    assert rms(once - wanted) < 1e-3 * rms(wanted)
    often = dds(projections, GRID, scan, GaussianDenoiser(), steps=8, **options)
    missing = rms(project(wanted, GRID, scan) - projections)
    assert rms(project(often, GRID, scan) - projections) < 0.5 * missing


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("eta", [0.0, 0.85])
def test_the_posterior_mean_of_exact_projections(eta):
    """The mean of the prior moved by the least change that explains them; 3 % of the prior's deviation in 50 steps."""
    scan = cone(3, coarse=3)
    mean = 0.5 + 0.2 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    wide = mean.expand(GRID.shape).contiguous()
    projections = project(wide + drawn(0) - 0.5, GRID, scan)
    wanted = posterior_mean(wide, projections, scan)
    denoiser = GaussianDenoiser(mean, VARIANCE)
    options = {"cg_iterations": 10, "coupling": 0.0, "nonnegative": False}
    found = dds(projections, GRID, scan, denoiser, eta=eta, **options)
    assert rms(found - wanted) < 0.03 * VARIANCE**0.5
    assert rms(found - wanted) < 0.1 * rms(wide - wanted)


@pytest.mark.usefixtures("silent")
def test_the_posterior_mean_of_noisy_projections():
    """Within 2 % of the prior's deviation in 100 steps with corrected noise, and not without it."""
    scan, noise = cone(4), 1.0
    clean = project(drawn(0), GRID, scan)
    projections = clean + noise * torch.randn(
        clean.shape, generator=torch.Generator().manual_seed(2)
    )
    matrix = system(scan)
    normal = matrix.T @ matrix / noise**2 + torch.eye(9 * 8 * 8).double() / VARIANCE
    missing = projections.double().flatten() - matrix @ torch.full((9 * 8 * 8,), 0.5).double()
    wanted = 0.5 + torch.linalg.solve(normal, matrix.T @ missing / noise**2).reshape(GRID.shape)
    denoiser = GaussianDenoiser(0.5, VARIANCE, scale=(0.0, 1.0))
    options = {"steps": 100, "coupling": 0.0, "nonnegative": False, "eta": 0.0}
    options |= {"noise": noise, "spread": VARIANCE**0.5}
    found = dds(projections, GRID, scan, denoiser, corrected=True, **options)
    assert rms(found - wanted) < 0.02 * VARIANCE**0.5
    published = dds(projections, GRID, scan, denoiser, **options)
    assert rms(published - wanted) > 0.1 * VARIANCE**0.5


@pytest.mark.parametrize("stacks", ["single", "alternating"])
def test_a_killed_sampler_goes_on_to_an_equal_volume(stacks):
    scan = cone(4)
    projections = project(drawn(0), GRID, scan)
    denoiser = GaussianDenoiser(0.5, VARIANCE, channels=3, gaps=4)
    options = {"steps": 6, "stacks": stacks, "slice_noise_kind": "correlated", "seed": 3}

    def kill(done, total, _):
        if done == 3:
            raise KeyboardInterrupt

    whole = dds(projections, GRID, scan, denoiser, **options)
    state = {}
    with pytest.raises(KeyboardInterrupt):
        dds(projections, GRID, scan, denoiser, state=state, progress=kill, **options)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    state, calls = torch.load(file, weights_only=True), []
    assert state["estimate"].shape == GRID.shape
    resumed = dds(
        projections,
        GRID,
        scan,
        denoiser,
        state=state,
        progress=lambda *c: calls.append(c),
        **options,
    )
    assert [call[:2] for call in calls] == [(4, 6), (5, 6), (6, 6)]
    assert torch.equal(resumed, whole)
    assert torch.equal(dds(projections, GRID, scan, denoiser, state=state, **options), whole)
    options["seed"] = 4
    assert not torch.equal(dds(projections, GRID, scan, denoiser, **options), whole)
    with pytest.raises(ValueError, match="state is that of a sampler with seed 3; 4 is expected"):
        dds(projections, GRID, scan, denoiser, state=state, **options)


def test_variation_between_slices_and_shared_noise_take_jitter_away():
    scan = cone(3)
    projections = project(torch.full(GRID.shape, 0.5), GRID, scan)
    denoiser = GaussianDenoiser(0.5, VARIANCE)

    def jitter(**options):
        volume = dds(projections, GRID, scan, denoiser, steps=15, **options)
        return rms(torch.diff(volume, dim=0))

    plain = jitter(coupling=0.0)
    assert jitter(coupling=0.1, threshold=0.02) < 0.9 * plain
    assert jitter(coupling=0.0, slice_noise_kind="correlated") < 0.6 * plain


def test_a_warm_start_begins_in_the_middle_of_the_schedule():
    scan, truth = cone(3), drawn(0)
    projections = project(truth, GRID, scan)
    denoiser = GaussianDenoiser(0.5, VARIANCE)
    options = {"steps": 4, "coupling": 0.0, "eta": 0.0, "nonnegative": False}
    cold = dds(projections, GRID, scan, denoiser, **options)
    assert [step for _, step, _ in denoiser.asked] == [750, 500, 250, 0]
    denoiser.asked.clear()
    warm = dds(projections, GRID, scan, denoiser, initial=truth, start=0.02, **options)
    assert [step for _, step, _ in denoiser.asked] == [15, 10, 5, 0]
    assert rms(warm - truth) < 0.5 * rms(cold - truth)


def test_the_denoiser_sees_the_stacks_that_were_asked_for():
    projections = project(drawn(0), GRID, cone(3))
    seen = {}
    for stacks in (None, "single", "centred", "adjacent", "alternating"):
        denoiser = GaussianDenoiser(0.5, VARIANCE, channels=3, gaps=4)
        dds(projections, GRID, cone(3), denoiser, steps=2, cg_iterations=1, stacks=stacks)
        seen[stacks] = [(channels, gap) for channels, _, gap in denoiser.asked]
    assert seen[None] == seen["single"] == [(1, 0), (1, 0)]
    assert seen["centred"] == seen["adjacent"] == [(3, 1), (3, 1)]
    assert seen["alternating"] == [(3, 3), (3, 1)]
    untold = GaussianDenoiser(0.5, VARIANCE, channels=3)
    dds(projections, GRID, cone(3), untold, steps=1, cg_iterations=1)
    assert untold.asked[0][0] == 3


def test_weights_move_the_volume():
    projections = project(drawn(0), GRID, cone(3))
    denoiser = GaussianDenoiser(0.5, VARIANCE)
    options = {"steps": 3, "eta": 0.0}
    weights = torch.exp(-4.0 * projections / projections.max())
    plain = dds(projections, GRID, cone(3), denoiser, **options)
    assert rms(dds(projections, GRID, cone(3), denoiser, weights=weights, **options) - plain) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 1.5}, "eta is 1.5"),
        ({"start": 0.0}, "start is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 400, "start": 0.1}, "400 steps below step 100"),
        ({"stacks": "pairs"}, "stacks is 'pairs'"),
        ({"stacks": "single"}, "stacks is single and the denoiser sees 3"),
        ({"stacks": "alternating"}, "tells 0 gaps apart"),
        ({"spread": 0.0}, "spread is 0.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"coupling": -1.0}, "coupling is -1.0"),
        ({"coupling": 0.0, "slicewise": True}, "rays pass through several slices"),
    ],
)
def test_refusals_say_what_was_expected(options, message):
    projections = project(drawn(0), GRID, cone(3))
    with pytest.raises(ValueError, match=message):
        dds(projections, GRID, cone(3), GaussianDenoiser(channels=3), **options)
