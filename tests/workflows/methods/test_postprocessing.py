"""A solver's volume, repaired once by a prior from a file."""

import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.priors import CompactSliceFixer, Repairer, bundled_weights, save_prior
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import analytic
from diffnr_lightning.workflows import Postprocessing, Problem, Solver
from diffnr_lightning.workflows.command_line.settings import parse

GRID = VolumeGrid((6, 12, 12), 1.0)
SCAN = ScanGeometry.parallel(
    angles_rad=uniform_angles(8, 180), detector_shape=(6, 18), pixel_mm=1.0
)


@pytest.fixture(scope="module")
def problem() -> Problem:
    truth = torch.zeros(GRID.shape)
    truth[:, 3:9, 4:8] = 0.6
    return Problem(project(truth, GRID, SCAN), SCAN, GRID)


@pytest.fixture
def weights(tmp_path):
    """Of a network that adds 0.25 to every slice."""
    torch.manual_seed(0)
    network = CompactSliceFixer(channels=[8, 16], embedding=16, biplanar=False)
    torch.nn.init.constant_(network.conv_out.bias, 0.25)
    save_prior(tmp_path / "weights.safetensors", network)
    return tmp_path / "weights.safetensors"


def test_the_network_corrects_what_the_solver_made(problem, weights):
    method = Postprocessing(repairer=Repairer(weights))
    plain = analytic(problem.projections, GRID, SCAN)
    found = method.reconstruct(problem)
    wanted = (plain.clamp(0, 1) + 0.25).clamp(0, 1)
    seen = plain.clamp(0, 1).amax(dim=(1, 2)) > 1e-3
    torch.testing.assert_close(found[seen], wanted[seen], rtol=0.0, atol=1e-3)
    assert torch.equal(method.before_prior, plain)
    other = Postprocessing(Solver("sirt", {"iterations": 2}), Repairer(weights))
    assert (other.reconstruct(problem) - found).abs().max() > 0.01


def test_the_command_line_gives_the_weights(problem, weights, tmp_path):
    from diffnr_lightning import workflows

    options = ["--config=fbp_unet", f"--case={tmp_path}", "--out=run"]
    method = parse(workflows.reconstruct, options).arguments["method"]
    assert method.learned == (bundled_weights("fbp_unet"),)
    options.append(f"--method.init_args.repairer.weights={weights}")
    method = parse(workflows.reconstruct, options).arguments["method"]
    assert method.learned == (weights,)
    assert method.repairer.prior.architecture["channels"] == [8, 16]
    with pytest.raises(ValueError, match=r"give those .* by --method\.init_args\.repairer"):
        Postprocessing().reconstruct(problem)
