"""What projections see of a change: laws of a split of space in two."""

import pytest
import torch
from peak_memory import peak
from peak_memory import scan_of as scan_around

from diffnr_lightning.consistency import visible_part, with_unseen_of
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((3, 6, 7), 4.0)
CHANGE = torch.randn(GRID.shape, generator=torch.Generator().manual_seed(3))
ALL = {"tolerance": 0.0, "directions": 100}


def scan_of(views: int) -> ScanGeometry:
    return ScanGeometry.cone(
        angles_rad=uniform_angles(views),
        source_to_axis_mm=70.0,
        source_to_detector_mm=100.0,
        detector_shape=(5, 10),
        pixel_mm=5.0,
    )


def norm(array: torch.Tensor) -> float:
    return float(array.norm())


def test_what_is_not_seen_does_not_show():
    scan = scan_of(3)
    whole = visible_part(CHANGE, GRID, scan, **ALL)
    shown = project(CHANGE, GRID, scan)
    assert norm(project(whole.unseen, GRID, scan)) < 2e-3 * norm(shown)
    loose = visible_part(CHANGE, GRID, scan, tolerance=0.1, directions=100)
    assert norm(project(loose.unseen, GRID, scan)) < 0.2 * norm(shown)


@pytest.mark.parametrize("options", [{"directions": 3}, {"directions": 12}, ALL])
def test_the_parts_are_perpendicular_and_make_the_whole(options):
    parts = visible_part(CHANGE, GRID, scan_of(4), **options)
    torch.testing.assert_close(parts.seen + parts.unseen, CHANGE)
    energies = [norm(p) ** 2 for p in (parts.seen, parts.unseen, CHANGE)]
    assert energies[0] + energies[1] == pytest.approx(energies[2], rel=1e-4)
    assert parts.unseen_share == pytest.approx(energies[1] / energies[2], rel=1e-4)


def test_what_is_seen_is_seen_again():
    once = visible_part(CHANGE, GRID, scan_of(3), **ALL)
    twice = visible_part(once.seen, GRID, scan_of(3), **ALL)
    assert norm(twice.seen - once.seen) < 0.1 * norm(
        once.seen
    )  # what is hardly seen is on either side
    assert visible_part(once.unseen, GRID, scan_of(3), directions=5).unseen_share > 0.95


def test_more_views_leave_less_unseen():
    shares = [visible_part(CHANGE, GRID, scan_of(n), **ALL).unseen_share for n in (2, 4, 8)]
    assert 1 > shares[0] > shares[1] > shares[2] > 0


def test_views_of_no_weight_see_nothing():
    scan = scan_of(4)
    weights = torch.ones(4, 5, 10)
    weights[2:] = 0
    masked = visible_part(CHANGE, GRID, scan, weights=weights, **ALL)
    two = visible_part(CHANGE, GRID, scan[torch.arange(2)], **ALL)
    assert masked.unseen_share == pytest.approx(two.unseen_share, abs=0.01)
    double = visible_part(CHANGE, GRID, scan, weights=weights.double(), **ALL)
    assert torch.equal(double.seen, masked.seen)
    with pytest.raises(ValueError, match="weights lie from nan"):
        visible_part(CHANGE, GRID, scan, weights=weights.log().sqrt())


def test_little_is_held_beside_the_directions():
    """Neither a copy of the change in float64, nor the directions while the parts are made."""
    grid, scan, change = VolumeGrid((32,) * 3, 1.0), scan_around(32, 8), torch.randn(32, 32, 32)
    found = peak(lambda: visible_part(change, grid, scan, tolerance=0.0, directions=6))
    assert found < 4 * ((6 + 6) * 32**3 + 7 * 8 * 32**2)


def test_no_change_has_no_parts():
    parts = visible_part(torch.zeros(GRID.shape), GRID, scan_of(2))
    assert not parts.seen.any() and not parts.unseen.any() and parts.unseen_share == 0


def test_a_repair_in_the_null_space_leaves_the_projections():
    scan = scan_of(3)
    volume = CHANGE + 4
    repaired = volume.clone()
    repaired[1:2, 2:4, 3:5] += 2
    taken = with_unseen_of(volume, repaired, GRID, scan)
    before, whole = (project(v, GRID, scan) for v in (volume, repaired))
    assert norm(project(taken, GRID, scan) - before) < 0.15 * norm(whole - before)
    assert norm(taken - volume) > 0.2 * norm(repaired - volume)


@pytest.mark.parametrize("wrong", [{"tolerance": -0.1}, {"directions": 0}])
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="visible_part got"):
        visible_part(CHANGE, GRID, scan_of(2), **wrong)
