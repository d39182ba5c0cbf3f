"""SIRT, SART and ASD-POCS: what they promise on few noisy views."""

import numpy as np
import pytest
import torch

from diffnr_lightning.consistency import normalise
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import analytic, asd_pocs, sart, sirt
from diffnr_lightning.solvers.sart import golden_order, ordered_subsets

FAST = {"sirt": {"iterations": 40}, "sart": {"iterations": 6}, "asd_pocs": {"iterations": 10}}
SOLVERS = {"sirt": sirt, "sart": sart, "asd_pocs": asd_pocs}


def error(volume, truth):
    return float((volume - truth).square().mean().sqrt())


def misfit(volume, measurement):
    residual = project(volume, measurement.grid, measurement.scan) - measurement.projections
    return float(residual.norm() / measurement.projections.norm())


@pytest.fixture(scope="module", params=SOLVERS)
def solved(request, measurement):
    """(name, volume, calls of progress)."""
    calls = []
    volume = SOLVERS[request.param](
        measurement.projections,
        measurement.grid,
        measurement.scan,
        progress=lambda *call: calls.append(call),
        **FAST[request.param],
    )
    return request.param, volume, calls


def test_beats_fdk_on_noisy_sparse_views(solved, measurement):
    _, volume, _ = solved
    grid, scan, truth, projections = measurement
    plain = analytic(projections, grid, scan).clamp_min(0.0)
    assert error(volume, truth) < 0.75 * error(plain, truth)
    assert misfit(volume, measurement) < 0.65 * misfit(plain, measurement)
    assert float(volume.min()) >= 0.0
    assert volume.is_contiguous()


def test_progress_is_reported_to_the_end(solved):
    name, _, calls = solved
    total = FAST[name]["iterations"]
    assert [call[:2] for call in calls] == [(i + 1, total) for i in range(total)]
    residuals = [float(call[2].removeprefix("residual ")) for call in calls]
    assert residuals[-1] < 0.5 * residuals[0]


def test_total_variation_pays_on_a_piecewise_constant_object(measurement):
    grid, scan, truth, projections = measurement
    smooth = asd_pocs(projections, grid, scan, iterations=12)
    rough = sart(projections, grid, scan, iterations=12)
    assert error(smooth, truth) < 0.8 * error(rough, truth)


@pytest.mark.parametrize("name", SOLVERS)
def test_truth_with_clean_data_stays(name, measurement):
    grid, scan, truth, _ = measurement
    clean = project(truth, grid, scan)
    options = {"tv_iterations": 0} if name == "asd_pocs" else {}
    volume = SOLVERS[name](clean, grid, scan, iterations=2, initial=truth, **options)
    assert error(volume, truth) < 1e-5


@pytest.mark.parametrize("name", SOLVERS)
def test_initial_volume_is_used_and_not_changed(name, measurement):
    grid, scan, truth, projections = measurement
    kept = truth.clone()
    near = SOLVERS[name](projections, grid, scan, iterations=1, initial=truth)
    far = SOLVERS[name](projections, grid, scan, iterations=1)
    assert torch.equal(truth, kept)
    assert error(near, truth) < error(far, truth)


@pytest.mark.parametrize("name", SOLVERS)
def test_same_call_gives_the_same_bits(name, measurement):
    grid, scan, _, projections = measurement
    first, second = (SOLVERS[name](projections, grid, scan, iterations=2) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
@pytest.mark.parametrize("name", SOLVERS)
def test_scaled_projections_give_the_scaled_volume(name, factor, measurement):
    grid, scan, truth, projections = measurement
    volume = SOLVERS[name](projections, grid, scan, iterations=4)
    scaled = SOLVERS[name](factor * projections, grid, scan, iterations=4)
    assert error(scaled / factor, volume) < 1e-4 * error(volume, truth)


def test_a_descent_step_has_the_documented_length():
    """From zeros the first data step is the volume itself; it is positive, so nothing is clipped."""
    grid = VolumeGrid((8, 8, 8), 1.0)
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(6, 180), detector_shape=(10, 16), pixel_mm=1.0
    )
    truth = 1 + 0.2 * torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    options = {"iterations": 1, "tv_weight": 0.01}
    before, after, much = (
        asd_pocs(project(truth, grid, scan), grid, scan, tv_iterations=steps, **options)
        for steps in (0, 1, 3)
    )
    assert float(before.min()) > 0.1
    assert float((after - before).norm()) == pytest.approx(0.01 * float(before.norm()), rel=1e-3)
    assert float((much - before).norm()) == pytest.approx(0.03 * float(before.norm()), rel=0.2)


def test_projections_of_nothing_give_nothing(measurement):
    grid, scan, _, projections = measurement
    volume = asd_pocs(torch.zeros_like(projections), grid, scan, iterations=2)
    assert float(volume.abs().max()) == 0.0


@pytest.mark.parametrize("name", SOLVERS)
def test_double_precision_is_kept(name):
    grid = VolumeGrid((6, 6, 6), 2.0)
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(5, 180), detector_shape=(6, 8), pixel_mm=2.0
    )
    truth = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    projections = project(truth, grid, scan)
    single = SOLVERS[name](projections, grid, scan, iterations=3)
    double = SOLVERS[name](projections.double(), grid, scan, iterations=3)
    assert double.dtype == torch.float64
    assert error(single, double) < 1e-5
    # Single precision alone would round these digits away.
    assert (double != double.float().double()).any()


@pytest.mark.parametrize("name", SOLVERS)
def test_arbitrary_poses(name):
    """A wobbling C-arm, which analytic methods refuse."""
    rng = np.random.default_rng(1)
    grid = VolumeGrid((12, 12, 12), 1.0)
    circle = ScanGeometry.cone(
        angles_rad=uniform_angles(12),
        source_to_axis_mm=60.0,
        source_to_detector_mm=90.0,
        detector_shape=(20, 20),
        pixel_mm=1.4,
    )
    scan = ScanGeometry(
        "cone",
        circle.detector_shape,
        circle.source_mm + rng.normal(size=(12, 3)),
        circle.detector_mm + rng.normal(size=(12, 3)),
        circle.u_mm + 0.05 * rng.normal(size=(12, 3)),
        circle.v_mm + 0.05 * rng.normal(size=(12, 3)),
    )
    truth = torch.zeros(grid.shape)
    truth[3:9, 4:8, 2:9] = 1.0
    volume = SOLVERS[name](project(truth, grid, scan), grid, scan, iterations=15)
    assert error(volume, truth) < 0.5 * float(truth.square().mean().sqrt())


def test_voxels_outside_every_view_stay_as_they_are(measurement):
    """A detector that sees the middle only: no blow-up at the edge of what it sees."""
    grid, _, truth, _ = measurement
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(16),
        source_to_axis_mm=200.0,
        source_to_detector_mm=300.0,
        detector_shape=(16, 60),
        pixel_mm=1.5,
    )
    projections = project(truth, grid, scan)
    for solver in (sirt, sart):
        volume = solver(projections, grid, scan, iterations=10)
        assert float(volume[0].abs().max()) == 0.0
        assert float(volume.max()) < 2.0


def test_a_normalisation_can_be_passed_on(measurement):
    grid, scan, _, projections = measurement
    normalisation = normalise(grid, scan, projections)
    torch.testing.assert_close(
        sirt(projections, grid, scan, iterations=2, normalisation=normalisation),
        sirt(projections, grid, scan, iterations=2),
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_weights_make_starved_rays_harmless(name, measurement):
    grid, scan, truth, _ = measurement
    clean = project(truth, grid, scan)
    weights = torch.exp(-8.0 * clean / clean.max())
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    noisy = clean + 0.01 * clean.max() * noise / weights.sqrt()
    plain = SOLVERS[name](noisy, grid, scan, **FAST[name])
    weighted = SOLVERS[name](noisy, grid, scan, weights=weights, **FAST[name])
    assert error(weighted, truth) < 0.85 * error(plain, truth)


@pytest.mark.parametrize("name", SOLVERS)
def test_rays_of_weight_zero_say_nothing(name, measurement):
    grid, scan, _, projections = measurement
    weights = torch.rand(projections.shape, generator=torch.Generator().manual_seed(2)) + 0.1
    weights[3] = weights[:, 20:24, 30:] = 0.0
    broken = torch.where(weights > 0, projections, 1e3)
    options = {"iterations": 2, "weights": weights}
    torch.testing.assert_close(
        SOLVERS[name](broken, grid, scan, **options),
        SOLVERS[name](projections, grid, scan, **options),
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_only_ratios_of_weights_matter(name, measurement):
    grid, scan, truth, projections = measurement
    weights = torch.rand(projections.shape, generator=torch.Generator().manual_seed(2)) + 0.1
    one, other = (
        SOLVERS[name](projections, grid, scan, iterations=2, weights=factor * weights)
        for factor in (1.0, 1e9)
    )
    assert error(one, other) < 1e-3 * error(one, truth)


@pytest.mark.parametrize("name", SOLVERS)
def test_weights_are_taken_to_a_power(name, measurement):
    grid, scan, truth, projections = measurement
    weights = 10 * torch.rand(projections.shape, generator=torch.Generator().manual_seed(2)) + 0.1
    plain, rooted, whole = (
        SOLVERS[name](projections, grid, scan, iterations=2, weights=w, **options)
        for w, options in (
            (weights, {}),
            (weights.sqrt(), {"power": 1.0}),
            (weights, {"power": 1.0}),
        )
    )
    assert error(plain, rooted) < 1e-3 * error(plain, truth)
    assert error(plain, whole) > 1e-2 * error(plain, truth)


def test_a_subset_with_little_light_moves_voxels_little(measurement):
    """One view has a hundredth of the weight of the others; SART would follow it all the same."""
    grid, scan, truth, _ = measurement
    clean = project(truth, grid, scan)
    wrong = clean.clone()
    wrong[4] = 0.0
    weights = torch.ones_like(clean)
    weights[4] = 0.01
    options = {"iterations": 4, "initial": truth}
    followed = error(sart(wrong, grid, scan, **options), truth)
    options["power"] = 1.0
    assert error(sart(wrong, grid, scan, weights=weights, **options), truth) < 0.1 * followed


def test_subsets_hold_every_view_once(measurement):
    grid, scan, _, projections = measurement
    for count in (None, 1, 3, 7, 20):
        parts = ordered_subsets(projections, grid, scan, count)
        assert len(parts) == (count or 20)
        together = torch.cat([part.projections for part in parts])
        for view in projections:
            assert int((together == view).all(dim=(1, 2)).sum()) == 1


@pytest.mark.parametrize("count", [1, 2, 5, 24, 36])
def test_golden_order_is_a_permutation_with_long_jumps(count):
    order = golden_order(count)
    assert sorted(order) == list(range(count))
    jumps = np.abs(np.diff(order))
    if count >= 5:
        assert np.minimum(jumps, count - jumps).min() >= count // 4


@pytest.mark.parametrize("name", SOLVERS)
def test_refusals_say_what_was_expected(name, measurement):
    grid, scan, truth, projections = measurement
    solver = SOLVERS[name]
    with pytest.raises(ValueError, match="projections has shape"):
        solver(projections[:3], grid, scan)
    with pytest.raises(ValueError, match=r"initial has shape \(31, 32, 32\)"):
        solver(projections, grid, scan, initial=truth[1:])
    with pytest.raises(ValueError, match="NaN"):
        solver(projections * float("nan"), grid, scan)
    with pytest.raises(TypeError, match="torch tensor is expected"):
        solver(projections.numpy(), grid, scan)
    with pytest.raises(ValueError, match="iterations is 0"):
        solver(projections, grid, scan, iterations=0)
    with pytest.raises(ValueError, match=r"weights has shape \(19, 60, 60\)"):
        solver(projections, grid, scan, weights=torch.ones(19, 60, 60))
    with pytest.raises(ValueError, match="least value of -1"):
        solver(projections, grid, scan, weights=-torch.ones_like(projections))
    with pytest.raises(ValueError, match="relaxation is 2.5"):
        solver(projections, grid, scan, relaxation=2.5)


def test_options_of_one_solver_are_checked(measurement):
    grid, scan, _, projections = measurement
    with pytest.raises(ValueError, match="subsets is 99"):
        sart(projections, grid, scan, subsets=99)
    with pytest.raises(ValueError, match="decay is 0"):
        sart(projections, grid, scan, decay=0.0)
    with pytest.raises(ValueError, match="tv_weight is -1"):
        asd_pocs(projections, grid, scan, tv_weight=-1.0)
    with pytest.raises(ValueError, match="tv_iterations is -1"):
        asd_pocs(projections, grid, scan, tv_iterations=-1)
