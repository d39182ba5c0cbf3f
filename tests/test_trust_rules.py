"""The share of a repair that projections explain best, which the comparison of rules of trust takes."""

import importlib

import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((10, 12, 12), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(6),
    source_to_axis_mm=100.0,
    source_to_detector_mm=150.0,
    detector_shape=(16, 18),
    pixel_mm=3.0,
)


@pytest.fixture
def best_share(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "experiments" / "trust"))
    return importlib.import_module("rules").best_share


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(0)
    truth, start, change = (torch.rand(GRID.shape, generator=generator) for _ in range(3))
    return truth, truth + 0.05 * start, truth + 0.5 * change


def mean_square(volume, projections):
    return float((project(volume, GRID, SCAN) - projections).square().mean())


def test_no_other_share_explains_more(best_share, volumes):
    truth, start, changed = volumes
    projections = project(truth, GRID, SCAN)
    beyond = 2 * truth - changed
    share = best_share(start, beyond, projections, GRID, SCAN)
    assert 0 < share < 1
    best = mean_square(torch.lerp(start, beyond, share), projections)
    for other in (0.0, 0.9 * share, 1.1 * share, 1.0):
        assert mean_square(torch.lerp(start, beyond, other), projections) > best


def test_what_the_projections_support_or_do_not_see_is_taken_whole(best_share, volumes):
    truth, start, changed = volumes
    projections = project(truth, GRID, SCAN)
    assert best_share(changed, start, projections, GRID, SCAN) == 1
    assert best_share(start, start, projections, GRID, SCAN) == 1


def test_what_leads_away_at_once_is_refused(best_share, volumes):
    truth, start, _ = volumes
    projections = project(truth, GRID, SCAN)
    away = start + (start - truth)
    assert best_share(start, away, projections, GRID, SCAN) == 0


def test_weights_count_rays_as_often_as_they_say(best_share, volumes):
    """Weights of 3 and 1 are as three copies of some views and one of the others."""
    truth, start, changed = volumes
    beyond, projections = 2 * truth - changed, project(truth, GRID, SCAN)
    weights = torch.ones_like(projections)
    weights[:2] = 3.0
    often = [0, 0, 0, 1, 1, 1, 2, 3, 4, 5]
    assert best_share(start, beyond, projections, GRID, SCAN, 7.0 * weights) == pytest.approx(
        best_share(start, beyond, projections[often], GRID, SCAN[often]), rel=1e-5
    )
