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
from diffnr_lightning.workflows import Problem, Scene
from diffnr_lightning.workflows.settings import parse

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
    assert (guided - truth).square().mean() < (plain - truth).square().mean()


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
