"""The loop with a prior of several steps."""

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser

from diffnr_lightning import workflows
from diffnr_lightning.callbacks import SampledReference
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.priors import DdsRepairer, dds_repairer
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import VoxelGrid
from diffnr_lightning.workflows import Problem, Scene, Trial
from diffnr_lightning.workflows.command_line.settings import parse

GRID = VolumeGrid((6, 8, 8), 1.0)
SCAN = ScanGeometry.parallel(
    angles_rad=uniform_angles(3, 180), detector_shape=(6, 12), pixel_mm=1.0
)


@pytest.fixture
def truth(monkeypatch) -> torch.Tensor:
    """An object that the denoiser of every folder knows nearly."""
    truth = torch.zeros(GRID.shape)
    truth[1:5, 2:6, 2:6] = 0.7
    denoiser = GaussianDenoiser(truth[:, None], 1e-4)
    monkeypatch.setattr(dds_repairer, "load_denoiser", lambda _: denoiser)
    return truth


@pytest.mark.filterwarnings("ignore")
def test_a_scene_is_drawn_to_what_the_sampler_makes_of_it(truth):
    problem = Problem(project(truth, GRID, SCAN), SCAN, GRID)
    reference = SampledReference(DdsRepairer(), every_share=0.5, repairs=1)
    plain, guided = (
        Scene(VoxelGrid, iterations=20, pseudo_reference=made).reconstruct(problem)
        for made in (None, reference)
    )
    assert reference.made == 1
    # Each of five steps asks for all slices once.
    assert reference.evaluations == 5
    assert (guided - truth).square().mean() < (plain - truth).square().mean()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("finish", "repairs"), [("query", 2), ("repair", 3)])
def test_a_scene_says_how_often_the_denoiser_was_asked(truth, finish, repairs):
    problem = Problem(project(truth, GRID, SCAN), SCAN, GRID)
    reference = SampledReference(DdsRepairer(steps=2), every=2, repairs=2)
    scene = Scene(VoxelGrid, iterations=5, pseudo_reference=reference, finish=finish)
    for _ in range(2):  # a scene may serve several scans
        scene.reconstruct(problem)
        assert scene.findings["evaluations"] == 2 * repairs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("worst", "asked"), [(1e9, 2 * (1 + 3)), (1e-9, 2 * 1)])
def test_what_a_trial_asks_for_is_counted_too(truth, worst, asked):
    """Its repair comes before those of the reconstruction, which there are none of where the prior is left out."""
    scan = SCAN[[0, 1, 2, 0, 1, 2]]
    problem = Problem(project(truth, GRID, scan), scan, GRID)
    reference = SampledReference(DdsRepairer(steps=2), every=2, repairs=2)
    trial = Trial(views=1, iterations=2, worst=worst)
    scene = Scene(VoxelGrid, iterations=5, pseudo_reference=reference, finish="repair", trial=trial)
    for _ in range(2):
        scene.reconstruct(problem)
        assert scene.findings["evaluations"] == asked


def test_the_count_goes_on_with_a_run_where_it_was_begun(truth):
    reference = SampledReference(DdsRepairer())
    reference.evaluations = 7.5
    kept = reference.state_dict()
    resumed = SampledReference(DdsRepairer())
    resumed.load_state_dict(kept)
    assert resumed.evaluations == 7.5
    # A checkpoint of a version that did not count.
    resumed.load_state_dict({"made": 1, "first": truth})
    assert resumed.evaluations is None
    resumed.load_state_dict({"made": 0, "first": None})
    assert resumed.evaluations == 0


@pytest.mark.usefixtures("truth")
def test_the_overlay_exchanges_the_prior_of_the_paper_s_loop(tmp_path):
    where = [f"--case={tmp_path}", "--out=run"]
    loop, ours = (
        parse(workflows.reconstruct, [f"--config=r2gaussian+diffnr/{name}", *where])
        for name in ("loop", "dds_repair")
    )
    made = ours.arguments["method"].pseudo_reference
    assert isinstance(made, SampledReference)
    assert (made.every, made.repairs) == (740, 1)
    for settings in (loop, ours):
        settings.resolved["method"]["init_args"].pop("pseudo_reference")
    assert ours.resolved["method"] == loop.resolved["method"]
    options = ["--method.pseudo_reference.sampler.steps=3", *where]
    fewer = parse(workflows.reconstruct, ["--config=r2gaussian+diffnr/dds_repair", *options])
    assert fewer.arguments["method"].pseudo_reference.repairer.options["steps"] == 3
