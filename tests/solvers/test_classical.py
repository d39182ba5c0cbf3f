"""CGLS, FISTA-TV, split Bregman and MBIR: what each minimises, and what all promise on few noisy views."""

import numpy as np
import pytest
import torch

from diffnr_lightning.consistency import LeastSquares, conjugate_gradients
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import analytic, cgls, fista_tv, mbir, sbtv, total_variation
from diffnr_lightning.solvers.qggmrf import QGGMRF, automatic_sigmas
from diffnr_lightning.solvers.total_variation import differences, differences_adjoint

SOLVERS = {"cgls": cgls, "fista_tv": fista_tv, "sbtv": sbtv, "mbir": mbir}
FEW = {"cgls": 12, "fista_tv": 20, "sbtv": 8, "mbir": 20}
GRID = VolumeGrid((6, 7, 8), (2.0, 3.0, 2.0))
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(7),
    source_to_axis_mm=90.0,
    source_to_detector_mm=135.0,
    detector_shape=(10, 14),
    pixel_mm=3.0,
)
POSED = ScanGeometry(
    "cone",
    SCAN.detector_shape,
    SCAN.source_mm + np.linspace(-3, 3, 7)[:, None] * np.array([0.0, 0.3, 1.0]),
    SCAN.detector_mm,
    SCAN.u_mm,
    SCAN.v_mm,
)


@pytest.fixture(scope="module")
def tiny() -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy projections of a box and weights of their rays, float64."""
    truth = torch.zeros(GRID.shape, dtype=torch.float64)
    truth[1:4, 2:6, 2:6] = 1.0
    generator = torch.Generator().manual_seed(0)
    clean = project(truth, GRID, SCAN)
    weights = 10 ** torch.rand(clean.shape, generator=generator).double()
    weights[1, :3] = 0.0
    return clean + 0.5 * torch.randn(clean.shape, generator=generator).double(), weights


@pytest.fixture(scope="module")
def system() -> torch.Tensor:
    """The matrix (rays, voxels) of the scan."""
    units = torch.eye(6 * 7 * 8, dtype=torch.float64).reshape(-1, *GRID.shape)
    return torch.stack([project(unit, GRID, SCAN).flatten() for unit in units], dim=1)


def error(volume, truth):
    return float((volume - truth).square().mean().sqrt())


def test_conjugate_gradients_solve_a_dense_system():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(12, 12, generator=generator).double()
    matrix = root @ root.T + torch.diag(torch.logspace(-1, 3, 12).double())
    target = torch.randn(12, generator=generator).double()
    wanted = torch.linalg.solve(matrix, target)
    start = torch.zeros_like(target)
    for scaling in (None, 1 / matrix.diag()):
        found = conjugate_gradients(
            lambda x: matrix @ x, target, start, iterations=40, tolerance=1e-10, scaling=scaling
        )
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    assert not start.any()


def test_cgls_is_the_dense_weighted_least_squares(tiny):
    projections, weights = tiny
    coarse = VolumeGrid((3, 4, 4), (4.0, 5.0, 4.0))
    units = torch.eye(48, dtype=torch.float64).reshape(-1, *coarse.shape)
    system = torch.stack([project(unit, coarse, SCAN).flatten() for unit in units], dim=1)
    root = weights.flatten().sqrt()
    wanted = torch.linalg.lstsq(root[:, None] * system, root * projections.flatten()).solution
    size = float(wanted.square().mean().sqrt())
    options = {"iterations": 100, "weights": weights, "level": 0.0, "nonnegative": False}
    found, half = (
        cgls(projections, coarse, SCAN, power=power, **options).flatten() for power in (1.0, 0.5)
    )
    assert error(found, wanted) < 1e-4 * size
    assert error(half, wanted) > 0.01 * size


def test_cgls_stops_where_the_noise_is_explained(measurement):
    grid, scan, truth, projections = measurement
    deviation = 0.01 * float(project(truth, grid, scan).max())
    counts = []
    for factor in (1.0, 1 / 16, 1e6):
        calls = []
        weights = torch.full_like(projections, factor / deviation**2)
        cgls(projections, grid, scan, weights=weights, progress=lambda *c, to=calls: to.append(c))
        counts.append(len(calls))
    assert counts[1] < counts[0] < counts[2] == 30


def test_differences_have_their_adjoint():
    generator = torch.Generator().manual_seed(2)
    volume = torch.randn(4, 5, 6, generator=generator)
    vectors = torch.randn(3, 4, 5, 6, generator=generator)
    ratios = (1.0, 0.5, 0.8)
    one = (differences(volume, ratios) * vectors).sum()
    torch.testing.assert_close(one, (volume * differences_adjoint(vectors, ratios)).sum())


@pytest.mark.parametrize("scan", [SCAN, POSED], ids=["circle", "posed"])
def test_fista_and_split_bregman_find_the_same_minimum(tiny, scan):
    """Two methods that share nothing but the cost: the volumes agree to 1 %, the costs to 0.1 %."""
    projections, weights = (array.float() for array in tiny)
    options = {"weights": weights, "strength": 0.3, "noise": 0.5}
    one = fista_tv(
        projections, GRID, scan, iterations=120, inner_iterations=15, tolerance=0.0, **options
    )
    other = sbtv(projections, GRID, scan, iterations=60, coupling=0.05, **options)
    assert error(one, other) < 0.01 * float(one.square().mean().sqrt())
    assert float(one.min()) == float(other.min()) == 0.0
    fit = LeastSquares.weighted(projections, GRID, scan, weights, 0.5)
    bound = 0.3 * 0.5 * float(fit.curvature().mean()) ** 0.5

    def cost(volume: torch.Tensor) -> float:
        variation = bound * float(total_variation(volume, GRID.voxel_mm, 0.0))
        return fit.cost(fit.shown(volume) - projections) + variation

    assert cost(one) == pytest.approx(cost(other), rel=1e-3)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        away = one + 0.02 * torch.randn(one.shape, generator=generator)
        assert cost(away.clamp(min=0.0)) > cost(one)
    boxes = sbtv(projections, GRID, scan, isotropic=False, coupling=0.05, **options)
    assert error(boxes, other) > 0.01 * float(one.square().mean().sqrt())


@pytest.mark.parametrize(("p", "q", "corner"), [(2.0, 1.2, 1.0), (2.0, 1.0, 0.5), (1.8, 1.2, 2.0)])
def test_the_prior_has_the_slope_of_its_value_and_a_bound_above_it(p, q, corner):
    generator = torch.Generator().manual_seed(4)
    volume = 0.02 * torch.randn(4, 5, 6, generator=generator).double()
    prior = QGGMRF(0.01, p, q, corner, (1.0, 0.5, 0.8))
    slope, curvature = prior.slope_and_curvature(volume)
    for voxel in ((0, 0, 0), (1, 2, 3), (3, 4, 5)):
        step = torch.zeros_like(volume)
        step[voxel] = 1e-6
        rise = (prior.value(volume + step) - prior.value(volume - step)) / 2e-6
        assert float(slope[voxel]) == pytest.approx(rise, rel=1e-4)
    for size in (1e-3, 1e-2, 1e-1):
        change = size * torch.randn(volume.shape, generator=generator).double()
        bound = prior.value(volume) + float((slope * change + 0.5 * curvature * change**2).sum())
        assert prior.value(volume + change) <= bound


def test_the_prior_is_that_of_mbirjax():
    """Numbers that mbirjax 0.7 gives for a cube of 2^3 in 4^3 voxels, at its p, q, T and neighbours."""
    volume = torch.zeros(4, 4, 4, dtype=torch.float64)
    volume[1:3, 1:3, 1:3] = 0.02
    prior = QGGMRF(0.01)
    slope, curvature = prior.slope_and_curvature(volume)
    assert prior.value(volume) == pytest.approx(2.918535, rel=1e-5)
    assert float(slope[1, 1, 1]) == pytest.approx(27.21267, rel=1e-5)
    assert float(curvature[1, 1, 1]) == pytest.approx(2 * 6360.613, rel=1e-4)
    assert float(slope[1, 1, 0]) == pytest.approx(-9.070889, rel=1e-5)


def test_the_scales_are_those_of_mbirjax():
    """A cylinder of 0.02 with one of 0.03 in it, 32 parallel views; mbirjax: 0.0242045, 0.0160951 and 0.00462649."""
    grid = VolumeGrid((16, 64, 64), 1.0)
    z, y, x = torch.meshgrid(*(torch.arange(n) - 0.5 * (n - 1) for n in grid.shape), indexing="ij")
    inside = z.abs() < 7
    volume = 0.02 * (inside & (y**2 + x**2 < 22**2)) + 0.01 * (
        inside & ((y - 6) ** 2 + (x + 4) ** 2 < 36)
    )
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(32, 180), detector_shape=(16, 64), pixel_mm=1.0
    )
    shown = project(volume, grid, scan)
    for weights, sigma_y in ((torch.ones_like(shown), 0.0242045), (torch.exp(-shown), 0.0160951)):
        found = automatic_sigmas(shown, grid, scan, weights, snr_db=30.0, sharpness=1.0)
        assert found == pytest.approx((sigma_y, 0.00462649), rel=0.01)


def test_mbir_is_the_dense_solution_where_the_prior_is_quadratic(tiny, system):
    """With q = p = 2 the prior is half of the squared differences: normal equations."""
    projections, weights = tiny
    scales = {"sigma_y": 0.5, "sigma_x": 0.2}
    found = mbir(
        projections,
        GRID,
        SCAN,
        weights=weights,
        power=1.0,
        p=2.0,
        q=2.0,
        iterations=200,
        tolerance=1e-9,
        nonnegative=False,
        **scales,
    )
    ratios = tuple(min(GRID.voxel_mm) / edge for edge in GRID.voxel_mm)
    units = torch.eye(system.shape[1], dtype=torch.float64).reshape(-1, *GRID.shape)
    steps = torch.stack([differences(unit, ratios).flatten() for unit in units], dim=1)
    known = (weights / weights.mean()).flatten() / 0.5**2
    matrix = (system.T * known) @ system + steps.T @ steps / (6 * 2 * 0.2**2)
    wanted = torch.linalg.solve(matrix, (system.T * known) @ projections.flatten())
    assert error(found.flatten(), wanted) < 1e-3 * float(wanted.square().mean().sqrt())


@pytest.mark.parametrize("name", SOLVERS)
def test_beats_fdk_uses_its_start_and_weights_and_repeats(name, measurement):
    grid, scan, truth, projections = measurement
    solver, calls = SOLVERS[name], []
    options = {"iterations": FEW[name]}
    volume = solver(projections, grid, scan, progress=lambda *c: calls.append(c), **options)
    plain = analytic(projections, grid, scan).clamp_min(0.0)
    assert error(volume, truth) < (0.95 if name == "cgls" else 0.7) * error(plain, truth)
    assert float(volume.min()) >= 0.0
    assert [call[:2] for call in calls] == [(i + 1, FEW[name]) for i in range(len(calls))]
    assert all(call[2].startswith("residual ") for call in calls)
    kept = truth.clone()
    near = solver(projections, grid, scan, iterations=1, initial=truth)
    far = solver(projections, grid, scan, iterations=1, initial=torch.zeros_like(truth))
    assert torch.equal(truth, kept)
    assert error(near, truth) < error(far, truth)
    assert torch.equal(near, solver(projections, grid, scan, iterations=1, initial=truth))
    weights = torch.exp(-4.0 * projections / projections.max())
    weighted = solver(projections, grid, scan, iterations=1, initial=truth, weights=weights)
    assert error(weighted, near) > 1e-4


@pytest.mark.parametrize("name", ["fista_tv", "sbtv", "mbir"])
def test_scaled_projections_give_the_scaled_volume(name, measurement):
    grid, scan, truth, projections = measurement
    plain = SOLVERS[name](projections, grid, scan, iterations=3)
    scaled = SOLVERS[name](1e4 * projections, grid, scan, iterations=3)
    assert error(scaled / 1e4, plain) < 1e-3 * error(plain, truth)


@pytest.mark.parametrize("name", ["cgls", "fista_tv", "sbtv"])
def test_a_grid_that_no_ray_meets_stays_as_it_was(name, measurement):
    grid, scan, truth, projections = measurement
    above = VolumeGrid(grid.shape, grid.voxel_mm, (0.0, 0.0, 500.0))
    volume = SOLVERS[name](projections, above, scan, iterations=2, initial=truth)
    assert torch.equal(volume, truth)


@pytest.mark.parametrize("name", ["cgls", "fista_tv", "sbtv"])
def test_projections_of_nothing_give_nothing(name, measurement):
    grid, scan, _, projections = measurement
    volume = SOLVERS[name](torch.zeros_like(projections), grid, scan, iterations=2)
    assert float(volume.abs().max()) == 0.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cgls", {"iterations": 0}, "iterations is 0"),
        ("cgls", {"level": -1.0}, "level is -1"),
        ("fista_tv", {"strength": -1.0}, "strength is -1"),
        ("fista_tv", {"inner_iterations": 0}, "inner_iterations is 0"),
        ("sbtv", {"coupling": 0.0}, "coupling is 0"),
        ("sbtv", {"noise": -1.0}, "noise is -1"),
        ("mbir", {"p": 1.2, "q": 2.0}, "p is 1.2 and q is 2"),
        ("mbir", {"sigma_x": 0.0}, "sigma_x is 0"),
    ],
)
def test_refusals_say_what_was_expected(name, options, message, measurement):
    grid, scan, _, projections = measurement
    with pytest.raises(ValueError, match=message):
        SOLVERS[name](projections, grid, scan, **options)
