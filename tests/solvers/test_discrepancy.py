import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import allowed_share

GRID = VolumeGrid((10, 12, 12), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(6),
    source_to_axis_mm=100.0,
    source_to_detector_mm=150.0,
    detector_shape=(16, 18),
    pixel_mm=3.0,
)


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(0)
    truth, start, change = (torch.rand(GRID.shape, generator=generator) for _ in range(3))
    return truth, truth + 0.05 * start, truth + 0.5 * change


def mean_square(volume, projections):
    return float((project(volume, GRID, SCAN) - projections).square().mean())


def test_the_residual_meets_its_bound(volumes):
    truth, start, changed = volumes
    projections = project(truth, GRID, SCAN)
    before, shares = mean_square(start, projections), []
    for tolerance in (0.0, 0.3, 2.0):
        share = allowed_share(start, changed, projections, GRID, SCAN, tolerance=tolerance)
        after = mean_square(torch.lerp(start, changed, share), projections)
        assert after == pytest.approx((1 + tolerance) * before, rel=1e-3)
        shares.append(share)
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] < 1


def test_what_fits_better_is_taken_whole(volumes):
    truth, start, changed = volumes
    projections = project(truth, GRID, SCAN)
    assert allowed_share(changed, start, projections, GRID, SCAN, tolerance=0.0) == 1
    assert allowed_share(start, start, projections, GRID, SCAN, tolerance=0.0) == 1


def test_what_leads_away_at_once_is_refused(volumes):
    truth, _, changed = volumes
    projections = project(truth, GRID, SCAN)
    share = allowed_share(truth, changed, projections, GRID, SCAN, tolerance=0.5)
    assert share == pytest.approx(0.0, abs=1e-4)


def test_a_negative_tolerance(volumes):
    with pytest.raises(ValueError, match="tolerance is -1"):
        allowed_share(*volumes[:2], project(volumes[0], GRID, SCAN), GRID, SCAN, tolerance=-1)
