"""What lies around a grid."""

import pytest
import torch
from balls import ball_integrals

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import cgls, meets_the_ends, scan_truncation, surroundings
from diffnr_lightning.solvers.truncation import axial_reach

FIELD_MM = 18.75
GRID = VolumeGrid((6, 20, 20), 2 * FIELD_MM / 20)
VIEWS = {"angles_rad": uniform_angles(24), "detector_shape": (12, 24)}
CONE = ScanGeometry.cone(
    source_to_axis_mm=200.0, source_to_detector_mm=300.0, pixel_mm=1.5 * 2 * FIELD_MM / 24, **VIEWS
)
PARALLEL = ScanGeometry.parallel(pixel_mm=2 * FIELD_MM / 24, **VIEWS)
NEAR = ScanGeometry.cone(
    source_to_axis_mm=36.0, source_to_detector_mm=72.0, pixel_mm=2 * 2 * FIELD_MM / 24, **VIEWS
)
FAR = ScanGeometry.cone(
    source_to_axis_mm=45.0, source_to_detector_mm=90.0, pixel_mm=2 * 2 * FIELD_MM / 24, **VIEWS
)


def wide_ball(scan):
    """Projections of a ball of density 1 that is wider than the field of view."""
    return ball_integrals(scan, (0.0, 0.0, 0.0), 26.0)


@pytest.mark.parametrize("scan", [CONE, PARALLEL], ids=["cone", "parallel"])
def test_a_solver_that_knows_the_surroundings_keeps_the_density(scan):
    projections = wide_ball(scan)
    around = surroundings(projections, GRID, scan)
    assert min(a > b for a, b in zip(around.grid.size_mm, GRID.size_mm, strict=True))
    middle = (slice(1, 5), slice(3, 17), slice(3, 17))
    errors = [
        float((cgls(p, GRID, scan, iterations=15)[middle] - 1).square().mean().sqrt())
        for p in (projections, projections - around.project(scan))
    ]
    assert errors[1] < 0.1 < 0.2 < errors[0]


def test_what_lies_above_the_grid_is_found_though_no_row_is_cut_sideways():
    inside = ball_integrals(CONE, (0.0, 0.0, 0.0), 5.0)
    projections = inside + ball_integrals(CONE, (6.0, 0.0, 9.5), 3.0)
    assert scan_truncation(projections, CONE).share == 0 and meets_the_ends(projections, CONE)
    around = surroundings(projections, GRID, CONE)
    left = [
        float((p - inside).square().mean().sqrt())
        for p in (projections, projections - around.project(CONE))
    ]
    assert left[1] < 0.5 * left[0]


def test_a_grid_aside_of_the_central_ray_is_enlarged_as_far_as_rays_go():
    grid = VolumeGrid((12, 20, 20), GRID.voxel_mm, (0.0, 0.0, 6.0))
    inside = ball_integrals(CONE, (0.0, 0.0, 3.0), 5.0)
    around = surroundings(inside + ball_integrals(CONE, (6.0, 0.0, -10.0), 4.0), grid, CONE)
    assert 6.0 - around.grid.size_mm[0] / 2 < -axial_reach(CONE, FIELD_MM)


@pytest.mark.parametrize("scan", [CONE, PARALLEL], ids=["cone", "parallel"])
def test_a_grid_beside_the_axis_is_enlarged_as_far_as_the_object_reaches(scan):
    """The object turns about the axis: of a grid beside it a part of it was left out on the far side."""
    centred = surroundings(wide_ball(scan), GRID, scan).grid
    assert (centred.shape[1:], centred.centre_mm) == ((16, 16), GRID.centre_mm)
    for centre_mm in ((9.0, 0.0, 0.0), (0.0, -9.0, 0.0)):
        aside = VolumeGrid(GRID.shape, GRID.voxel_mm, centre_mm)
        grid = surroundings(wide_ball(scan), aside, scan).grid
        ends = [0.5 * size - abs(c) for size, c in zip(grid.size_mm[::-1], centre_mm, strict=True)]
        assert min(ends[:2]) > 26.0
        # Along the other axes it is as large as that of a centred grid.
        assert sum(a > b for a, b in zip(grid.shape, centred.shape, strict=True)) == 1


def test_nothing_of_the_estimate_lies_in_the_grid():
    around = surroundings(wide_ball(CONE), GRID, CONE)
    points = around.grid.points()[around.volume > 0]
    half = torch.tensor(GRID.size_mm[::-1]) / 2
    assert len(points) and bool((points.abs() > half).any(dim=-1).all())


def test_a_block_that_fills_the_grid_has_no_surroundings():
    block = torch.ones(GRID.shape)
    block[:, 4:9, 6:12] = 0.3
    projections = project(block, GRID, CONE)
    assert scan_truncation(projections, CONE).share > 0
    assert surroundings(projections, GRID, CONE) is None


def test_projections_of_nothing_have_no_surroundings():
    assert surroundings(torch.zeros(len(CONE), *CONE.detector_shape), GRID, CONE) is None


def test_the_coarse_grid_ends_in_front_of_the_source():
    reach = {
        scan: max(
            surroundings(ball_integrals(scan, (0.0, 0.0, 0.0), 24.0), GRID, scan).grid.size_mm
        )
        / 2
        for scan in (NEAR, FAR)
    }
    assert FIELD_MM < reach[NEAR] < 36.0
    assert reach[NEAR] < reach[FAR]
