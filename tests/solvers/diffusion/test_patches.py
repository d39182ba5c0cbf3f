"""Patch diffusion with priors whose posterior is known: where it ends, what it is told, and that it goes on."""

import importlib

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from torch.nn import functional as F

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.diffusion import patches

GRID = VolumeGrid((9, 8, 10), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(3),
    source_to_axis_mm=80.0,
    source_to_detector_mm=120.0,
    detector_shape=(4, 5),
    pixel_mm=7.5,
)
VARIANCE = 0.04


class PlacedDenoiser(GaussianDenoiser):
    """Knows a mean of every voxel of the volume, which it finds by the coordinates alone."""

    dimensions = 3
    patch = 4

    def __init__(self, mean: torch.Tensor, variance: float) -> None:
        super().__init__(0.0, variance)
        self.volume, self.contexts = 2.0 * mean - 1.0, []

    def predict(self, noisy, step, told=None):
        last = torch.tensor(self.volume.shape).view(3, 1, 1, 1) - 1
        z, y, x = ((told["coordinates"] + 1) / 2 * last).round().long().unbind(dim=1)
        self.mean = self.volume[z, y, x][:, None]
        self.contexts.append(told["context"])
        return super().predict(noisy, step, told)


def drawn(seed: int) -> torch.Tensor:
    return torch.rand(GRID.shape, generator=torch.Generator().manual_seed(seed))


def rms(volume: torch.Tensor) -> float:
    return float(volume.double().square().mean().sqrt())


def test_a_prior_that_knows_the_truth_gives_it():
    """Wherever the tilings begin: patches come from and go to the places that the prior is told."""
    truth = drawn(0)
    projections = project(truth, GRID, SCAN)
    for seed in range(3):
        prior = PlacedDenoiser(truth, 0.0)
        found = patches(projections, GRID, SCAN, prior, steps=3, seed=seed)
        assert rms(found - truth) < 1e-4


def test_the_posterior_mean_of_exact_projections(monkeypatch):
    """The mean of the prior moved by the least change that explains them; 3 % of the prior's deviation in 50 steps.

    Without noise: since everything is linear, what is returned is the mean of what noise would give.
    """
    module = importlib.import_module("diffnr_lightning.solvers.diffusion.sampling")
    monkeypatch.setattr(module, "slice_noise", lambda _, like, *__: 0.0 * like)
    mean, generator = drawn(1), torch.Generator().manual_seed(2)
    truth = mean + VARIANCE**0.5 * torch.randn(GRID.shape, generator=generator)
    projections = project(truth, GRID, SCAN)
    missing = (projections - project(mean, GRID, SCAN)).double().flatten()
    units = torch.eye(mean.numel()).reshape(-1, *GRID.shape)
    matrix = torch.stack([project(unit, GRID, SCAN).flatten() for unit in units], dim=1)
    change = torch.linalg.lstsq(matrix.double(), missing, driver="gelsd").solution
    wanted = mean + change.reshape(GRID.shape)
    options = {"cg_iterations": 10, "nonnegative": False, "batch_size": 64, "tilings": 2}
    found = patches(projections, GRID, SCAN, PlacedDenoiser(mean, VARIANCE), **options)
    assert rms(found - wanted) < 0.03 * VARIANCE**0.5
    assert rms(found - wanted) < 0.1 * rms(mean - wanted)


def test_patches_see_the_noisy_volume_as_in_training():
    """Resampled without padding, with voxels that fill the volume, and the same for all patches of a step."""
    projections, denoiser, state = project(drawn(0), GRID, SCAN), PlacedDenoiser(drawn(1), 0.1), {}
    seen = []

    def note(*_):
        seen.append((state["noisy"], len(denoiser.contexts)))

    options = {"steps": 2, "batch_size": 16, "state": state, "progress": note}
    patches(projections, GRID, SCAN, denoiser, **options)
    noisy, before = seen[0]
    wanted = F.interpolate(noisy[None, None], (4, 4, 4), mode="trilinear", align_corners=False)
    told = torch.cat(denoiser.contexts[before:])
    torch.testing.assert_close(told, wanted.expand_as(told))


def test_a_killed_sampler_goes_on_to_an_equal_volume():
    projections, denoiser = project(drawn(0), GRID, SCAN), PlacedDenoiser(drawn(1), VARIANCE)
    options = {"steps": 6, "seed": 3, "batch_size": 64}

    def kill(done, *_):
        if done == 3:
            raise KeyboardInterrupt

    whole, state = patches(projections, GRID, SCAN, denoiser, **options), {}
    with pytest.raises(KeyboardInterrupt):
        patches(projections, GRID, SCAN, denoiser, state=state, progress=kill, **options)
    assert state["done"] == 3
    resumed = patches(projections, GRID, SCAN, denoiser, state=state, **options)
    assert torch.equal(resumed, whole)
    assert not torch.equal(
        patches(projections, GRID, SCAN, denoiser, **{**options, "seed": 4}), whole
    )
    with pytest.raises(ValueError, match="state is that of a sampler with tilings 1; 2"):
        patches(projections, GRID, SCAN, denoiser, state=state, tilings=2, **options)


def test_weights_and_a_warm_start_count():
    truth = drawn(0)
    projections, denoiser = project(truth, GRID, SCAN), PlacedDenoiser(drawn(1), VARIANCE)
    options = {"steps": 3, "eta": 0.0, "batch_size": 64}
    plain = patches(projections, GRID, SCAN, denoiser, **options)
    weights = torch.exp(-4.0 * projections / projections.max())
    assert (
        rms(patches(projections, GRID, SCAN, denoiser, weights=weights, **options) - plain) > 1e-4
    )
    warm = patches(projections, GRID, SCAN, denoiser, initial=truth, start=0.02, **options)
    assert rms(warm - truth) < 0.5 * rms(plain - truth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoiser": GaussianDenoiser()}, "the denoiser is one of 2 dimensions; one of patches"),
        ({"grid": VolumeGrid((9, 3, 9), 2.0)}, r"shape \(9, 3, 9\) and a patch .* of 4 voxels"),
        ({"tilings": 0}, "tilings is 0"),
        ({"eta": 1.5}, "eta is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_refusals_say_what_was_expected(options, message):
    given = {"grid": GRID, "denoiser": PlacedDenoiser(drawn(1), VARIANCE)} | options
    with pytest.raises(ValueError, match=message):
        patches(torch.zeros(3, 4, 5), scan=SCAN, **given)
