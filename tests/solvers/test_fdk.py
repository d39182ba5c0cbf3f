"""Analytic reconstruction of objects whose projections are known in closed form."""

import importlib
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from balls import ball_integrals

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.solvers import analytic, fbp, fdk, ramp_filter

SCANNER = {
    "source_to_axis_mm": 200.0,
    "source_to_detector_mm": 300.0,
    "detector_shape": (60, 60),
    "pixel_mm": 1.5,
}
GRID = VolumeGrid((36, 40, 40), 1.0)
CENTRE, RADIUS = (3.0, -4.0, 2.0), 11.0


def cone(angles, **changes):
    return ScanGeometry.cone(angles_rad=angles, **{**SCANNER, **changes})


def parallel(angles, **changes):
    options = {"detector_shape": (48, 56), "pixel_mm": 1.0, **changes}
    return ScanGeometry.parallel(angles_rad=angles, **options)


RANDOM_ANGLES = np.random.default_rng(0).uniform(0, 2 * np.pi, 240)
HALF = {"detector_shape": (60, 40), "pixel_mm": 1.5}
SCANS = {
    "circle": cone(uniform_angles(120)),
    "circle_from_33_degrees": cone(uniform_angles(120, 360, 33)),
    "uneven_angles": cone(RANDOM_ANGLES),
    "repeated_angles": cone(np.repeat(uniform_angles(120), 2)),
    "short_arc": cone(uniform_angles(90, 215, 50)),
    "short_arc_backwards": cone(uniform_angles(90, 215, 250)[::-1]),
    "three_quarters": cone(uniform_angles(110, 280, 300)),
    "shifted_axis": cone(uniform_angles(120), axis_mm=(3.0, -2.0)),
    "detector_shifted_right": cone(uniform_angles(150), **HALF, detector_offset_mm=(0.0, 14.0)),
    "detector_shifted_left": cone(uniform_angles(150), **HALF, detector_offset_mm=(3.0, -14.0)),
    "parallel_half_turn": parallel(uniform_angles(90, 180, 10)),
    "parallel_full_turn_odd": parallel(uniform_angles(121)),
    "parallel_full_turn_even": parallel(uniform_angles(120)),
    "parallel_uneven": parallel(
        np.concatenate([uniform_angles(50, 90), np.pi / 2 + uniform_angles(120, 90)])
    ),
    "parallel_shifted": parallel(
        uniform_angles(180), detector_shape=(48, 36), detector_offset_mm=(0.0, 10.0)
    ),
}


@pytest.mark.parametrize("name", SCANS)
def test_uniform_ball_keeps_its_value(name, caplog):
    scan = SCANS[name]
    with caplog.at_level(logging.WARNING, logger="diffnr"):
        volume = analytic(ball_integrals(scan, CENTRE, RADIUS), GRID, scan)
    assert not caplog.records
    away = torch.linalg.norm(GRID.points() - torch.tensor(CENTRE), dim=-1)
    inside, outside = volume[away < RADIUS - 3], volume[away > RADIUS + 3]
    assert float(inside.mean()) == pytest.approx(1.0, abs=4e-3)
    assert float(inside.std()) < 8e-3
    assert abs(float(outside.mean())) < 5e-3


def test_shifted_detector_is_as_good_as_a_full_one():
    angles = uniform_angles(150)
    full = cone(angles, detector_shape=(60, 60))
    half = cone(angles, detector_shape=(60, 38), detector_offset_mm=(0.0, 11.0 * 1.5))
    expected = fdk(ball_integrals(full, CENTRE, RADIUS), GRID, full)
    actual = fdk(ball_integrals(half, CENTRE, RADIUS), GRID, half)
    assert float((actual - expected).norm() / expected.norm()) < 0.05


def test_a_shifted_detector_may_store_columns_as_rows():
    """Its edges are those of the columns that lie across the axis, whichever way they are stored."""
    half = cone(uniform_angles(90), detector_shape=(20, 38), detector_offset_mm=(0.0, 16.5))
    stored = replace(half, detector_shape=(38, 20), u_mm=half.v_mm, v_mm=half.u_mm)
    projections = ball_integrals(half, CENTRE, RADIUS)
    expected = fdk(projections, GRID, half)
    torch.testing.assert_close(fdk(projections.mT, GRID, stored), expected, atol=1e-4, rtol=1e-4)


def test_too_short_an_arc_is_said(caplog):
    scan = cone(uniform_angles(60, 150))
    with caplog.at_level(logging.WARNING, logger="diffnr"):
        analytic(ball_integrals(scan, CENTRE, RADIUS), GRID, scan)
    assert "cover 150 degrees" in caplog.text


def test_few_views_of_a_circle_still_have_the_right_level():
    scan = cone(uniform_angles(12))
    volume = fdk(ball_integrals(scan, CENTRE, RADIUS), GRID, scan)
    away = torch.linalg.norm(GRID.points() - torch.tensor(CENTRE), dim=-1)
    assert float(volume[away < RADIUS - 3].mean()) == pytest.approx(1.0, abs=0.05)


def test_flat_voxels_off_centre():
    scan = cone(uniform_angles(120))
    grid = VolumeGrid((10, 30, 44), (2.0, 1.0, 0.6), (2.0, -3.0, 1.0))
    volume = fdk(ball_integrals(scan, CENTRE, RADIUS), grid, scan)
    away = torch.linalg.norm(grid.points() - torch.tensor(CENTRE), dim=-1)
    assert float(volume[away < RADIUS - 3].mean()) == pytest.approx(1.0, abs=4e-3)


def test_double_precision_takes_the_reference_and_agrees():
    scan = cone(uniform_angles(16))
    projections = ball_integrals(scan, CENTRE, RADIUS)
    grid = VolumeGrid((8, 20, 20), 2.0)
    double = fdk(projections.double(), grid, scan)
    assert double.dtype == torch.float64
    torch.testing.assert_close(fdk(projections, grid, scan), double.float(), rtol=1e-3, atol=1e-4)


def test_linear_in_the_projections_and_blind_to_pieces(monkeypatch):
    scan = cone(uniform_angles(9))
    grid = VolumeGrid((8, 16, 16), 2.0)
    a, b = torch.rand(2, 9, 60, 60)
    a[..., [0, 1, 2, -3, -2, -1]] = b[..., [0, 1, 2, -3, -2, -1]] = 0.0  # air at the edges
    mixed = fdk(2.0 * a - b, grid, scan)
    torch.testing.assert_close(
        mixed, 2.0 * fdk(a, grid, scan) - fdk(b, grid, scan), rtol=1e-3, atol=1e-4
    )
    # The function of the same name hides the module as an attribute of the package.
    module = importlib.import_module("diffnr_lightning.solvers.ramp")
    monkeypatch.setattr(module, "_FILTERED_AT_ONCE", 1)
    torch.testing.assert_close(fdk(a, grid, scan) * 2.0 - fdk(b, grid, scan), mixed)


@pytest.mark.parametrize("window", ["ram_lak", "shepp_logan", "cosine", "hamming", "hann"])
def test_windows_fall_to_their_ends_and_keep_the_zero(window):
    response = ramp_filter(256, 0.5, window, 0.75)
    ramp = ramp_filter(256, 0.5, "ram_lak", 1.0)
    assert float(response[0]) == float(ramp[0]) > 0.0
    assert (response <= ramp + 1e-12).all()
    assert float(response[97:].abs().max()) == 0.0  # 0.75 of 128
    assert float(ramp[64]) == pytest.approx(0.5, rel=1e-2)  # |f| at half of Nyquist, 1 / (2 * 0.5)


def test_refusals_say_what_to_do():
    scan = cone(uniform_angles(6))
    projections = torch.zeros(6, 60, 60)
    helix = cone(uniform_angles(6), height_mm=8.0 * np.arange(6.0))
    with pytest.raises(ValueError, match="use sirt, sart or asd_pocs"):
        analytic(projections, GRID, helix)
    with pytest.raises(ValueError, match="a parallel scan is expected"):
        fbp(projections, GRID, scan)
    with pytest.raises(ValueError, match=r"\(6, 60, 60\) \(V, H, W\) is expected"):
        fdk(projections[:3], GRID, scan)
    with pytest.raises(ValueError, match="cutoff is 1.5"):
        fdk(projections, GRID, scan, cutoff=1.5)
    with pytest.raises(ValueError, match="filter is 'ramp'"):
        fdk(projections, GRID, scan, filter="ramp")


@pytest.mark.parametrize(
    ("arc_deg", "offset_mm", "said"),
    [
        (360.0, 12.0, ""),
        (230.0, 12.0, "fdk: the detector is shifted sideways and measures what lies farther than"),
        (360.0, 40.0, "no line within 4.67 mm of the axis is measured"),
        (230.0, 0.0, ""),
    ],
)
def test_a_shifted_detector_that_leaves_lines_out_is_told(arc_deg, offset_mm, said, caplog):
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(40, arc_deg),
        source_to_axis_mm=100.0,
        source_to_detector_mm=150.0,
        detector_shape=(4, 44),
        pixel_mm=1.5,
        detector_offset_mm=(0.0, offset_mm),
    )
    projections = torch.zeros(40, 4, 44)
    fdk(projections, VolumeGrid((4, 48, 48), 1.0), scan)
    assert (said in caplog.text) if said else not caplog.text
    # What the near edge sees too is measured from both sides.
    caplog.clear()
    fdk(projections, VolumeGrid((4, 24, 24), 1.0), scan)
    assert "from one side only" not in caplog.text
