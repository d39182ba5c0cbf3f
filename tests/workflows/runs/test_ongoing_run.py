"""What is kept of a method in its run: a method of the user's own can say so itself."""

import json

import pytest
import torch

from diffnr_lightning import cli
from diffnr_lightning.data import load_case
from diffnr_lightning.workflows import Method, Problem, Scene, reconstruct
from diffnr_lightning.workflows.methods.problem import MethodRecord
from diffnr_lightning.workflows.runs.ongoing_run import OngoingRun
from diffnr_lightning.workflows.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "case"
    words = ["simulate", "--volume", "phantom:3", "--size", "16", "--num_views", "4"]
    assert cli.main([*words, "--out", str(path)]) == 0
    return path


class Halves(Method):
    """A volume of one half; keeps nothing."""

    name = "halves"
    findings = {}

    def reconstruct(self, problem: Problem) -> torch.Tensor:
        self.given = problem
        return torch.full(problem.grid.shape, 0.5)


class KeptHalves(Halves):
    """The same, with a record."""

    def record(self, run: OngoingRun) -> MethodRecord:
        self.kept = Record(run)
        return self.kept


class Record(MethodRecord):
    steps = 3

    def __init__(self, run: OngoingRun) -> None:
        self.run, self.metrics_at_end = run, None

    def watched(self, problem: Problem) -> Problem:
        return problem._replace(progress=self.run.show, state={"done": 2})

    def metrics(self) -> dict[str, int]:
        return {"halves": 2}

    def finish(self) -> None:
        self.metrics_at_end = json.loads((self.run.folder.path / "metrics.json").read_text())


class Pictures:
    """A logger that takes nothing but pictures, and notes their steps."""

    name = "pictures"

    def __init__(self):
        self.steps, self.experiment = [], self

    def add_image(self, name, picture, step, **options):
        self.steps.append((name, step))


def test_a_method_keeps_nothing_unless_it_says_so(case, tmp_path):
    method = Halves()
    metrics = json.loads((reconstruct(case, tmp_path / "run", method) / "metrics.json").read_text())
    assert method.given.state is None and method.given.checkpoint is None
    assert "iterations" not in metrics and "history" not in metrics


def test_a_method_is_given_what_its_record_adds(case, tmp_path):
    method = KeptHalves()
    reconstruct(case, tmp_path / "run", method)
    assert method.given.state == {"done": 2}
    assert method.kept.metrics_at_end["halves"] == 2


def test_an_optimisation_is_kept_with_its_iterations(case, tmp_path):
    folder = RunFolder(tmp_path, {})
    run = OngoingRun(folder, load_case(case), case, "mine", (), print, None, 5)
    record = Scene(iterations=8, extension=0.25).record(run)
    assert record.metrics() == {"iterations": 10, "history": {}}
    assert record.steps == 10


def test_estimates_are_drawn_and_logged_without_the_pad(case, tmp_path):
    logger, loaded = Pictures(), load_case(case)
    inner = tuple(slice(1, n + 1) for n in loaded.grid.shape)
    folder = RunFolder(tmp_path, {})
    run = OngoingRun(folder, loaded, case, "mine", inner, print, logger, 5)
    wide = torch.rand([n + 2 for n in loaded.grid.shape])
    run.show(wide, 7)
    first = (tmp_path / "preview.png").read_bytes()
    run.draw(wide[inner])
    assert (tmp_path / "preview.png").read_bytes() == first
    assert logger.steps == [("preview", 7)]
    run._replace(curves=None).show(wide, 8)
    assert len(logger.steps) == 1


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.full((16, 16, 16), torch.nan), "halves returned a volume with NaN or infinite"),
        (torch.zeros(3, 3, 3), r"Tensor of shape \(3, 3, 3\); a Tensor of shape \(16, 16, 16\)"),
        (torch.zeros(16, 16, 16).numpy(), "returned a ndarray of shape"),
    ],
)
def test_what_is_no_volume_of_the_grid_is_refused(case, tmp_path, monkeypatch, returned, words):
    monkeypatch.setattr(Halves, "reconstruct", lambda self, problem: returned)
    with pytest.raises(ValueError, match=words):
        reconstruct(case, tmp_path / "run", Halves())
    assert not (tmp_path / "run").exists()
