from types import SimpleNamespace

import pytest
import torch

from diffnr_lightning.callbacks import PseudoReference
from diffnr_lightning.data import ScanRecipe, generate, simulate_case
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.priors import Repairer
from diffnr_lightning.representations import GaussianCloud
from diffnr_lightning.workflows import Problem, Scene, Trial
from diffnr_lightning.workflows.methods.trial import Candidates, Verdict
from diffnr_lightning.workflows.runs.ongoing_run import OngoingRun
from diffnr_lightning.workflows.runs.run_folder import RunFolder

SIZE = 24


class Oracle(torch.nn.Module):
    """Gives the true slices, or something else of them."""

    context, size, biplanar_size, residual = 0, None, 64, False

    def __init__(self, truth, change):
        super().__init__()
        self.truth, self.change = truth, change

    def repair(self, slices, conditioning):
        places = ((conditioning.position + 1) / 2 * (len(self.truth) - 1)).round().long()
        return self.change(self.truth[places])


@pytest.fixture(scope="module")
def problem():
    recipe = ScanRecipe(size=SIZE, num_views=12, test_views=0)
    case = simulate_case(generate("phantom:3", SIZE), recipe, name="chest")
    return case.volume, Problem(case.projections, case.scan, case.grid, seed=5)


def scene(truth, change, trial):
    repairer = Repairer()
    repairer.prior = Oracle(truth, change)
    return Scene(
        lambda grid: GaussianCloud(grid, num_gaussians=500),
        lambda *given: SceneOptimization(*given, rate_scale=4, rate_iterations=60, tv_size=12),
        iterations=80,
        pseudo_reference=PseudoReference(repairer, every=60),
        finish="repair",
        trial=trial,
    )


def test_a_prior_that_helps_takes_part(problem):
    truth, given = problem
    tried = scene(truth, lambda slices: slices, Trial(views=2, iterations=40))
    assert torch.equal(tried.reconstruct(given), scene(truth, lambda s: s, None).reconstruct(given))
    verdict = tried.findings["trial"]
    assert tried.made == tried.iterations
    assert verdict["chosen"] == "repair" and verdict["after"] < 0.5 * verdict["before"]


def test_a_prior_that_harms_is_left_out(problem):
    truth, given = problem
    tried = scene(truth, lambda slices: 0.5 * slices, Trial(views=2, iterations=40))
    plain = scene(truth, lambda slices: slices, None)
    plain.pseudo_reference, plain.finish, plain.iterations = None, "query", 60
    assert torch.allclose(tried.reconstruct(given), plain.reconstruct(given), atol=1e-6)
    verdict = tried.findings["trial"]
    assert verdict["chosen"] == "fit" and verdict["after"] > verdict["before"]
    assert tried.made == tried.pseudo_reference.every < tried.iterations


class KnownVolume:
    """A start that is given."""

    def __init__(self, volume):
        self.volume = volume

    def reconstruct(self, problem):
        return self.volume


def test_a_start_that_predicts_the_views_best_is_the_result(problem):
    truth, given = problem
    tried = scene(truth, lambda slices: 0.9 * slices, Trial(views=2, iterations=40))
    tried.start = KnownVolume(truth)
    assert torch.equal(tried.reconstruct(given), truth)
    verdict = tried.findings["trial"]
    assert verdict["chosen"] == "start" and tried.made == 0
    assert verdict["start"] < min(verdict["before"], verdict["after"])


@pytest.mark.parametrize(("better", "chosen"), [(True, "repair"), (False, "fit")])
def test_a_resumed_run_goes_on_by_the_verdict_of_before(
    better, chosen, problem, tmp_path, monkeypatch
):
    """Views that are all but as well predicted by both may judge otherwise on another machine."""
    truth, given = problem
    case = SimpleNamespace(volume=truth)
    folder = RunFolder(tmp_path, {})

    def run(stop_at):
        def progress(done, *_):
            if done == stop_at:
                raise RuntimeError("killed")

        tried = scene(truth, lambda s: s if better else 0.5 * s, Trial(views=2, iterations=40))
        kept = OngoingRun(folder, case, tmp_path, "", (slice(None),) * 3, progress, None, 10)
        return tried, tried.reconstruct(tried.record(kept).watched(given))

    with pytest.raises(RuntimeError, match="killed"):
        run(stop_at=50)
    other = Verdict(1.0, 1.0, 1.0, "fit" if better else "repair")
    monkeypatch.setattr(Trial, "judge", lambda *_: other)
    tried, resumed = run(stop_at=None)
    whole = scene(truth, lambda s: s if better else 0.5 * s, None)
    expected = whole.reconstruct(given) if better else whole.fit(given, 60, prior=False)
    assert torch.equal(resumed, expected if better else expected.query_volume())
    assert tried.findings["trial"]["chosen"] == chosen
    (tmp_path / "trial.json").write_text("{}")
    with pytest.raises(ValueError, match=r"trial\.json is damaged; remove it and the run's check"):
        run(stop_at=None)


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ((1.0, 2.0, 1.0), "repair"),
        ((1.0, 2.0, 1.5), "start"),
        ((2.0, 1.0, 1.5), "fit"),
        # Views that are explained exactly.
        ((0.0, 0.0, 0.0), "repair"),
        ((0.0, 1.0, 1.0), "start"),
    ],
)
def test_what_predicts_the_views_best_is_chosen(problem, errors, chosen):
    """Volumes of one value in a scan whose views show nothing have the squares of those values as errors."""
    _, given = problem
    nothing = given._replace(projections=torch.zeros_like(given.projections), weights=None)
    volumes = [torch.full(given.grid.shape, error**0.5) for error in errors]
    verdict = Trial(views=2).judge(nothing, lambda *_: Candidates(*volumes))
    assert verdict.chosen == chosen


def test_views_without_light_are_not_held_out(problem):
    """The middle one of 12 views would be the judge, and every ray of it has weight 0."""
    _, given = problem
    weights = torch.ones_like(given.projections)
    weights[4:8] = 0.0
    seen, volumes = [], Candidates(*[torch.zeros(given.grid.shape)] * 3)

    def candidates(rest, _):
        seen.append(rest.weights.flatten(1).any(dim=1).tolist())
        return volumes

    verdict = Trial(views=1).judge(given._replace(weights=weights), candidates)
    assert verdict.before > 0
    assert seen == [[True] * 4 + [False] * 4 + [True] * 3]
    weights[2:] = 0.0
    with pytest.raises(ValueError, match="2 views that saw light, of which the trial leaves out 1"):
        Trial(views=1).judge(given._replace(weights=weights), candidates)


def test_the_last_repair_explains_the_projections_as_well_as_what_it_repaired(problem):
    truth, given = problem
    made = scene(truth, lambda slices: 0.5 * slices, None)
    made.pseudo_reference.repairer.consistency = "agreement"
    weights = torch.full_like(given.projections, 100.0)
    made.reconstruct(given._replace(weights=weights))
    found = made.findings["agreement"]
    assert found["before"] > found["level"] > 0
    assert found["after"] < 1.02 * found["level"]
    assert not found["start_alone"]
    assert made.before_prior.shape == truth.shape
    assert not torch.equal(made.before_prior, made.pseudo_reference.repairer.prior.truth)


def test_a_scan_of_few_views_leaves_none_out(problem):
    truth, given = problem
    few = given._replace(projections=given.projections[:3], scan=given.scan[torch.arange(3)])
    with pytest.raises(ValueError, match="3 views, of which the trial leaves out 2"):
        scene(truth, lambda s: s, Trial(views=2)).reconstruct(few)


@pytest.mark.parametrize("wrong", [{"views": 0}, {"iterations": 0}, {"worst": 0.0}])
def test_trials_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="Trial got"):
        Trial(**wrong)


def test_a_trial_needs_a_prior():
    with pytest.raises(ValueError, match="no pseudo_reference"):
        Scene(trial=Trial())
