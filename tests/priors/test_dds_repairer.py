"""A repair by a few steps of DDS is that of the sampler, and its options are refused before a scene is fitted."""

from pathlib import Path

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.priors import (
    CompactDenoiser,
    DdsRepairer,
    PatchDenoiser,
    dds_repairer,
    save_denoiser,
)
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.diffusion import dds

GRID = VolumeGrid((6, 8, 8), 1.0)
SCAN = ScanGeometry.parallel(
    angles_rad=uniform_angles(3, 180), detector_shape=(6, 12), pixel_mm=1.0
)
TRUTH = torch.zeros(GRID.shape)
TRUTH[1:5, 2:6, 2:6] = 0.7
PROJECTIONS = project(TRUTH, GRID, SCAN)


def error(volume: torch.Tensor) -> float:
    return float((volume - TRUTH).square().mean().sqrt())


@pytest.fixture
def blurred() -> torch.Tensor:
    return torch.nn.functional.avg_pool3d(TRUTH[None], 3, 1, 1)[0]


def known(monkeypatch, **options) -> DdsRepairer:
    """A repairer whose denoiser knows the truth nearly, in single slices in their order."""
    denoiser = GaussianDenoiser(TRUTH[:, None], 1e-4)
    monkeypatch.setattr(dds_repairer, "denoiser_folder", Path)
    monkeypatch.setattr(dds_repairer, "load_denoiser", lambda _: denoiser)
    return DdsRepairer("known", **options)


def test_it_starts_from_the_volume_at_its_share_of_the_schedule(monkeypatch, blurred):
    repairer = known(monkeypatch, steps=4, start=0.02, eta=0.0, seed=3)
    found = repairer.repair(blurred, PROJECTIONS, GRID, SCAN)
    assert [step for _, step, _ in repairer.denoiser.asked] == [15, 10, 5, 0]
    options = {"initial": blurred, "steps": 4, "start": 0.02, "eta": 0.0, "seed": 3}
    assert torch.equal(found.volume, dds(PROJECTIONS, GRID, SCAN, repairer.denoiser, **options))
    assert not found.contradicted
    assert error(found.volume) < 0.5 * error(blurred)


def test_the_weights_of_rays_say_how_far_their_noise_is_believed(monkeypatch, blurred):
    generator = torch.Generator().manual_seed(0)
    noisy = PROJECTIONS + 0.5 * torch.randn(PROJECTIONS.shape, generator=generator)
    weights = torch.full_like(noisy, 0.5**-2)
    errors = [
        error(repairer.repair(blurred, noisy, GRID, SCAN, weights=weights).volume)
        for repairer in (known(monkeypatch), known(monkeypatch, held=False))
    ]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.0}, "start is 0.0"),
        ({"steps": 30, "start": 0.02}, "30 steps below step 20"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"cg_iterations": 0}, "cg_iterations is 0"),
        ({"coupling": -1.0}, "coupling is -1.0"),
        ({"threshold": -1.0}, "threshold is -1.0"),
    ],
)
def test_options_are_refused_at_once(options, message, tmp_path):
    save_denoiser(tmp_path / "tiny", CompactDenoiser(channels=1, widths=(8,), gaps=0))
    DdsRepairer(tmp_path / "tiny")
    with pytest.raises(ValueError, match=message):
        DdsRepairer(tmp_path / "tiny", **options)


def test_denoisers_that_do_not_fit_are_refused_at_once(tmp_path):
    save_denoiser(tmp_path / "patches", PatchDenoiser(4, (8, 16), embedding=16))
    with pytest.raises(ValueError, match="is one of patches; one of slices is expected"):
        DdsRepairer(tmp_path / "patches")
    with pytest.raises(FileNotFoundError, match="is no folder and no denoiser of the package"):
        DdsRepairer(tmp_path / "nothing")
