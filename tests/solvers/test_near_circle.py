"""FDK and FBP of scans whose views lie beside a circle, or on one in another orientation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from balls import ball_integrals
from poses import calibrated, rotation
from torch import Tensor

from diffnr_lightning.geometry import (
    ScanGeometry,
    VolumeGrid,
    from_astra_vectors,
    nominal_orbit,
    uniform_angles,
)
from diffnr_lightning.solvers import analytic, backprojected_residual, fdk
from diffnr_lightning.solvers.circular import LARGEST_RESIDUAL, prepared

# Distances of the walnuts of Der Sarkissian et al., Sci. Data 2019, in pixels of a smaller detector.
GRID = VolumeGrid((24, 32, 32), 0.4)
BALLS = (((0.0, 0.0, 0.0), 4.4, 1.0), ((1.6, 1.2, 0.8), 1.2, -0.5), ((-1.2, -1.6, -1.2), 0.8, 1.0))
CIRCLE = ScanGeometry.cone(
    angles_rad=uniform_angles(90),
    source_to_axis_mm=66.0,
    source_to_detector_mm=198.0,
    detector_shape=(44, 52),
    pixel_mm=1.2,
)


def measured(scan: ScanGeometry) -> Tensor:
    return sum(density * ball_integrals(scan, centre, radius) for centre, radius, density in BALLS)


def truth() -> Tensor:
    points = GRID.points()
    return sum(
        density * ((points - torch.tensor(centre)).norm(dim=-1) < radius).float()
        for centre, radius, density in BALLS
    )


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_astra_rows_that_run_up_give_the_same_volume():
    """ASTRA's own circular cone_vec: v = +z and u counter-clockwise."""
    angles = uniform_angles(90)
    sin, cos, zero, one = np.sin(angles), np.cos(angles), np.zeros(90), np.ones(90)
    vectors = np.stack(
        [66 * sin, -66 * cos, zero, -132 * sin, 132 * cos, zero]
        + [1.2 * cos, 1.2 * sin, zero, zero, zero, 1.2 * one],
        axis=1,
    )
    astra = from_astra_vectors(vectors, CIRCLE.detector_shape)
    ours = ScanGeometry.cone(
        angles_rad=angles - np.pi / 2,
        source_to_axis_mm=66.0,
        source_to_detector_mm=198.0,
        detector_shape=CIRCLE.detector_shape,
        pixel_mm=1.2,
    )
    assert astra.orbit is None
    assert difference(fdk(measured(astra), GRID, astra), fdk(measured(ours), GRID, ours)) < 1e-5


@pytest.mark.parametrize("beam", ["cone", "parallel"])
def test_mirrored_and_lying_detectors_give_the_same_volume(beam):
    scan = CIRCLE
    if beam == "parallel":
        scan = ScanGeometry.parallel(
            angles_rad=uniform_angles(90, 180), detector_shape=(40, 44), pixel_mm=0.4
        )
    expected = analytic(measured(scan), GRID, scan)
    mirrored = replace(scan, u_mm=-scan.u_mm)
    lying = replace(scan, detector_shape=scan.detector_shape[::-1], u_mm=scan.v_mm, v_mm=-scan.u_mm)
    for other in (mirrored, lying):
        assert difference(analytic(measured(other), GRID, other), expected) < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        lambda scan: calibrated(scan, 1e-4, 0.0),  # 0.1 micrometre
        lambda scan: replace(
            scan,
            u_mm=scan.u_mm * np.cos(1.7e-5) + scan.v_mm * np.sin(1.7e-5),  # 0.001 degrees
            v_mm=scan.v_mm * np.cos(1.7e-5) - scan.u_mm * np.sin(1.7e-5),
        ),
    ],
    ids=["a tenth of a micrometre", "a thousandth of a degree"],
)
def test_what_no_one_can_measure_changes_nothing(change):
    scan = change(CIRCLE)
    assert scan != CIRCLE
    expected = fdk(measured(CIRCLE), GRID, CIRCLE)
    assert difference(fdk(measured(scan), GRID, scan), expected) < 1e-3


def test_true_vectors_are_better_than_nominal_ones():
    scan = calibrated(CIRCLE, 0.5, 0.3)
    projections, expected = measured(scan), truth()
    perfect = difference(fdk(measured(CIRCLE), GRID, CIRCLE), expected)
    true = difference(fdk(projections, GRID, scan), expected)
    nominal = difference(fdk(projections, GRID, CIRCLE), expected)
    assert true < 1.05 * perfect
    assert nominal > 1.2 * true


def test_parallel_views_may_shift_and_turn():
    """A stage that wanders: offsets of a pixel and detectors swung by degrees, known for each view."""
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(90, 180), detector_shape=(40, 44), pixel_mm=0.4
    )
    rng = np.random.default_rng(0)
    shift = rng.normal(scale=0.4, size=(90, 1)) * scan.u_mm / 0.4
    turn = rotation(np.deg2rad(5.0) * rng.normal(size=(90, 1)) * [0.0, 0.0, 1.0])
    wandering = replace(
        scan,
        source_mm=scan.source_mm + shift,
        detector_mm=scan.detector_mm + shift,
        u_mm=np.einsum("vij,vj->vi", turn, scan.u_mm),
    )
    projections, expected = measured(wandering), truth()
    perfect = difference(analytic(measured(scan), GRID, scan), expected)
    assert difference(analytic(projections, GRID, wandering), expected) < 1.1 * perfect
    assert difference(analytic(projections, GRID, scan), expected) > 1.2 * perfect


def test_cosines_of_each_view_are_those_of_the_circle_on_a_circle():
    shifted = ScanGeometry.cone(
        angles_rad=uniform_angles(12),
        source_to_axis_mm=66.0,
        source_to_detector_mm=198.0,
        detector_shape=(20, 30),
        pixel_mm=1.2,
        detector_offset_mm=(2.0, 3.0),
        axis_mm=(4.0, -5.0),
    )
    views = prepared(torch.zeros(12, 20, 30), shifted, "cone", "fdk", extend=True)
    assert views.same_pixels
    by_view = views._replace(same_pixels=False).cosines(slice(3, 7))
    torch.testing.assert_close(by_view, views.cosines(slice(3, 7)).expand_as(by_view))
    np.testing.assert_allclose(views.backprojection_weights(), 66.0, rtol=1e-12)


@pytest.mark.parametrize("degrees", [1.0, 5.0])
def test_the_level_does_not_depend_on_where_the_detector_faces(degrees):
    """A detector swung about the axis: other pitches, cosines and depths, the same density."""
    turn = rotation(np.deg2rad(degrees) * np.tile([0.0, 0.0, 1.0], (len(CIRCLE), 1)))
    swung = replace(CIRCLE, u_mm=np.einsum("vij,vj->vi", turn, CIRCLE.u_mm))
    volume = fdk(ball_integrals(swung, (0.0, 0.0, 0.0), 4.4), GRID, swung)
    away = GRID.points().norm(dim=-1)
    assert float(volume[away < 3.2].mean()) == pytest.approx(1.0, abs=4e-3)
    assert float(volume[away < 3.2].std()) < 8e-3


def test_a_scanner_may_lie_on_its_side():
    """Axis along x: the volume is that of the standing scanner, turned."""
    turn = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # x -> y -> z -> x
    names = ("source_mm", "detector_mm", "u_mm", "v_mm")
    lying = replace(CIRCLE, **{name: getattr(CIRCLE, name) @ turn.T for name in names})
    cube = VolumeGrid((24, 24, 24), 0.4)
    standing = fdk(measured(CIRCLE), cube, CIRCLE)
    volume = fdk(measured(CIRCLE), cube, lying)
    # (z, y, x) of the turned volume are (y, x, z) of the standing one.
    assert difference(volume.permute(2, 0, 1), standing) < 1e-4


def test_views_far_from_a_circle_are_refused_with_their_residual():
    def helix(pitch_mm: float) -> ScanGeometry:
        rise = np.linspace(-pitch_mm / 2, pitch_mm / 2, 90)[:, None] * [0.0, 0.0, 1.0]
        return replace(
            CIRCLE, source_mm=CIRCLE.source_mm + rise, detector_mm=CIRCLE.detector_mm + rise
        )

    near, far = helix(2.0), helix(20.0)
    assert 0.5 * LARGEST_RESIDUAL < nominal_orbit(near).residual_share < LARGEST_RESIDUAL
    fdk(measured(near), GRID, near)
    with pytest.raises(
        ValueError,
        match=r"fdk was given views whose rays pass 5\.\d* mm .* serves up to 10 %; use sirt",
    ):
        fdk(measured(far), GRID, far)


def test_the_residual_of_a_calibrated_scan_is_backprojected():
    scan = calibrated(CIRCLE, 0.5, 0.3)
    without = measured(scan) - ball_integrals(scan, *BALLS[2][:2])
    volume = fdk(without, GRID, scan)
    residual = backprojected_residual(volume, measured(scan), GRID, scan)
    peak = GRID.points()[tuple(np.unravel_index(int(residual.argmax()), GRID.shape))]
    assert (peak - torch.tensor(BALLS[2][0])).norm() < 0.8
