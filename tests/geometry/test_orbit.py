"""The circle nearest to a scan, and how far its views are from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, nominal_orbit, uniform_angles

CONE = {
    "angles_rad": uniform_angles(40, 300, 15),
    "source_to_axis_mm": 500.0,
    "source_to_detector_mm": 750.0,
    "detector_shape": (50, 60),
    "pixel_mm": (2.0, 3.0),
    "detector_offset_mm": (1.0, -4.0),
    "axis_mm": (3.0, -2.0),
    "height_mm": 5.0,
}
PARALLEL = {
    key: CONE[key] for key in ("angles_rad", "detector_shape", "pixel_mm", "detector_offset_mm")
}
SCANS = {"cone": ScanGeometry.cone(**CONE), "parallel": ScanGeometry.parallel(**PARALLEL)}
NUMBERS = (
    "source_to_axis_mm",
    "source_to_detector_mm",
    "pixel_mm",
    "detector_offset_mm",
    "height_mm",
)


def turned(scan: ScanGeometry, turn: np.ndarray) -> ScanGeometry:
    vectors = ("source_mm", "detector_mm", "u_mm", "v_mm")
    return replace(scan, **{name: getattr(scan, name) @ turn.T for name in vectors})


def about_x(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def check_numbers(actual, expected, **tolerance) -> None:
    for name in NUMBERS:
        if getattr(expected, name) is not None:
            np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), **tolerance)


@pytest.mark.parametrize("beam", SCANS)
@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize(("up", "mirrored"), [(False, True), (True, False), (True, True)])
def test_the_order_of_the_pixels_does_not_move_the_circle(beam, exchanged, up, mirrored) -> None:
    scan = SCANS[beam]
    u, v = (-scan.u_mm if mirrored else scan.u_mm), (-scan.v_mm if up else scan.v_mm)
    image = torch.arange(3000.0).reshape(1, 50, 60)
    stored = image.flip([axis for axis, flip in ((1, up), (2, mirrored)) if flip])
    if exchanged:
        other = replace(scan, detector_shape=(60, 50), u_mm=v, v_mm=u)
        stored = stored.transpose(1, 2)
    else:
        other = replace(scan, u_mm=u, v_mm=v)
    nominal = nominal_orbit(other)
    assert nominal.residual_mm < 1e-9
    assert other.orbit is None  # it takes more than a scanner's numbers to rebuild it
    check_numbers(nominal.orbit, scan.orbit, atol=1e-9)
    np.testing.assert_allclose(nominal.orbit.angles_rad, scan.orbit.angles_rad, atol=1e-9)
    np.testing.assert_array_equal(nominal.orientation.upright_scan(other).u_mm, scan.u_mm)
    np.testing.assert_array_equal(nominal.orientation.upright_scan(other).v_mm, scan.v_mm)
    assert torch.equal(nominal.orientation.upright(stored), image)


@pytest.mark.parametrize("beam", SCANS)
@pytest.mark.parametrize("degrees", [0.5, 37.0, 90.0, 143.0])
def test_the_axis_may_point_anywhere(beam, degrees) -> None:
    turn = about_x(degrees)
    nominal = nominal_orbit(turned(SCANS[beam], turn))
    assert nominal.residual_mm < 1e-9
    axis = turn @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(np.cross(nominal.orbit.axis_direction, axis), 0.0, atol=1e-12)
    if beam == "cone":
        assert nominal.orbit.source_to_axis_mm == pytest.approx(500.0)
        # The middle of the circle is a point of the world, whichever way the axis points.
        np.testing.assert_allclose(nominal.orbit.axis_point_mm, turn @ [3.0, -2.0, 5.0], atol=1e-9)


@pytest.mark.parametrize("beam", SCANS)
@pytest.mark.parametrize("roll_deg", [12.0, 30.0, -70.0])
@pytest.mark.parametrize("arc_deg", [200.0, 360.0])
def test_a_detector_rolled_in_its_plane_does_not_hide_a_tilted_axis(
    beam, roll_deg, arc_deg
) -> None:
    options = {**(CONE if beam == "cone" else PARALLEL), "angles_rad": uniform_angles(60, arc_deg)}
    upright = (ScanGeometry.cone if beam == "cone" else ScanGeometry.parallel)(**options)
    cos, sin = np.cos(np.deg2rad(roll_deg)), np.sin(np.deg2rad(roll_deg))
    pitch_v, pitch_u = (np.linalg.norm(step[0]) for step in (upright.v_mm, upright.u_mm))
    down, along = upright.v_mm / pitch_v, upright.u_mm / pitch_u
    rolled = replace(
        upright,
        u_mm=pitch_u * (cos * along + sin * down),
        v_mm=pitch_v * (cos * down - sin * along),
    )
    turn = about_x(20.0)
    nominal, untilted = nominal_orbit(turned(rolled, turn)), nominal_orbit(rolled)
    axis = turn @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(np.cross(nominal.orbit.axis_direction, axis), 0.0, atol=1e-9)
    assert nominal.residual_share == pytest.approx(untilted.residual_share, rel=1e-6)


@pytest.mark.parametrize("beam", SCANS)
@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("beside_deg", [0.0, 0.1])
def test_two_opposite_views_about_a_tilted_axis_say_which_it_is(
    beam, exchanged, beside_deg
) -> None:
    """Columns and rows are lines of one direction then; where rows lie along the axis, columns were taken for it."""
    angles = np.deg2rad([20.0, 200.0 + beside_deg])
    options = {**(CONE if beam == "cone" else PARALLEL), "angles_rad": angles}
    upright = (ScanGeometry.cone if beam == "cone" else ScanGeometry.parallel)(**options)
    turn = about_x(37.0)
    scan = turned(upright, turn)
    if exchanged:
        scan = replace(scan, detector_shape=(60, 50), u_mm=scan.v_mm, v_mm=scan.u_mm)
    nominal = nominal_orbit(scan)
    assert nominal.residual_mm < 1e-9
    axis = turn @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(np.cross(nominal.orbit.axis_direction, axis), 0.0, atol=1e-12)


def test_jitter_is_averaged_and_told_by_the_residual() -> None:
    rng = np.random.default_rng(0)
    scan = ScanGeometry.cone(**{**CONE, "angles_rad": uniform_angles(400)})
    moved = replace(
        scan,
        source_mm=scan.source_mm + rng.normal(scale=0.5, size=(400, 3)),
        detector_mm=scan.detector_mm + rng.normal(scale=0.5, size=(400, 3)),
    )
    nominal = nominal_orbit(moved)
    check_numbers(nominal.orbit, scan.orbit, atol=0.15)
    np.testing.assert_allclose(nominal.orbit.axis_mm, (3.0, -2.0), atol=0.1)
    assert 0.3 < nominal.residual_mm < 0.8
    assert nominal.residual_pixels == pytest.approx(nominal.residual_mm * 1.5 / 2.0, rel=1e-2)
    assert nominal.residual_share == pytest.approx(nominal.residual_mm / 60.0, rel=1e-2)


def test_a_detector_that_does_not_face_the_axis_leaves_the_circle_of_its_sources() -> None:
    scan = SCANS["cone"]
    swung = scan.u_mm * np.cos(0.05) + 3.0 * np.sin(0.05) * scan.normal
    nominal = nominal_orbit(replace(scan, u_mm=swung))
    np.testing.assert_allclose(nominal.orbit.axis_mm, (3.0, -2.0), atol=1e-6)
    assert nominal.orbit.source_to_axis_mm == pytest.approx(500.0, abs=1e-6)
    assert 0.0 < nominal.residual_share < 0.02


def test_residuals_of_a_shift_and_of_a_helix_are_their_closed_forms() -> None:
    """Heights that are spread evenly over h pass h / sqrt(12) beside the nearest circle."""
    count = 400
    scan = ScanGeometry.cone(
        **{**CONE, "angles_rad": uniform_angles(count), "height_mm": np.linspace(-6, 6, count)}
    )
    assert nominal_orbit(scan).residual_mm == pytest.approx(12 / np.sqrt(12), rel=0.02)
    once = SCANS["parallel"]
    apart = np.where(np.arange(40) % 2, 1.0, -1.0)[:, None] * [0.0, 0.0, 0.7]
    moved = replace(once, source_mm=once.source_mm + apart, detector_mm=once.detector_mm + apart)
    assert nominal_orbit(moved).residual_mm == pytest.approx(0.7, rel=1e-6)


@pytest.mark.parametrize("wobble_mm", [0.0, 0.02])
def test_numbers_of_a_circle_do_not_stand_for_a_wobble_however_far_the_source_is(wobble_mm) -> None:
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(60, 180), detector_shape=(64, 64), pixel_mm=0.005
    )
    aside = wobble_mm * np.random.default_rng(0).normal(size=(60, 3))
    detector = scan.detector_mm + aside
    far = replace(scan, detector_mm=detector, source_mm=detector - 50_000 * scan.direction)
    assert (far.orbit is None) == (wobble_mm > 0)


@pytest.mark.parametrize("beam", SCANS)
def test_one_view_has_a_circle_through_it(beam) -> None:
    assert nominal_orbit(SCANS[beam][3]).residual_mm < 1e-9


def test_orbits_are_equal_where_all_their_numbers_are() -> None:
    orbit = SCANS["cone"].orbit
    assert orbit == ScanGeometry.cone(**CONE).orbit
    assert orbit not in (SCANS["cone"][:7].orbit, replace(orbit, height_mm=6.0), None)


def test_no_numbers_stand_for_one_view_whose_detector_stands_before_the_origin() -> None:
    scanner = CONE | {"angles_rad": [0.0], "axis_mm": (300.0, 0.0)}
    assert ScanGeometry.cone(**scanner).orbit is None
    assert ScanGeometry.cone(**scanner | {"axis_mm": (200.0, 0.0)}).orbit is not None


@pytest.mark.parametrize("views", [[3], [3, 9]])
def test_few_parallel_views_keep_the_axis_of_the_world_and_the_offset_of_their_detector(
    views,
) -> None:
    orbit = nominal_orbit(SCANS["parallel"][views]).orbit
    np.testing.assert_allclose(orbit.axis_mm, (0.0, 0.0), atol=1e-9)
    np.testing.assert_allclose(orbit.detector_offset_mm, (1.0, -4.0), atol=1e-9)


def test_a_view_that_is_repeated_has_the_circle_of_one() -> None:
    scan = SCANS["cone"]
    check_numbers(nominal_orbit(scan[[3, 3]]).orbit, nominal_orbit(scan[3]).orbit)


@pytest.mark.parametrize("views", [slice(None), slice(3, 4)])
@pytest.mark.parametrize("moves", [(1.0, 0.0), (0.0, 1.0), "around"])
def test_a_detector_that_faces_along_z_is_no_obstacle(moves, views) -> None:
    """Tomosynthesis and laminography: the detector lies flat, and the source moves above it."""
    way = np.linspace(-1, 1, 7)
    around = np.stack([np.cos(np.pi * way), np.sin(np.pi * way)], axis=1)
    across = around if moves == "around" else way[:, None] * moves
    source = np.concatenate([200 * across, np.full((7, 1), 600.0)], axis=1)
    still = [np.tile(vector, (7, 1)) for vector in ((0, 0, -50), (4, 0, 0), (0, 4, 0))]
    scan = ScanGeometry("cone", (32, 32), source, *still)[views]
    nominal = nominal_orbit(scan)
    assert np.isfinite(nominal.residual_share)
    assert nominal.orbit.axis_direction == (0.0, 1.0, 0.0)
    assert f"{len(scan)} view" in str(scan)


def _looking(
    source: np.ndarray, detector: np.ndarray, u: np.ndarray, v: np.ndarray
) -> ScanGeometry:
    steps = (np.broadcast_to(step, source.shape) for step in (u, v))
    return ScanGeometry("cone", (32, 32), source, detector, *steps)


@pytest.mark.parametrize(("views", "near"), [(slice(None), False), (slice(4, 5), True)])
def test_source_and_detector_that_move_together_are_described(views, near) -> None:
    """Planar laminography: the beam runs along z, and never to it."""
    across = np.linspace(-200, 200, 7)[:, None] * [1.0, 0.0, 0.0]
    above, below = across + [0.0, 0.0, 600.0], across - [0.0, 0.0, 50.0]
    scan = _looking(above, below, [4.0, 0.0, 0.0], [0.0, 4.0, 0.0])[views]
    nominal = nominal_orbit(scan)
    assert (nominal.residual_share < 1e-9) if near else (1.0 < nominal.residual_share < np.inf)
    assert 0.0 < nominal.field_radius_mm < np.inf
    assert nominal.orbit.axis_direction == (0.0, 1.0, 0.0)
    assert f"{len(scan)} view" in str(scan)


@pytest.mark.parametrize("source_mm", [10.0, 0.0])
def test_a_beam_that_leads_away_from_the_axis_is_on_no_circle(source_mm) -> None:
    """A source inside of a pipe looks outwards."""
    angles = uniform_angles(12)
    outward = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    u = 2.0 * np.stack([-np.sin(angles), np.cos(angles), 0 * angles], axis=1)
    scan = _looking(source_mm * outward, 200.0 * outward, u, [0.0, 0.0, -2.0])
    nominal = nominal_orbit(scan)
    assert nominal.residual_mm == nominal.residual_pixels == nominal.residual_share == np.inf
    assert 0.0 < nominal.field_radius_mm < np.inf
    assert nominal.orbit.magnification > 0.0
    assert "12 views" in str(scan)
