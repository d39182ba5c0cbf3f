"""Objects that reach beyond the detector."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from balls import ball_integrals

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, nominal_orbit, uniform_angles
from diffnr_lightning.solvers import analytic, truncation
from diffnr_lightning.solvers.truncation import (
    AIR_SHARE,
    axial_reach,
    continue_rows,
    find_truncation,
    meets_the_ends,
    object_radius,
    open_sides,
    scan_truncation,
)

FIELD_MM = 18.75
GRID = VolumeGrid((9, 48, 48), 2 * FIELD_MM / 48)
DETECTOR = {"angles_rad": uniform_angles(90), "detector_shape": (48, 48)}
CONE = ScanGeometry.cone(
    source_to_axis_mm=200.0,
    source_to_detector_mm=300.0,
    pixel_mm=1.5 * 2 * FIELD_MM / 48,
    **DETECTOR,
)
PARALLEL = ScanGeometry.parallel(pixel_mm=2 * FIELD_MM / 48, **DETECTOR)
SHIFTED = ScanGeometry.cone(
    source_to_axis_mm=200.0,
    source_to_detector_mm=300.0,
    pixel_mm=1.5 * 2 * FIELD_MM / 48,
    detector_offset_mm=(0.0, 10.0),
    **{**DETECTOR, "detector_shape": (48, 34)},
)
CONE_SHAPE = (len(CONE), *CONE.detector_shape)


def error_hu(volume: torch.Tensor, within_mm: float) -> torch.Tensor:
    """Errors of the middle slice of a ball of density 1, which is 1000 HU above air."""
    away = GRID.points()[4, ..., :2].norm(dim=-1)
    return 1000 * (volume[4] - 1.0)[away < within_mm].abs()


@pytest.mark.parametrize("scan", [CONE, PARALLEL, SHIFTED], ids=["cone", "parallel", "shifted"])
@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (6.0, -5.0, 2.0)], ids=["middle", "aside"])
def test_a_ball_wider_than_the_field_keeps_its_density(scan, centre, caplog):
    projections = ball_integrals(scan, centre, 30.0)
    with caplog.at_level(logging.WARNING, logger="diffnr"):
        volume = analytic(projections, GRID, scan)
    assert "in 100 % of the views the object reaches beyond the detector" in caplog.text
    cut = analytic(projections, GRID, scan, extend=False)
    assert float(error_hu(volume, 12.0).mean()) < 20 < 200 < float(error_hu(cut, 12.0).mean())
    assert float(error_hu(volume, FIELD_MM).max()) < 100


@pytest.mark.parametrize(("arc_deg", "sides"), [(360, 1), (355, 1), (300, 2), (200, 2)])
def test_the_near_edge_of_a_shifted_detector_counts_where_views_do_not_go_all_around(
    arc_deg, sides
):
    """Scanners leave out some degrees of a turn; nearly all lines are seen from both sides even so."""
    angles = np.deg2rad(np.linspace(0, arc_deg, 400, endpoint=False))
    scan = ScanGeometry.cone(
        angles_rad=angles,
        source_to_axis_mm=200.0,
        source_to_detector_mm=300.0,
        detector_shape=(8, 34),
        pixel_mm=1.5,
        detector_offset_mm=(0.0, 10.0),
    )
    assert len(open_sides(nominal_orbit(scan).orbit)) == sides


@pytest.mark.parametrize("beam", ["cone", "parallel"])
@pytest.mark.parametrize("offset_mm", [4.5, -4.5])
def test_half_a_turn_is_cut_on_the_near_side_too(beam, offset_mm, caplog):
    """The axis lies beside the middle of the detector; opposite views do not see what is beyond its near edge."""
    options = {
        "angles_rad": np.deg2rad(np.arange(0.0, 181.0 if beam == "parallel" else 210.0, 2.0)),
        "detector_shape": (8, 48),
        "detector_offset_mm": (0.0, offset_mm),
    }
    if beam == "parallel":
        scan = ScanGeometry.parallel(pixel_mm=2 * FIELD_MM / 48, **options)
    else:
        scan = ScanGeometry.cone(
            source_to_axis_mm=200.0,
            source_to_detector_mm=300.0,
            pixel_mm=1.5 * 2 * FIELD_MM / 48,
            **options,
        )
    # It ends in front of the far edge, so that only the near one cuts it.
    projections = ball_integrals(scan, (0.0, 0.0, 0.0), 19.0)
    truncation = scan_truncation(projections, scan)
    near, far = (truncation.first, truncation.last)[:: 1 if offset_mm > 0 else -1]
    assert near.all() and not far.any()
    with caplog.at_level(logging.WARNING, logger="diffnr"):
        volume = analytic(projections, GRID, scan)
    assert "in 100 % of the views the object reaches beyond the detector" in caplog.text
    cut = analytic(projections, GRID, scan, extend=False)
    assert float(error_hu(volume, 12.0).mean()) < 10 < 30 < float(error_hu(cut, 12.0).mean())


@pytest.mark.parametrize("arc_deg", [324, 345])
def test_lines_in_a_narrow_gap_of_views_are_continued_beyond_the_near_edge(arc_deg):
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(180, arc_deg),
        source_to_axis_mm=200.0,
        source_to_detector_mm=300.0,
        pixel_mm=1.5 * 2 * FIELD_MM / 48,
        detector_shape=(48, 34),
        detector_offset_mm=(0.0, 10.0),
    )
    projections = ball_integrals(scan, (1.0, -0.5, 0.0), 17.0)
    volume = analytic(projections, GRID, scan)
    cut = analytic(projections, GRID, scan, extend=False)
    assert float(error_hu(volume, 13.0).mean()) < 20 < 60 < float(error_hu(cut, 13.0).mean())


def test_noise_is_not_continued_into_streaks():
    noise = torch.randn(CONE_SHAPE, generator=torch.Generator().manual_seed(0))
    clean = ball_integrals(CONE, (0.0, 0.0, 0.0), 30.0)
    volume = analytic(clean + 0.3 * noise, GRID, CONE)
    assert float(error_hu(volume, 12.0).mean()) < 20


def test_scans_that_see_air_stay_as_they_are(caplog):
    projections = ball_integrals(CONE, (0.0, 0.0, 0.0), 14.0)
    projections += 0.01 * torch.rand(CONE_SHAPE, generator=torch.Generator().manual_seed(1))
    with caplog.at_level(logging.WARNING, logger="diffnr"):
        volume = analytic(projections, GRID, CONE)
    assert not caplog.records
    assert torch.equal(volume, analytic(projections, GRID, CONE, extend=False))


def test_only_views_that_are_cut_count():
    """A ball beside the axis leaves the detector in the views that look across."""
    views = 60
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(views), detector_shape=(8, 48), pixel_mm=2 * FIELD_MM / 48
    )
    projections = ball_integrals(scan, (14.0, 0.0, 0.0), 8.0)
    truncation = scan_truncation(projections, scan)
    across = 14.0 * np.abs(np.sin(uniform_angles(views))) + 8.0 > FIELD_MM + 0.3
    found = (truncation.first | truncation.last).numpy()
    assert (found <= (14.0 * np.abs(np.sin(uniform_angles(views))) + 8.0 > FIELD_MM - 2.5)).all()
    assert found.sum() >= 0.9 * across.sum()
    assert AIR_SHARE < truncation.level <= 1.0
    # Mirrored pixels show the same.
    mirrored = ScanGeometry(
        "parallel", (8, 48), scan.source_mm, scan.detector_mm, -scan.u_mm, scan.v_mm
    )
    assert scan_truncation(projections.flip(2), mirrored).share == truncation.share


def test_the_shadow_of_a_cylinder_is_continued_exactly():
    across = (torch.arange(160, dtype=torch.float64) - 79.5) * 0.5
    shadow = 2 * 0.3 * (30.0**2 - (across - 4.0) ** 2).clamp_min(0).sqrt()
    cut = shadow[50:110].repeat(3, 7, 1)
    wide, before, after = continue_rows(cut, find_truncation(cut))
    expected = shadow[50 - before : 110 + after]
    assert float(shadow[: 50 - before].max()) == float(shadow[110 + after :].max()) == 0.0
    # Faded out from half a width beyond the edge on.
    faded = 30 - after
    assert float((wide[1, 3] - expected)[:faded].abs().max()) < 0.02 * float(shadow.max())
    assert float((wide[1, 3] - expected)[faded:].abs().max()) < 0.05 * float(shadow.max())


@pytest.mark.parametrize("row", ["rising", "falling", "lump"])
def test_a_continuation_never_rises_and_ends_at_nothing(row):
    across = torch.linspace(0.0, 1.0, 64)
    values = {
        "rising": 1.0 + across**2,
        "falling": 2.0 - across,
        "lump": torch.exp(-0.5 * ((across - 1.0) / 0.03) ** 2),
    }[row].repeat(2, 5, 1)
    wide, before, after = continue_rows(values, find_truncation(values, ("last",)))
    tail = wide[..., before + 64 :]
    assert before == 0 < after <= 64
    assert (tail.diff(dim=-1) <= 1e-6).all() and (tail >= 0).all()
    assert float(tail.max()) <= float(values[..., -3:].max()) and float(tail[..., -1].max()) < 0.02


@pytest.mark.parametrize("scan", [CONE, PARALLEL, SHIFTED], ids=["cone", "parallel", "shifted"])
@pytest.mark.parametrize("radius", [24.0, 30.0])
def test_the_extent_of_a_ball_is_estimated_from_its_rows(scan, radius):
    projections = ball_integrals(scan, (0.0, 0.0, 0.0), radius)
    assert object_radius(projections, scan) == pytest.approx(radius, rel=0.1)


@pytest.mark.parametrize(
    ("scan", "centre", "radius", "meets"),
    [
        (CONE, (0.0, 0.0, 0.0), 12.0, False),
        (CONE, (0.0, 0.0, 10.0), 12.0, True),
        (CONE, (0.0, 0.0, -10.0), 12.0, True),
        (PARALLEL, (0.0, 0.0, 10.0), 12.0, False),
    ],
    ids=["in air", "above", "below", "parallel"],
)
def test_objects_that_go_on_along_the_axis_meet_the_outermost_rows(scan, centre, radius, meets):
    assert meets_the_ends(ball_integrals(scan, centre, radius), scan) is meets


def test_rays_see_no_farther_along_the_axis_than_they_reach():
    reach = axial_reach(CONE, 10.0)
    low, high = (ball_integrals(CONE, (0.0, 0.0, reach + gap), 1.0) for gap in (-2.0, 1.1))
    assert float(low.max()) > 0 and float(high.max()) == 0
    aside = ball_integrals(CONE, (9.0, 0.0, reach - 2.0), 1.0)
    assert float(aside.max()) > 0


def test_a_detector_whose_rows_and_columns_are_exchanged_sees_as_far_along_the_axis():
    exchanged = replace(
        SHIFTED, detector_shape=SHIFTED.detector_shape[::-1], u_mm=SHIFTED.v_mm, v_mm=SHIFTED.u_mm
    )
    assert axial_reach(exchanged, 10.0) == pytest.approx(axial_reach(SHIFTED, 10.0))


def test_a_helix_sees_as_much_farther_along_the_axis_as_it_climbs():
    heights = np.linspace(-7.0, 7.0, len(CONE))[:, None] * [0.0, 0.0, 1.0]
    helix = replace(
        CONE, source_mm=CONE.source_mm + heights, detector_mm=CONE.detector_mm + heights
    )
    assert axial_reach(helix, 10.0) == pytest.approx(7.0 + axial_reach(CONE, 10.0))


def test_what_is_sampled_of_many_views_is_not_the_air_at_their_edges_alone(monkeypatch):
    monkeypatch.setattr(truncation, "_SAMPLED", 1 << 10)
    row = (1 - torch.linspace(-1.4, 1.4, 32).square()).clamp_min(0).sqrt()
    air = 0.01 * torch.rand(32, 32, 32, generator=torch.Generator().manual_seed(0))
    assert find_truncation(row + air).share == 0
