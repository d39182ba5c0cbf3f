"""The backprojected residual of a volume is nought where it fits, and its error with all views."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import analytic, backprojected_residual, residual_evidence

GRID = VolumeGrid((12, 24, 24), 2.0)


def scan(views: int, beam: str = "cone", **changed: object) -> ScanGeometry:
    common = {
        "angles_rad": uniform_angles(views),
        "detector_shape": (24, 40),
        "pixel_mm": 2.4 if beam == "cone" else 2.0,
        **changed,
    }
    if beam == "parallel":
        return ScanGeometry.parallel(**common)
    return ScanGeometry.cone(source_to_axis_mm=400.0, source_to_detector_mm=500.0, **common)


def blob(shift: float) -> torch.Tensor:
    centre = torch.tensor([0.0, shift, -shift])
    return torch.exp(-0.5 * ((GRID.points() - centre) / 5.0).square().sum(-1))


def test_a_volume_that_fits_leaves_nothing() -> None:
    truth = blob(4.0)
    residual = backprojected_residual(truth, project(truth, GRID, scan(12)), GRID, scan(12))
    assert residual.abs().max() < 1e-4


def test_with_all_views_it_is_the_error() -> None:
    for beam in ("cone", "parallel"):
        views = scan(180, beam)
        truth, wrong = blob(4.0), blob(0.0)
        residual = backprojected_residual(wrong, project(truth, GRID, views), GRID, views)
        assert (residual - (truth - wrong)).norm() < 0.15 * (truth - wrong).norm()


def test_it_is_what_analytic_reconstruction_adds() -> None:
    views = scan(16)
    measured, volume = project(blob(4.0), GRID, views), blob(0.0)
    residual = backprojected_residual(volume, measured, GRID, views)
    once = analytic(measured, GRID, views) - analytic(project(volume, GRID, views), GRID, views)
    torch.testing.assert_close(residual, once, atol=1e-5, rtol=1e-4)


def noisy(seed: int, deviation: Tensor | float, views: ScanGeometry) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lines = project(blob(4.0), GRID, views)
    return lines + deviation * torch.randn(lines.shape, generator=generator)


@pytest.mark.parametrize("offset", [0.0, 14.0])
@pytest.mark.parametrize("beam", ["cone", "parallel"])
def test_equal_weights_are_no_weights(beam: str, offset: float) -> None:
    views = scan(32, beam, detector_offset_mm=(0.0, offset))
    measured = noisy(0, 0.5, views)
    plain = backprojected_residual(blob(2.0), measured, GRID, views)
    for level in (1e-9, 4.0, 1e6):
        weights = torch.full_like(measured, level)
        weighted = backprojected_residual(blob(2.0), measured, GRID, views, weights)
        torch.testing.assert_close(weighted, plain, atol=2e-6, rtol=1e-4)


def test_the_map_of_the_noise_is_the_deviation_of_residuals_of_pure_noise() -> None:
    views = scan(24)
    # Behind the middle of the detector four times the noise of its sides.
    across = torch.linspace(-1, 1, 40).expand(24, 24, 40)
    deviation = 0.1 * (1 + 3 * torch.exp(-((across / 0.3) ** 2)))
    for spread in (torch.full_like(deviation, 0.2), deviation):
        weights = spread**-2
        draws = [noisy(seed, spread, views) for seed in range(30)]
        found = [residual_evidence(blob(4.0), d, GRID, views, weights) for d in draws]
        deviations = torch.stack([each.residual for each in found]).square().mean(0).sqrt()
        noise = torch.stack([each.noise for each in found]).mean(0)
        inside = (slice(2, -2), slice(3, -3), slice(3, -3))
        ratio = noise[inside] / deviations[inside]
        assert ratio.mean() == pytest.approx(1.0, abs=0.06)
        # Thirty draws say the deviation of a voxel to 13 per cent.
        assert ratio.std() < 0.2


def test_twice_the_noise_is_twice_the_map() -> None:
    views = scan(24)
    once, twice = (
        residual_evidence(
            blob(4.0), noisy(0, d, views), GRID, views, torch.full((24, 24, 40), d**-2)
        )
        for d in (0.1, 0.2)
    )
    torch.testing.assert_close(twice.noise, 2 * once.noise, rtol=1e-3, atol=1e-5)
    assert (once.noise > 0).all()


def test_without_weights_the_noise_is_not_known() -> None:
    views = scan(12)
    found = residual_evidence(blob(0.0), noisy(0, 0.1, views), GRID, views)
    assert found.noise is None
    plain = backprojected_residual(blob(0.0), noisy(0, 0.1, views), GRID, views)
    torch.testing.assert_close(found.residual, plain)


def test_starved_rays_of_wild_values_change_nothing() -> None:
    views = scan(24)
    measured, weights = noisy(0, 0.1, views), torch.full((24, 24, 40), 100.0)
    starved = measured.clone()
    starved[5:8, 8:16, 14:20] += torch.linspace(-2000, 2000, 6)
    weights[5:8, 8:16, 14:20] = 1e-7
    hidden = weights.clone()
    hidden[5:8, 8:16, 14:20] = 0.0
    clean = residual_evidence(blob(4.0), measured, GRID, views, hidden)
    wild = residual_evidence(blob(4.0), starved, GRID, views, weights)
    assert (wild.residual - clean.residual).abs().max() < 0.05 * clean.residual.std()
    torch.testing.assert_close(wild.noise, clean.noise, rtol=0.05, atol=0)


def test_weights_lower_the_noise_of_the_residual() -> None:
    views = scan(24)
    spread = torch.full((24, 24, 40), 0.05)
    spread[::3] = 0.5
    measured = noisy(0, spread, views)
    plain = backprojected_residual(blob(4.0), measured, GRID, views)
    weighted = backprojected_residual(blob(4.0), measured, GRID, views, spread**-2)
    assert weighted.norm() < 0.5 * plain.norm()


@pytest.mark.parametrize(
    "wrong", [torch.ones(24, 24, 41), torch.zeros(24, 24, 40), -torch.ones(24, 24, 40)]
)
def test_weights_that_make_no_sense_are_refused(wrong: Tensor) -> None:
    views = scan(24)
    with pytest.raises(ValueError, match="weights "):
        backprojected_residual(blob(4.0), noisy(0, 0.1, views), GRID, views, wrong)


def test_weights_are_turned_as_the_pixels_of_a_mirrored_and_shifted_detector() -> None:
    views = scan(24, detector_offset_mm=(0.0, 14.0))
    mirrored = replace(views, u_mm=-views.u_mm)
    spread = torch.linspace(0.1, 0.6, 40).expand(24, 24, 40).clone()
    spread[::3] *= 3.0
    measured, weights = noisy(0, spread, views), spread**-2
    found = backprojected_residual(blob(4.0), measured, GRID, views, weights)
    turned = backprojected_residual(
        blob(4.0), measured.flip(-1), GRID, mirrored, weights.flip(-1).contiguous()
    )
    torch.testing.assert_close(turned, found, atol=1e-4, rtol=1e-3)
    assert (
        found - backprojected_residual(blob(4.0), measured, GRID, views)
    ).norm() > 0.1 * found.norm()
