"""What a prior made settles where noise alone is left, and stays as it is where it is there already."""

import pytest
import torch

from diffnr_lightning.callbacks import PseudoReference
from diffnr_lightning.consistency import unexplained
from diffnr_lightning.data import Noise, ScanRecipe, generate, simulate_case
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.priors import Repairer
from diffnr_lightning.representations import GaussianCloud
from diffnr_lightning.solvers import weighted_tv
from diffnr_lightning.workflows import Problem, Scene
from diffnr_lightning.workflows.methods import settling
from diffnr_lightning.workflows.methods.settling import settled

SIZE = 24


@pytest.fixture(scope="module")
def scanned():
    noise = Noise("physical", photons=3e4)
    recipe = ScanRecipe(size=SIZE, num_views=16, test_views=0, noise=noise)
    case = simulate_case(generate("phantom:5", SIZE), recipe, name="settling")
    photons = case.photons
    problem = Problem(case.projections, case.scan, case.grid, 1, photons=photons)
    return case.volume, problem._replace(weights=photons.weights())


def error(volume, truth) -> float:
    return float((volume - truth).square().mean())


def test_what_leaves_too_much_moves_until_noise_is_left(scanned):
    truth, problem = scanned
    # What a prior got wrong: a bone a bit too bright.
    wrong = truth + 0.15 * truth * (truth > 0.3)
    made = settled(wrong, problem)
    assert made.before > 2
    assert made.after == pytest.approx(1.0, abs=0.05) if made.share < 1 else made.after > 1
    assert made.after < 0.6 * made.before
    assert 0 < made.share <= 1
    given = {"weights": problem.weights, "photons": problem.photons}
    left = unexplained(made.volume, problem.projections, problem.grid, problem.scan, **given)
    assert left == pytest.approx(made.after, rel=1e-4)
    assert error(made.volume, truth) < 0.7 * error(wrong, truth)
    assert made.findings().keys() == {"before", "after", "share"}


def test_more_firmly_only_as_far_as_noise_explains(scanned, monkeypatch):
    truth, problem = scanned
    wrong = truth + 0.05 * truth * (truth > 0.3)
    measured = (problem.projections, problem.grid, problem.scan)

    def run(passes, strength):
        options = {"weights": problem.weights, "initial": wrong, "prior_image": wrong}
        volume = weighted_tv(*measured, iterations=passes, strength=strength, **options)
        return volume, unexplained(
            volume, *measured, weights=problem.weights, photons=problem.photons
        )

    (gentle, after), (firm, closer) = run(*settling.GENTLY), run(*settling.FIRMLY)
    assert closer < 0.95 * after
    monkeypatch.setattr(settling, "LEVEL", 0.5 * (closer + after))
    made = settled(wrong, problem)
    assert made.after == pytest.approx(settling.LEVEL, rel=0.01)
    torch.testing.assert_close(made.volume, wrong.lerp(firm, made.share))
    # Where the firmer one leaves more as well, the gentle one stands.
    monkeypatch.setattr(settling, "LEVEL", 0.9 * closer)
    made = settled(wrong, problem)
    assert (made.share, made.after) == (1.0, after)
    assert torch.equal(made.volume, gentle)


def test_what_explains_its_projections_stays(scanned):
    truth, problem = scanned
    dim = problem._replace(photons=None, weights=0.01 * problem.weights)
    made = settled(truth, dim)
    assert made.volume is truth
    assert made.share == 0
    assert made.before == made.after < 1


def test_a_scene_settles_at_its_end(scanned):
    _, problem = scanned

    class Brighter(torch.nn.Module):
        context, size, biplanar_size, residual = 0, None, 64, False

        def repair(self, slices, conditioning):
            return 1.2 * slices[:, 0]

    def scene(finish):
        repairer = Repairer(consistency="none")
        repairer.prior = Brighter()
        return Scene(
            lambda grid: GaussianCloud(grid, num_gaussians=300),
            lambda *given: SceneOptimization(*given, rate_iterations=20, tv_size=12),
            iterations=20,
            pseudo_reference=PseudoReference(repairer, every=60),
            finish=finish,
        )

    repaired, finished = scene("repair"), scene("settle")
    before = repaired.reconstruct(problem)
    after = finished.reconstruct(problem)
    assert "settled" not in repaired.findings
    assert torch.equal(after, settled(before, problem).volume)
    assert not torch.equal(after, before)
    assert finished.findings["settled"]["after"] < finished.findings["settled"]["before"]
    # Without the noise of rays nothing says when to stop.
    unknown = problem._replace(weights=None, photons=None)
    assert torch.equal(scene("settle").reconstruct(unknown), scene("repair").reconstruct(unknown))
