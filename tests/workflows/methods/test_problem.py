"""What methods are given, and of what the rest of a scan is taken away."""

import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import Surroundings, diffusion
from diffnr_lightning.workflows import Problem, Sampler, Solver
from diffnr_lightning.workflows.methods.postprocessing import Postprocessing

GRID = VolumeGrid((6, 12, 12), 3.0)
CONE = ScanGeometry.cone(
    angles_rad=uniform_angles(5),
    source_to_axis_mm=200.0,
    source_to_detector_mm=300.0,
    detector_shape=(8, 14),
    pixel_mm=4.5,
)


def test_rays_are_as_strong_as_they_are_behind_the_surroundings():
    wide, inner = GRID.enlarged(0.5)
    rest = torch.rand(wide.shape, generator=torch.Generator().manual_seed(1))
    rest[inner] = 0.0
    around = Surroundings(rest, wide)
    volume = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(0))
    projections = project(volume, GRID, CONE) + around.project(CONE)
    photons = PhotonCounts.assumed(projections + 1.0, 1e4, 0.02)
    problem = Problem(projections, CONE, GRID, photons=photons, surroundings=around)
    inside = problem.without_surroundings()
    shown = project(volume, GRID, CONE)
    total = photons.chi_square(problem.shown(volume, CONE))
    assert float(total.min()) > 0.1
    torch.testing.assert_close(inside.photons.chi_square(shown), total, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(inside.projections, shown, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(problem.shown(volume, CONE), projections)
    assert inside.surroundings is None and inside.without_surroundings() is inside
    expected = around.project(CONE).sum() / projections.sum()
    assert problem.surrounding_share() == pytest.approx(float(expected))


@pytest.mark.parametrize("name", diffusion.__all__)
def test_samplers_fit_the_projections(name):
    assert Sampler(name).fits


def test_what_only_filters_leaves_the_rest_of_the_object_to_its_filter():
    assert not any(Solver(name).fits for name in ("fdk", "fbp", "analytic"))
    assert not Postprocessing().fits
    assert Solver("sirt").fits and Postprocessing(Solver("weighted_tv")).fits
