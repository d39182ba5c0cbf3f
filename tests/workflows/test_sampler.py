"""The method that samples with a denoiser from a folder."""

import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.priors import CompactDenoiser, save_denoiser
from diffnr_lightning.projectors import project
from diffnr_lightning.workflows import Problem, Sampler, Solver

GRID = VolumeGrid((9, 8, 8), 1.0)
SCAN = ScanGeometry.parallel(
    angles_rad=uniform_angles(3, 180), detector_shape=(9, 12), pixel_mm=1.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A denoiser that was not trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("denoiser") / "tiny"
    save_denoiser(path, CompactDenoiser(channels=3, widths=(8, 16), gaps=4))
    return path


@pytest.fixture(scope="module")
def problem() -> Problem:
    truth = torch.zeros(GRID.shape)
    truth[2:7, 2:6, 2:6] = 0.7
    return Problem(project(truth, GRID, SCAN), SCAN, GRID, seed=2)


@pytest.mark.parametrize("name", ["dds", "blend"])
def test_a_denoiser_of_a_folder_samples(name, folder, problem):
    calls = []
    watched = problem._replace(progress=lambda *call: calls.append(call[:2]))
    method = Sampler(name, folder, {"steps": 2})
    volume = method.reconstruct(watched)
    assert calls == [(1, 2), (2, 2)]
    assert volume.shape == GRID.shape
    assert torch.isfinite(volume).all()
    assert float(volume.min()) >= 0.0
    assert torch.equal(method.reconstruct(problem), volume)
    assert not torch.equal(method.reconstruct(problem._replace(seed=3)), volume)
    weighted = problem._replace(weights=torch.exp(-problem.projections))
    assert not torch.equal(method.reconstruct(weighted), volume)


def test_a_solver_gives_the_start(folder, problem):
    options = {"steps": 1, "cg_iterations": 1, "start": 0.01}
    start = Solver("sirt", {"iterations": 20})
    warm = Sampler("dds", folder, options, start).reconstruct(problem)
    cold = Sampler("dds", folder, options).reconstruct(problem)
    wanted = start.reconstruct(problem)
    assert float((warm - wanted).abs().mean()) < 0.5 * float((cold - wanted).abs().mean())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sirt", {}, "'sirt' is no sampler; one of blend, dds is expected"),
        ("dds", {"jumping": True}, "sampler dds has no option 'jumping'"),
        ("dds", {"seed": 1}, "sampler dds has no option 'seed'"),
        ("blend", {"stacks": "single"}, "sampler blend has no option 'stacks'"),
        ("blend", {"eta": "much"}, "option eta of sampler blend is 'much'"),
    ],
)
def test_refusals_say_what_was_expected(name, options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(name, None, options)


def test_a_sampler_without_a_denoiser_says_how_to_give_one(problem):
    with pytest.raises(ValueError, match=r"has no denoiser; give its folder by --method\."):
        Sampler().reconstruct(problem)
