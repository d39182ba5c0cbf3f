"""Weighted total variation: the minimum it finds, and what it promises on few noisy views."""

import pytest
import torch

from diffnr_lightning.consistency import relative_weights
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import backproject, project
from diffnr_lightning.solvers import asd_pocs, total_variation, weighted_tv

GRID = VolumeGrid((8, 10, 12), (2.0, 3.0, 2.0))
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(5),
    source_to_axis_mm=90.0,
    source_to_detector_mm=135.0,
    detector_shape=(12, 18),
    pixel_mm=3.0,
)
NOISE = 2.0


@pytest.fixture(scope="module")
def small() -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy projections of a box and their weights, float64."""
    truth = torch.zeros(GRID.shape, dtype=torch.float64)
    truth[2:6, 3:8, 3:9] = 1.0
    generator = torch.Generator().manual_seed(0)
    clean = project(truth, GRID, SCAN)
    weights = 10 ** (1.5 * torch.rand(clean.shape, generator=generator).double())
    weights[1, :3] = 0.0
    noise = torch.randn(clean.shape, generator=generator).double()
    return clean + NOISE * noise / weights.clamp_min(1.0).sqrt(), weights


@pytest.fixture(scope="module")
def system() -> torch.Tensor:
    """The matrix (rays, voxels) of the scan."""
    units = torch.eye(8 * 10 * 12, dtype=torch.float64).reshape(-1, *GRID.shape)
    return torch.stack([project(unit, GRID, SCAN).flatten() for unit in units], dim=1)


def differences(volume: torch.Tensor) -> torch.Tensor:
    """(3, Z, Y, X) forward differences along z, y and x, zero at the far faces."""
    found = torch.zeros(3, *volume.shape, dtype=volume.dtype)
    for axis, edge in enumerate(GRID.voxel_mm):
        rise = torch.diff(volume, dim=axis) * min(GRID.voxel_mm) / edge
        found[axis].narrow(axis, 0, rise.shape[axis]).copy_(rise)
    return found


def objective(volume, projections, weights, bound) -> float:
    data = weights * (project(volume, GRID, SCAN) - projections).square()
    return float(0.5 * data.sum() + (bound * differences(volume).norm(dim=0)).sum())


def reference(system, projections, weights, bound) -> torch.Tensor:
    """Many steps of a plain primal-dual method (Condat, Vu) on the dense system."""
    curved = system.T * weights.flatten() @ system
    target = system.T * weights.flatten() @ projections.flatten()
    largest = float(torch.linalg.matrix_norm(curved, 2))
    volume = torch.zeros(GRID.shape, dtype=torch.float64)
    dual = torch.zeros(3, *GRID.shape, dtype=torch.float64)
    dual_step = 0.1 * largest / 12
    step = 1 / (0.5 * largest + 12 * dual_step)
    units = torch.eye(volume.numel(), dtype=torch.float64).reshape(-1, *GRID.shape)
    rises = torch.stack([differences(unit).flatten() for unit in units], dim=1).to_sparse()
    falls = rises.T
    for _ in range(7000):
        pull = (falls @ dual.flatten()).reshape(GRID.shape)
        slope = (curved @ volume.flatten() - target).reshape(GRID.shape) + pull
        moved = (volume - step * slope).clamp(min=0.0)
        dual = dual + dual_step * differences(2 * moved - volume)
        dual = dual * (bound / torch.maximum(dual.norm(dim=0), bound))
        volume = moved
    return volume


def bounds(weights, strength: float) -> torch.Tensor:
    """What the total variation of every voxel is multiplied by, as documented."""
    lengths = project(torch.ones(GRID.shape, dtype=torch.float64), GRID, SCAN)
    return strength * NOISE * backproject(weights * lengths, GRID, SCAN).sqrt()


def test_it_finds_the_minimum(small, system):
    projections, raw = small
    weights = relative_weights(raw, SCAN, projections)
    bound = bounds(weights, 0.3)
    best = reference(system, projections, weights, bound)

    def found(strength: float, iterations: int, subsets: int = 5) -> torch.Tensor:
        return weighted_tv(
            projections.float(),
            GRID,
            SCAN,
            weights=raw,
            power=1.0,
            strength=strength,
            noise=NOISE,
            iterations=iterations,
            subsets=subsets,
        ).double()

    def excess(volume: torch.Tensor) -> float:
        least = objective(best, projections, weights, bound)
        return objective(volume, projections, weights, bound) / least - 1

    near = found(0.3, 300)
    assert excess(near) < 0.004
    assert float((near - best).norm()) < 0.015 * float(best.norm())
    assert excess(found(0.3, 1000, subsets=2)) < 0.004
    assert excess(found(0.3, 1200)) < 0.4 * excess(near)
    # Minima of other strengths are elsewhere.
    assert excess(found(0.2, 300)) > 0.008
    assert excess(found(0.45, 300)) > 0.008


def test_a_prior_image_takes_its_share_of_the_penalty(small):
    projections, raw = small
    weights = relative_weights(raw, SCAN, projections)
    bound = bounds(weights, 0.3)
    image = torch.zeros(GRID.shape)
    image[1:5, 2:8, 4:10] = 1.5

    def found(share: float, initial: torch.Tensor) -> torch.Tensor:
        options = {"weights": raw, "power": 1.0, "strength": 0.3, "noise": NOISE, "subsets": 5}
        options |= {"iterations": 200, "initial": initial, "prior_share": share}
        return weighted_tv(projections.float(), GRID, SCAN, prior_image=image, **options).double()

    def excess(volume: torch.Tensor, least: float) -> float:
        alike = (0.6 * bound * differences(volume - image).norm(dim=0)).sum()
        return (objective(volume, projections, weights, 0.4 * bound) + float(alike)) / least - 1

    best = found(0.6, image)
    least = excess(best, 1.0) + 1
    assert abs(excess(found(0.6, torch.zeros(GRID.shape)), least)) < 0.004
    assert excess(found(0.4, image), least) > 0.008
    assert excess(found(0.8, image), least) > 0.008
    plain = weighted_tv(projections, GRID, SCAN, iterations=3)
    same = weighted_tv(projections, GRID, SCAN, iterations=3, prior_image=image, prior_share=0.0)
    assert torch.equal(plain, same)


def test_the_kernels_do_what_torch_does(small):
    projections, weights = small
    options = {"iterations": 6, "strength": 0.2}
    double = weighted_tv(projections, GRID, SCAN, weights=weights, **options)
    single = weighted_tv(projections.float(), GRID, SCAN, weights=weights, **options)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-4)


def test_more_strength_leaves_less_variation_and_more_residual(small):
    projections, weights = small
    variations, residuals = [], []
    for strength in (0.0, 0.1, 0.3, 1.0, 3.0):
        options = {"weights": weights, "strength": strength, "iterations": 60, "noise": NOISE}
        volume = weighted_tv(projections.float(), GRID, SCAN, **options)
        variations.append(float(total_variation(volume, GRID.voxel_mm, 0.0)))
        residual = project(volume, GRID, SCAN) - projections
        residuals.append(float((weights.sqrt() * residual.square()).sum()))
        assert float(volume.min()) >= 0.0
    assert variations == sorted(variations, reverse=True)
    assert residuals == sorted(residuals)
    assert variations[0] > 2 * variations[-1]


@pytest.mark.parametrize("noise", [None, 1.5])
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_scaled_projections_give_the_scaled_volume(factor, noise, measurement):
    grid, scan, truth, projections = measurement
    plain = weighted_tv(projections, grid, scan, iterations=3, noise=noise)
    scaled = weighted_tv(
        factor * projections, grid, scan, iterations=3, noise=noise and factor * noise
    )
    assert float((scaled / factor - plain).norm()) < 1e-3 * float((plain - truth).norm())


def test_only_ratios_of_weights_matter(measurement):
    grid, scan, _, projections = measurement
    weights = torch.rand(projections.shape, generator=torch.Generator().manual_seed(2)) + 0.1
    one, other = (
        weighted_tv(projections, grid, scan, weights=factor * weights, iterations=3)
        for factor in (1.0, 1e9)
    )
    assert float((one - other).norm()) < 1e-3 * float(one.norm())
    alike = weighted_tv(projections, grid, scan, iterations=3)
    assert torch.equal(
        weighted_tv(projections, grid, scan, weights=weights, power=0.0, iterations=3), alike
    )
    assert float((one - alike).norm()) > 1e-3 * float(one.norm())


def test_rays_of_weight_zero_say_nothing(measurement):
    grid, scan, truth, projections = measurement
    weights = torch.ones_like(projections)
    weights[3] = weights[:, 20:24, 30:] = 0.0
    broken = torch.where(weights > 0, projections, 1e3)
    options = {"iterations": 3, "weights": weights, "initial": truth}
    torch.testing.assert_close(
        weighted_tv(broken, grid, scan, **options), weighted_tv(projections, grid, scan, **options)
    )


def test_it_is_better_than_asd_pocs_behind_starved_rays_and_without(measurement):
    grid, scan, truth, noisy = measurement
    clean = project(truth, grid, scan)
    weights = torch.exp(-8.0 * clean / clean.max())
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    starved = clean + 0.01 * clean.max() * noise / weights.sqrt()
    for projections, known, gain in ((noisy, None, 0.95), (starved, weights, 0.7)):
        other = (asd_pocs(projections, grid, scan, weights=known) - truth).norm()
        ours = (weighted_tv(projections, grid, scan, weights=known) - truth).norm()
        assert float(ours) < gain * float(other)


def test_an_initial_volume_is_used_and_not_changed(measurement):
    grid, scan, truth, projections = measurement
    kept = truth.clone()
    near = weighted_tv(projections, grid, scan, iterations=2, initial=truth)
    far = weighted_tv(projections, grid, scan, iterations=2, initial=torch.zeros_like(truth))
    assert torch.equal(truth, kept)
    assert float((near - truth).norm()) < float((far - truth).norm())


def test_the_same_call_gives_the_same_bits_and_tells_of_its_progress(measurement):
    grid, scan, _, projections = measurement
    calls = []
    first, second = (
        weighted_tv(projections, grid, scan, iterations=3, progress=lambda *c: calls.append(c))
        for _ in range(2)
    )
    assert torch.equal(first, second) and first.is_contiguous()
    assert [call[:2] for call in calls] == 2 * [(1, 3), (2, 3), (3, 3)]
    assert all(call[2].startswith("residual ") for call in calls)


def test_projections_of_nothing_give_nothing(measurement):
    grid, scan, _, projections = measurement
    volume = weighted_tv(torch.zeros_like(projections), grid, scan, iterations=3)
    assert float(volume.abs().max()) == 0.0


def test_a_grid_that_no_ray_meets_stays_as_it_was(measurement):
    grid, scan, truth, projections = measurement
    above = VolumeGrid(grid.shape, grid.voxel_mm, (0.0, 0.0, 500.0))
    volume = weighted_tv(projections, above, scan, iterations=2, initial=truth)
    assert torch.equal(volume, truth)


def test_refusals_say_what_was_expected(measurement):
    grid, scan, truth, projections = measurement
    for options, message in (
        ({"strength": -1.0}, "strength is -1"),
        ({"weights": torch.ones_like(projections), "power": float("nan")}, "power is nan"),
        ({"noise": -2.0}, "noise is -2"),
        ({"iterations": 0}, "iterations is 0"),
        ({"subsets": 21}, "subsets is 21; a number from 1 to 20 views"),
        ({"initial": truth[1:]}, "initial has shape"),
        ({"weights": torch.ones(3, 4, 5)}, "weights has shape"),
        ({"prior_image": truth[1:]}, "prior_image has shape"),
        ({"prior_image": truth.log()}, "prior_image holds NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            weighted_tv(projections, grid, scan, **options)
    with pytest.raises(TypeError, match="torch tensor is expected"):
        weighted_tv(projections.numpy(), grid, scan)
