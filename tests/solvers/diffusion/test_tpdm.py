"""TPDM with priors whose posterior is known: where it ends, which planes it looks at, and that it goes on."""

import importlib

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from small_scan import GRID, VARIANCE, cone, drawn, posterior_mean, rms

from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import cgls
from diffnr_lightning.solvers.diffusion import tpdm

COLUMNS = 0.5 + 0.2 * torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
SCAN = cone(3, coarse=3)


class PlaneDenoiser(GaussianDenoiser):
    """Remembers the shapes of its slices, and knows the rows of coronal ones."""

    rows: torch.Tensor | None = None

    def predict(self, noisy, step, told=None):
        self.asked.append(tuple(noisy.shape))
        if self.rows is not None:
            self.mean = self.rows if noisy.shape[-2] == GRID.shape[0] else -1.0
        noise = super().predict(noisy, step, told)
        self.asked.pop()
        return noise


@pytest.fixture
def silent(monkeypatch):
    """No noise: what is returned is about the mean of what noise would give."""
    module = importlib.import_module("diffnr_lightning.solvers.diffusion.sampling")
    monkeypatch.setattr(module, "slice_noise", lambda _, like, *__: 0.0 * like)


@pytest.fixture(scope="module")
def projections() -> torch.Tensor:
    return project(COLUMNS.expand(GRID.shape) + drawn(0) - 0.5, GRID, SCAN)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("iterations", [1, 10])
def test_the_posterior_mean_of_exact_projections(projections, iterations):
    """Within 1 % of the prior's deviation in 25 steps, however few iterations each has."""
    mean = COLUMNS.expand(GRID.shape)
    wanted = posterior_mean(mean, projections, SCAN)
    denoiser = GaussianDenoiser(COLUMNS, VARIANCE)
    options = {"steps": 25, "cg_iterations": iterations, "nonnegative": False}
    found = tpdm(projections, GRID, SCAN, denoiser, **options)
    assert rms(mean - wanted) > 0.2 * VARIANCE**0.5
    assert rms(found - wanted) < 0.01 * VARIANCE**0.5


@pytest.mark.usefixtures("silent")
def test_a_prior_without_information_leaves_conjugate_gradients():
    scan = cone(6)
    projections = project(drawn(0), GRID, scan)
    wanted = cgls(projections, GRID, scan, iterations=6, nonnegative=False)
    options = {"steps": 1, "cg_iterations": 6, "snr": 0.0, "nonnegative": False}
    options["initial"] = torch.zeros(GRID.shape)
    found = tpdm(projections, GRID, scan, GaussianDenoiser(), **options)
    assert rms(found - wanted) < 1e-3 * rms(wanted)


def test_planes_come_in_turn_or_at_random_and_the_last_is_axial(projections):
    def planes(**options):
        denoiser = PlaneDenoiser(0.5, VARIANCE)
        tpdm(projections, GRID, SCAN, denoiser, batch_size=9, **options)
        return [shape[-2:] for shape in denoiser.asked]

    axial, coronal = (8, 8), (9, 8)
    found = planes(steps=6, every=3.0, snr=0.0)
    assert found == [axial, axial, coronal, axial, axial, axial]
    twice = planes(steps=3, every=2.0)
    assert twice == [axial, axial, coronal, coronal, axial, axial]
    share = planes(steps=200, snr=0.0, cg_iterations=1).count(coronal) / 200
    assert share == pytest.approx(1 / 2.7, abs=0.08)


@pytest.mark.parametrize(
    ("snr", "axial", "coronal"),
    [(0.0, [3, 1, 3, 1], [3, 1]), (0.16, [3, 1, 3, 1, 3, 1, 3, 1], [3, 1, 3, 1])],
)
def test_alternating_stacks_jump_at_every_second_evaluation_of_a_plane(
    projections, monkeypatch, snr, axial, coronal
):
    """Not at every axial one and no coronal one, as planes in turn would have it by the number of the step."""
    module = importlib.import_module("diffnr_lightning.solvers.diffusion.tpdm")
    predicted, gaps = module.predicted_noise, {8: [], 9: []}

    def watching(noisy, step, denoiser, seen, batch_size):
        gaps[len(noisy)].append(seen.gap)
        return predicted(noisy, step, denoiser, seen, batch_size)

    monkeypatch.setattr(module, "predicted_noise", watching)
    denoiser = GaussianDenoiser(0.5, VARIANCE, channels=3, gaps=4)
    options = {"steps": 6, "every": 2.0, "snr": snr, "stacks": "alternating"}
    tpdm(projections, GRID, SCAN, denoiser, **options)
    assert (gaps[9], gaps[8]) == (axial, coronal)


@pytest.mark.usefixtures("silent")
def test_what_the_coronal_prior_knows_lies_along_z():
    """Axial slices alone would all be 0, as the projections are."""
    denoiser = PlaneDenoiser(0.0, VARIANCE)
    denoiser.rows = torch.linspace(-1.0, 1.0, GRID.shape[0])[:, None]
    nothing = torch.zeros(len(SCAN), *SCAN.detector_shape)
    options = {"steps": 40, "every": 2.0, "nonnegative": False}
    found = tpdm(nothing, GRID, SCAN, denoiser, **options)
    along_z, along_y = (found.mean(dim=axes).diff().mean() for axes in ((1, 2), (0, 2)))
    assert float(along_z) > 0.003
    assert abs(float(along_y)) < 0.1 * float(along_z)


def test_a_killed_sampler_goes_on_to_an_equal_volume(projections):
    denoiser = GaussianDenoiser(0.5, VARIANCE, channels=3, gaps=4)
    options = {"steps": 4, "stacks": "adjacent", "slice_noise_kind": "correlated", "seed": 3}

    def kill(done, total, _):
        if done == 5:
            raise KeyboardInterrupt

    whole = tpdm(projections, GRID, SCAN, denoiser, **options)
    state, calls = {}, []
    with pytest.raises(KeyboardInterrupt):
        tpdm(projections, GRID, SCAN, denoiser, state=state, progress=kill, **options)
    options |= {"state": state, "progress": lambda *call: calls.append(call[:2])}
    assert torch.equal(tpdm(projections, GRID, SCAN, denoiser, **options), whole)
    assert calls == [(6, 8), (7, 8), (8, 8)]
    with pytest.raises(ValueError, match=r"state is that of a sampler with every 2\.7; 2\.0 is"):
        tpdm(projections, GRID, SCAN, denoiser, every=2.0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 1.0}, "every is 1.0; a number above 1"),
        ({"snr": -0.1}, "snr is -0.1"),
        ({"steps": 0}, "steps is 0"),
        ({"stacks": "alternating"}, "tells 0 gaps apart"),
        ({"noise": -1.0}, "noise is -1.0"),
    ],
)
def test_refusals_say_what_was_expected(projections, options, message):
    with pytest.raises(ValueError, match=message):
        tpdm(projections, GRID, SCAN, GaussianDenoiser(channels=3), **options)
