"""The data step against dense linear algebra."""

import pytest
import torch

from diffnr_lightning.consistency import DataStep, LeastSquares
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((4, 3, 3), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(5),
    source_to_axis_mm=60.0,
    source_to_detector_mm=90.0,
    detector_shape=(6, 7),
    pixel_mm=2.0,
)


@pytest.fixture(scope="module")
def fit() -> LeastSquares:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(GRID.shape, generator=generator, dtype=torch.float64)
    shown = project(truth, GRID, SCAN)
    weights = 0.5 + torch.rand(shown.shape, generator=generator, dtype=torch.float64)
    return LeastSquares.weighted(shown, GRID, SCAN, weights, 1.0)


@pytest.fixture(scope="module")
def normal(fit) -> torch.Tensor:
    """``A^T W A`` as a matrix."""
    units = torch.eye(36, dtype=torch.float64).reshape(-1, *GRID.shape)
    return torch.stack([fit.pull(fit.shown(unit)).flatten() for unit in units], dim=1)


def test_the_largest_eigenvalue_is_found(fit, normal):
    wanted = float(torch.linalg.eigvalsh(normal)[-1])
    assert 0.98 * wanted < fit.largest() <= wanted * (1 + 1e-9)


@pytest.mark.parametrize(("proximity", "coupling"), [(0.1, 0.0), (0.02, 0.05)])
def test_sweeps_are_those_of_admm_on_dense_matrices(fit, normal, proximity, coupling):
    threshold = 0.1
    step = DataStep(fit, iterations=45, coupling=coupling, threshold=threshold)
    between = torch.eye(36, dtype=torch.float64).reshape(-1, *GRID.shape)
    between = torch.diff(between, dim=1).flatten(1).T
    matrix = normal * step.scale + coupling * between.T @ between + proximity * torch.eye(36)
    back = fit.pull(fit.projections).flatten() * step.scale
    steep = dual = torch.zeros(27, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        estimate = torch.rand(GRID.shape, generator=generator, dtype=torch.float64)
        right = back + coupling * between.T @ (steep - dual) + proximity * estimate.flatten()
        wanted = torch.linalg.solve(matrix, right)
        lifted = between @ wanted + dual
        steep = lifted.sign() * (lifted.abs() - threshold).clamp(min=0.0)
        dual = lifted - steep
        torch.testing.assert_close(step(estimate, proximity).flatten(), wanted, rtol=0, atol=1e-5)
    if coupling:
        torch.testing.assert_close(step.dual.flatten(), dual, rtol=0, atol=1e-5)


def test_a_slice_alone_is_coupled_to_none():
    grid = VolumeGrid((1, 3, 3), 2.0)
    shown = project(torch.rand(grid.shape, generator=torch.Generator().manual_seed(0)), grid, SCAN)
    one = LeastSquares.weighted(shown, grid, SCAN, None, 1.0)
    step, alone = (DataStep(one, iterations=3, coupling=c, threshold=0.1) for c in (0.05, 0.0))
    estimate = torch.full(grid.shape, 0.5)
    for _ in range(2):
        assert torch.equal(step(estimate), alone(estimate))
        step.renew(estimate)


def test_few_iterations_keep_what_the_projections_do_not_show(fit):
    few = SCAN[:1]
    one = LeastSquares.weighted(fit.projections[:1], GRID, few, None, 1.0)
    generator = torch.Generator().manual_seed(1)
    estimate = torch.rand(GRID.shape, generator=generator, dtype=torch.float64)
    fitted = DataStep(one, iterations=5)(estimate)
    missing = one.cost(one.projections - one.shown(estimate))
    assert one.cost(one.projections - one.shown(fitted)) < 0.01 * missing
    units = torch.eye(36, dtype=torch.float64).reshape(-1, *GRID.shape)
    system = torch.stack([one.shown(unit).flatten() for unit in units], dim=1)
    *_, rows = torch.linalg.svd(system)
    unseen = rows[torch.linalg.matrix_rank(system) :]
    assert len(unseen) > 0
    assert float((unseen @ (fitted - estimate).flatten()).abs().max()) < 1e-6


def test_slices_alone_are_those_of_their_own_rows(fit):
    """Few iterations, in which the steps of all slices together would be others."""
    grid, angles = VolumeGrid((4, 6, 6), 2.0), uniform_angles(5, 180)
    scan = ScanGeometry.parallel(angles_rad=angles, detector_shape=(4, 9), pixel_mm=2.0)
    generator = torch.Generator().manual_seed(2)
    truth = torch.rand(grid.shape, generator=generator, dtype=torch.float64)
    truth *= torch.tensor([1.0, 0.0, 0.1, 5.0])[:, None, None]
    shown, start = project(truth, grid, scan), torch.zeros_like(truth)
    whole = LeastSquares.weighted(shown, grid, scan, None, 1.0)
    found = DataStep(whole, iterations=3, slicewise=True)(start)
    together = DataStep(whole, iterations=3)(start)
    for z in range(4):
        rows, place = slice(3 - z, 4 - z), slice(z, z + 1)
        alone = (shown[:, rows], grid.crop((z, 0, 0), (1, 6, 6)), scan.window(rows), None, 1.0)
        wanted = DataStep(LeastSquares.weighted(*alone), iterations=3)(start[place])
        torch.testing.assert_close(found[place], wanted, rtol=0, atol=1e-6)
    assert float((found - together).abs().max()) > 1e-3
    with pytest.raises(ValueError, match="rays pass through several slices; parallel beams"):
        DataStep(fit, iterations=3, slicewise=True)
    with pytest.raises(ValueError, match=r"slicewise is set and coupling is 0\.1"):
        DataStep(whole, iterations=3, coupling=0.1, slicewise=True)
