"""The nearest volume that agrees with its projections, against Tikhonov's closed form."""

import math

import numpy as np
import pytest
import torch

from diffnr_lightning.consistency import agree, unexplained
from diffnr_lightning.consistency.smoothing import smoothed
from diffnr_lightning.data import Noise, ScanRecipe, generate, simulate_case
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.projectors import project

GRID = VolumeGrid((6, 8, 8), 3.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(5),
    source_to_axis_mm=70.0,
    source_to_detector_mm=100.0,
    detector_shape=(10, 12),
    pixel_mm=4.0,
)
TRUTH = 0.05 + torch.exp(-0.5 * (GRID.points() / 6.0).square().sum(-1))
EXACT = project(TRUTH, GRID, SCAN)
WEIGHTS = 1 / (0.1 + 0.02 * EXACT) ** 2
# Below the truth nowhere by so much that a change makes a voxel negative.
REPAIRED = TRUTH + 0.04 * torch.sin(GRID.points().sum(-1))
WHOLE = {"directions": 60, "smoothing": 0.0, "support": -1.0, "resolution": False}


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    """The system matrix, (rays, voxels)."""
    voxels = torch.eye(TRUTH.numel()).reshape(-1, *GRID.shape)
    return torch.stack([project(v, GRID, SCAN).flatten() for v in voxels]).T.double().numpy()


@pytest.fixture(scope="module")
def measured() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return EXACT + torch.randn(EXACT.shape, generator=generator) / WEIGHTS.sqrt()


def unexplained_by_counts(volume, photons):
    seen = (photons.weights() > 0) & (project(torch.ones_like(TRUTH), GRID, SCAN) > 0)
    expected = photons.air * torch.exp(-photons.scale * project(volume, GRID, SCAN))
    return float(((expected - photons.counts).square() / expected)[seen].mean())


def chi_square(volume, projections, weights=WEIGHTS):
    seen = (weights > 0) & (project(torch.ones_like(TRUTH), GRID, SCAN) > 0)
    residual = (project(volume, GRID, SCAN) - projections).square() * weights
    return float(residual[seen].mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.8])
@pytest.mark.parametrize("support", [-1.0, 0.2])
def test_it_is_the_closed_form_of_its_stiffness(matrix, measured, smoothing, support):
    given = WHOLE | {"smoothing": smoothing, "support": support}
    made = agree(REPAIRED, measured, GRID, SCAN, weights=WEIGHTS, level=1.02, **given)
    assert made.reached and made.before > 1.1
    inside = (REPAIRED > support).float()
    voxels = torch.eye(TRUTH.numel()).reshape(-1, *GRID.shape)
    spread = [inside * smoothed(v, smoothing, (0, 1, 2), "zero") for v in voxels]
    spread = torch.stack(spread).reshape(TRUTH.numel(), -1).T.double().numpy()
    rays = (project(inside, GRID, SCAN) > 0).flatten().numpy()
    root = WEIGHTS.sqrt().flatten().double().numpy() * rays
    system = root[:, None] * matrix @ spread
    target = root * (measured - project(REPAIRED, GRID, SCAN)).flatten().double().numpy()
    normal = system.T @ system + made.stiffness * np.eye(system.shape[1])
    change = spread @ np.linalg.solve(normal, system.T @ target)
    expected = REPAIRED + torch.from_numpy(change).float().reshape(GRID.shape)
    difference = (made.volume - expected).norm() / (made.volume - REPAIRED).norm()
    assert difference < 0.05


def test_the_level_is_hit_and_the_change_grows_as_it_falls(measured):
    lengths, stiffness = [], []
    for level in (1.1, 1.0, 0.9, 0.8):
        made = agree(REPAIRED, measured, GRID, SCAN, weights=WEIGHTS, level=level, **WHOLE)
        assert made.reached
        assert chi_square(made.volume, measured) == pytest.approx(level, rel=0.01)
        assert made.after == pytest.approx(level, rel=0.01)
        lengths.append(float((made.volume - REPAIRED).norm()))
        stiffness.append(made.stiffness)
    assert lengths == sorted(lengths) and stiffness == sorted(stiffness, reverse=True)


def test_what_agrees_already_comes_back(measured):
    made = agree(TRUTH, measured, GRID, SCAN, weights=WEIGHTS, level=1.2)
    assert made.volume is TRUTH
    assert made.reached and made.stiffness == math.inf and made.before == made.after < 1.2


def test_a_level_out_of_reach_is_said(measured):
    made = agree(REPAIRED, measured, GRID, SCAN, weights=WEIGHTS, level=0.01, directions=3)
    assert not made.reached and made.directions == 3
    # Half of the way, in logarithms, to what three directions could explain.
    reachable = made.after**2 / made.before
    assert 0.01 < reachable < made.after < made.before
    nearly = agree(
        REPAIRED, measured, GRID, SCAN, weights=WEIGHTS, level=1.02 * reachable, directions=3
    )
    assert nearly.reached and nearly.after == pytest.approx(1.02 * reachable, rel=0.02)


def test_masked_rays_have_no_influence(measured):
    masked = WEIGHTS.clone()
    masked[:, 2:5, 3:9] = 0
    damaged = measured.clone()
    damaged[:, 2:5, 3:9] = 100.0
    expected, made = (
        agree(REPAIRED, given, GRID, SCAN, weights=masked, **WHOLE) for given in (measured, damaged)
    )
    torch.testing.assert_close(made.volume, expected.volume)
    assert made.reached


def test_another_unit_gives_the_same_volume_in_it(measured):
    made = agree(REPAIRED, measured, GRID, SCAN, weights=WEIGHTS)
    other = agree(
        50 * REPAIRED, 50 * measured, GRID, SCAN, weights=WEIGHTS / 2500, support=50 * 0.02
    )
    torch.testing.assert_close(other.volume / 50, made.volume, atol=1e-5, rtol=1e-4)
    assert other.stiffness == pytest.approx(made.stiffness / 2500, rel=0.01)


def test_air_stays_as_it_is(measured):
    repaired = torch.where(GRID.points()[..., 0] > 6, 0.01, REPAIRED)
    made = agree(repaired, measured, GRID, SCAN, weights=WEIGHTS, smoothing=1.0, directions=5)
    air = repaired <= 0.02
    assert torch.equal(made.volume[air], repaired[air])
    assert not torch.equal(made.volume[~air], repaired[~air])


def test_a_volume_that_shows_nothing_explains_nothing(measured):
    """A prior may erase the object; the rays that pass its support, which is none, would all be explained."""
    nothing = torch.zeros_like(TRUTH)
    expected = chi_square(nothing, measured)
    left = unexplained(nothing, measured, GRID, SCAN, weights=WEIGHTS)
    # Of all rays; a few miss the grid.
    assert left == pytest.approx(expected, rel=0.2) and left > 10
    made = agree(nothing, measured, GRID, SCAN, weights=WEIGHTS)
    assert (made.before, made.after, made.reached) == (left, left, False)
    assert torch.equal(made.volume, nothing)


def test_what_is_not_finite_is_refused(measured):
    for volume, projections in ((TRUTH * math.nan, measured), (TRUTH, measured * math.inf)):
        with pytest.raises(ValueError, match="agree got .* not finite"):
            agree(volume, projections, GRID, SCAN, weights=WEIGHTS)


@pytest.mark.parametrize("judge", [agree, unexplained])
def test_weights_that_make_no_sense_are_refused(judge, measured):
    for weights, message in (
        (WEIGHTS * math.nan, "weights lie from nan"),
        (-WEIGHTS, "weights lie from -"),
        (WEIGHTS[1:], "weights has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            judge(REPAIRED, measured, GRID, SCAN, weights=weights)


def test_counts_are_explained_behind_thick_objects():
    # Line integrals up to 7.5: behind the middle less than ten photons.
    generator = torch.Generator().manual_seed(5)
    scale = 7.5 / float(EXACT.max())
    air = torch.full((1, 1, 1), 1e4)
    counts = torch.poisson(air * torch.exp(-scale * EXACT), generator=generator)
    photons = PhotonCounts(counts, air, 0.0, scale)
    projections = -(counts.clamp_min(1) / air).log() / scale
    given = {"weights": photons.weights(), "photons": photons} | WHOLE
    assert float(photons.chi_square(EXACT).mean()) == pytest.approx(1, abs=0.1)
    made = agree(REPAIRED, projections, GRID, SCAN, **given)
    assert made.reached and made.before > 2
    after = photons.chi_square(project(made.volume, GRID, SCAN))
    assert float(after.mean()) == pytest.approx(1, abs=0.1)
    assert (made.volume - TRUTH).norm() < (REPAIRED - TRUTH).norm()


def test_what_a_large_change_leaves_is_said_as_it_is():
    """To first order the counts are explained by a change that predicts others."""
    air, scale = torch.full((1, 1, 1), 1e4), 6.0 / float(EXACT.max())
    photons = PhotonCounts(air * torch.exp(-scale * EXACT), air, 0.0, scale)
    given = {"weights": photons.weights(), "photons": photons} | WHOLE
    made = agree(0.4 * TRUTH, EXACT, GRID, SCAN, **given)
    assert made.before > 100
    left = unexplained_by_counts(made.volume, photons)
    assert made.after == pytest.approx(left, rel=1e-3)


@pytest.mark.parametrize(("times", "share"), [(5, 0.5), (30, 1.0)])
def test_a_volume_that_is_far_too_dense_does_not_explain_less_afterwards(times, share):
    """There the step to first order, which knows no counts of photons, is far too long."""
    recipe = ScanRecipe(size=24, num_views=12, noise=Noise("physical", 1e5), test_views=0)
    case = simulate_case(generate("phantom:0", 48), recipe)
    given = {"photons": case.photons, "weights": case.photons.weights()}
    dense = times * case.volume
    made = agree(dense, case.projections, case.grid, case.scan, **given)
    assert made.after <= share * made.before and not made.reached


def test_a_volume_may_leave_what_another_left(measured):
    given = {"weights": WEIGHTS}
    start = TRUTH + 0.02 * torch.cos(GRID.points().sum(-1))
    level = unexplained(start, measured, GRID, SCAN, **given)
    made = agree(REPAIRED, measured, GRID, SCAN, **given, level=level, directions=40)
    assert made.before > 1.04 * level and made.reached and made.level == level
    assert unexplained(made.volume, measured, GRID, SCAN, **given) == pytest.approx(level, rel=0.02)


@pytest.mark.parametrize("wrong", [{"level": 0.0}, {"directions": 0}, {"smoothing": -1.0}])
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="agree got"):
        agree(TRUTH, EXACT, GRID, SCAN, weights=WEIGHTS, **wrong)


def test_what_voxels_do_not_resolve_is_no_reason_to_change_them():
    # Projected from finer voxels onto finer pixels: the truth misses the projections by far more than their noise.
    recipe = ScanRecipe(size=32, num_views=12, noise=Noise("physical", 1e5), test_views=0)
    case = simulate_case(generate("phantom:3", 64), recipe)
    given = {"photons": case.photons, "weights": case.photons.weights()}
    blind, aware = (
        agree(case.volume, case.projections, case.grid, case.scan, **given, resolution=resolution)
        for resolution in (False, True)
    )
    assert blind.before > 10
    assert 0.5 < aware.before < 2.5
    errors = [(made.volume - case.volume).norm() for made in (blind, aware)]
    # The blind one cannot reach its level and stops half of the way.
    assert not blind.reached
    assert errors[1] < 0.7 * errors[0]
