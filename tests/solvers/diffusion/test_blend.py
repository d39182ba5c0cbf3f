"""DiffusionBlend: stacks in the order of the paper, and what becomes of slices whose prior knows stacks alone."""

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.diffusion import blend, dds

GRID = VolumeGrid((9, 6, 6), 2.0)
SCAN = ScanGeometry.parallel(angles_rad=uniform_angles(2, 180), detector_shape=(9, 9), pixel_mm=2.0)


class Neighbours(GaussianDenoiser):
    """Knows that the slices of a stack are equal."""

    def predict(self, noisy, step, told=None):
        super().predict(noisy, step, told)
        signal, deviation = float(self.schedule.signal[step]), float(self.schedule.deviation[step])
        clean = noisy.mean(dim=1, keepdim=True) / signal
        return (noisy - signal * clean) / deviation


@pytest.fixture(scope="module")
def projections() -> torch.Tensor:
    disc = torch.zeros(GRID.shape)
    disc[:, 1:5, 2:5] = 0.6
    return project(disc, GRID, SCAN)


def test_steps_jump_and_stay_in_turn(projections):
    prior = GaussianDenoiser(0.5, 0.04, channels=3, gaps=4)
    blend(projections, GRID, SCAN, prior, steps=4, cg_iterations=1, batch_size=99)
    assert [gap for *_, gap in prior.asked] == [3, 1, 3, 1]
    prior.asked.clear()
    blend(projections, GRID, SCAN, prior, jumping=False, steps=2, cg_iterations=1, batch_size=4)
    assert [(channels, gap) for channels, _, gap in prior.asked] == [(3, 1)] * 6


@pytest.mark.parametrize("jumping", [True, False])
def test_a_prior_of_stacks_draws_all_slices_together(projections, jumping):
    """Slices of a stack alone are equal; since stacks differ from step to step, in the end all are."""
    prior = Neighbours(channels=3, gaps=4)
    options = {"steps": 20, "cg_iterations": 2, "seed": 1}

    def jitter(volume: torch.Tensor) -> float:
        return float(torch.diff(volume, dim=0).square().mean().sqrt())

    alone = dds(projections, GRID, SCAN, prior, stacks="single", **options)
    blended = blend(projections, GRID, SCAN, prior, jumping=jumping, **options)
    assert jitter(blended) < 0.1 * jitter(alone)


def test_a_denoiser_of_single_slices_is_refused(projections):
    with pytest.raises(ValueError, match="the denoiser sees 1 slice at once"):
        blend(projections, GRID, SCAN, GaussianDenoiser())
    with pytest.raises(ValueError, match="tells 2 gaps apart"):
        blend(projections, GRID, SCAN, GaussianDenoiser(channels=3, gaps=2))
