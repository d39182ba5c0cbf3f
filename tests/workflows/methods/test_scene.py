"""A scene is fitted to rays as heavily as they are worth."""

import pytest
import torch

from diffnr_lightning.data import Noise, ScanRecipe, generate, simulate_case
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.representations import VoxelGrid
from diffnr_lightning.workflows import Problem, Scene

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def starved():
    """A chest whose middle lets hardly any photon through; truth and problem."""
    recipe = ScanRecipe(size=20, num_views=16, test_views=0, noise=Noise(mode="none"))
    case = simulate_case(generate("phantom:3", 20), recipe, name="chest")
    scale = 10.0 / float(case.projections.max())
    ideal = PhotonCounts.assumed(case.projections, 500.0, scale)
    counts = torch.poisson(ideal.counts, generator=torch.Generator().manual_seed(0))
    noisy = -torch.log(counts.clamp(min=1) / ideal.air) / scale
    photons = ideal._replace(counts=counts)
    return case.volume, Problem(
        noisy, case.scan, case.grid, seed=3, photons=photons, weights=photons.weights()
    )


def scene(iterations):
    return Scene(
        VoxelGrid,
        lambda *given: SceneOptimization(
            *given, lambda_ssim=0.1, rate_iterations=60, rate_scale=4, tv_size=20
        ),
        iterations,
    )


def test_weights_keep_starved_rays_out_of_the_volume(starved):
    truth, problem = starved
    errors = [
        float((scene(80).reconstruct(given) - truth).square().mean().sqrt())
        for given in (problem, problem._replace(weights=None))
    ]
    assert errors[0] < 0.96 * errors[1]


def test_equal_weights_give_the_textbook_fit(starved):
    _, problem = starved
    alike = problem._replace(weights=torch.full_like(problem.projections, 5.0))
    uniform = scene(30).reconstruct(problem._replace(weights=None))
    torch.testing.assert_close(scene(30).reconstruct(alike), uniform, atol=2e-3, rtol=0)


def test_a_representation_that_takes_weights_is_given_them(starved):
    """Others, as the voxels above, begin without."""
    _, problem = starved
    given = []

    class Calibrated(VoxelGrid):
        def initialise(self, volume, projections, scan, seed, weights=None):
            super().initialise(volume, projections, scan, seed)
            given.append(weights)

    one = Scene(Calibrated, SceneOptimization, 1)
    for weights in (problem.weights, None):
        one.fit(problem._replace(weights=weights))
    assert given[0] is problem.weights and given[1] is None


def test_a_part_of_the_views_keeps_its_photons_and_weights(starved):
    _, problem = starved
    views = torch.arange(16) % 4 != 1
    part = problem._replace(checkpoint="somewhere").of_views(views)
    assert part.checkpoint is None and len(part.scan) == 12
    assert torch.equal(part.projections, problem.projections[views])
    assert torch.equal(part.weights, problem.weights[views])
    assert torch.equal(part.photons.counts, problem.photons.counts[views])
