from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from diffnr_lightning.data import (
    LoadedVolume,
    Noise,
    NothingToScanError,
    Scanner,
    ScanRecipe,
    planned_geometry,
    read_case,
    simulate_case,
    simulated_object,
    simulation,
    write_case,
)
from diffnr_lightning.data.noise import MU_WATER_PER_MM, Measured
from diffnr_lightning.data.resampling import resample
from diffnr_lightning.data.simulation import stable_seed
from diffnr_lightning.projectors import project

NOISELESS = Noise(mode="none")
SMALL = ScanRecipe(size=24, num_views=5, test_views=2)


@pytest.fixture
def loaded(ellipsoid) -> LoadedVolume:
    return ellipsoid((20, 15, 12), (4, -6, 3)).loaded((24, 28, 32), (2.0, 2.0, 2.0))


@pytest.mark.parametrize("beam", ["cone", "parallel"])
def test_projections_are_those_of_the_ellipsoid(ellipsoid, beam):
    solid = ellipsoid((28, 22, 18), (6, -10, 4))
    loaded = solid.loaded((48, 48, 48), (2.0, 2.0, 2.0))
    recipe = ScanRecipe(
        size=32, num_views=5, noise=NOISELESS, test_views=3, scanner=Scanner(beam=beam)
    )
    case = simulate_case(loaded, recipe)
    for scan, projections in (
        (case.scan, case.projections),
        (case.test_scan, case.test_projections),
    ):
        exact = solid.line_integrals(scan)
        peak = exact.max()
        error = np.abs(projections.numpy() - exact)
        # Rays through the edge see a pixel's mean where the closed form has its centre.
        inner = ndimage.minimum_filter(exact, (1, 5, 5)) > 0.3 * peak
        assert error[inner].max() < 0.03 * peak
        assert error.mean() < 0.006 * peak


def test_truth_is_the_mean_over_each_voxel(ellipsoid):
    solid = ellipsoid((28, 22, 18), (6, -10, 4))
    recipe = ScanRecipe(size=24, num_views=2, noise=NOISELESS)
    case = simulate_case(solid.loaded((48, 48, 48), (2.0, 2.0, 2.0)), recipe)
    exact = solid.loaded((24, 24, 24), (4.0, 4.0, 4.0), finer=8).array
    exact = (exact + 1000) / 2024
    assert np.abs(case.volume.numpy() - exact).mean() < 0.004
    assert case.volume.sum() == pytest.approx(exact.sum(), rel=0.005)
    assert case.grid.voxel_mm == pytest.approx((4.0,) * 3)


def test_projecting_the_truth_explains_the_projections(loaded):
    """Not exactly, for the simulation is finer, but to a few percent."""
    case = simulate_case(loaded, ScanRecipe(32, 4, noise=NOISELESS, test_views=0))
    coarse = project(case.volume, case.grid, case.scan)
    error = (coarse - case.projections).abs().mean() / case.projections.mean()
    assert 0 < error < 0.05


def test_same_name_same_bytes_and_other_names_or_seeds_other_noise(loaded):
    first, again = (simulate_case(loaded, SMALL, name="a") for _ in range(2))
    assert torch.equal(first.projections, again.projections)
    assert torch.equal(first.test_projections, again.test_projections)
    assert first.test_scan == again.test_scan
    other = simulate_case(loaded, SMALL, name="b")
    assert not torch.equal(first.projections, other.projections)
    assert first.test_scan != other.test_scan
    seeded = simulate_case(loaded, SMALL, name="b", seed=first.seed)
    assert torch.equal(seeded.projections, first.projections)
    # Machine and Python's hash randomisation must not matter.
    assert stable_seed("a", 5) == first.seed == 135769723048656


def test_noise_neither_touches_test_views_nor_their_angles(loaded):
    quiet, loud = (
        simulate_case(loaded, replace(SMALL, noise=Noise(photons=photons)))
        for photons in (1e6, 1e3)
    )
    assert torch.equal(quiet.test_projections, loud.test_projections)
    assert quiet.test_scan == loud.test_scan
    assert quiet.scan == loud.scan


@pytest.mark.parametrize("window", [(-1000.0, 1024.0), (-500.0, 1024.0), (0.0, 2100.0)])
def test_photons_are_counted_behind_the_object_whatever_the_window(ellipsoid, window):
    """134 mm of 160 HU let 1e4 exp(-3.2) photons through."""
    solid = ellipsoid((67, 67, 67), density=1160 / 2024)
    loaded = solid.loaded((28, 28, 28), (5.0, 5.0, 5.0))
    noise = Noise(photons=1e4, electronic=0.0)
    recipe = ScanRecipe(24, 40, window_hu=window, oversampling=1, test_views=0, noise=noise)
    clean = simulate_case(loaded, replace(recipe, noise=NOISELESS)).projections.numpy()
    noisy = simulate_case(loaded, recipe).projections.numpy()
    scale = MU_WATER_PER_MM * (window[1] - window[0]) / 1000
    centre = (slice(None), slice(11, 13), slice(11, 13))
    error = scale * (noisy - clean)[centre]
    counts = 1e4 * np.exp(-134 * 1.16 * MU_WATER_PER_MM)
    assert error.std() == pytest.approx(1 / np.sqrt(counts), rel=0.12)
    assert abs(error.mean()) < 3 / np.sqrt(counts * error.size) + 0.5 / counts
    # What is projected is the density in the window: 160 HU of it above its low end.
    expected = 134 * (160 - window[0]) / (window[1] - window[0])
    assert clean[centre].mean() == pytest.approx(expected, rel=0.04)


def test_what_photons_are_counted_behind_is_the_same_in_every_window(ellipsoid, monkeypatch):
    loaded = ellipsoid((20, 15, 12)).loaded((24, 28, 32), (2.0, 2.0, 2.0))
    array = loaded.array.copy()
    array[11:14, 13:16, 15:18] = 3000.0  # metal is seen, too
    loaded = replace(loaded, array=array)
    behind = []

    def exact_counts(line_integrals, noise, generator):
        behind.append(line_integrals)
        return Measured(line_integrals, noise.photons * np.exp(-line_integrals), 1.0)

    monkeypatch.setattr(simulation, "photon_noise", exact_counts)
    for window in ((-1000.0, 3000.0), (-1000.0, 1024.0), (-500.0, 1024.0), (0.0, 2100.0)):
        recipe = replace(SMALL, window_hu=window, oversampling=1)
        case = simulate_case(loaded, recipe)
        measured = case.projections
        np.testing.assert_allclose(behind[-1], behind[0], rtol=1e-5, atol=1e-6)
        # Without an error of the measurement the windowed density's line integrals are left.
        exact = simulate_case(loaded, replace(recipe, noise=NOISELESS)).projections
        assert torch.allclose(measured, exact, atol=1e-5 * float(exact.max()))
        # What the window does not show of the object dims the air in front of it.
        assert (case.photons.chi_square(exact) < 1e-3).all()
    assert behind[0].max() > 0.0206 * 4 * 6  # 6 mm of 3000 HU


def test_held_out_views_average_a_pixel_as_training_views_do(ellipsoid):
    """A sphere on the axis looks alike in all views; large pixels make the two averages differ."""
    loaded = ellipsoid((60, 60, 60)).loaded((32, 32, 32), (4.0, 4.0, 4.0))
    scanner = Scanner(detector_pixels=8)
    noise = Noise(photons=1e13, electronic=0.0)
    recipe = ScanRecipe(16, 6, test_views=6, oversampling=6, scanner=scanner, noise=noise)
    case = simulate_case(loaded, recipe)
    ideal = simulate_case(loaded, replace(recipe, noise=NOISELESS))
    train, test = case.projections.mean(0), case.test_projections.mean(0)
    ideal_train, ideal_test = ideal.projections.mean(0), ideal.test_projections.mean(0)
    assert (train - test).abs().mean() < 0.1 * (train - ideal_train).abs().mean()
    assert (ideal_train - ideal_test).abs().max() < 2e-3 * ideal_train.max()


@pytest.mark.parametrize(
    "scanner", [Scanner(), Scanner(source_to_axis=0.9, source_to_detector=1.5, detector=3.0)]
)
def test_a_large_object_is_projected_in_slabs(ellipsoid, monkeypatch, scanner):
    """With rows along the axis, and so near that rays are steep."""
    loaded = ellipsoid((20, 15, 25), (4, -6, 3)).loaded((24, 28, 32), (2.0, 2.0, 2.0))
    # Without noise: a photon more or less hangs on the last bit of what is expected.
    recipe = replace(SMALL, scanner=scanner, window_hu=(-400.0, 1024.0), noise=NOISELESS)
    whole = simulate_case(loaded, recipe)
    monkeypatch.setattr(simulated_object, "MOST_FINE_VOXELS", 3_000)
    resampled = []
    monkeypatch.setattr(
        simulated_object, "resample", lambda *a: resampled.append(a[2]) or resample(*a)
    )
    slabs = simulate_case(loaded, recipe)
    assert len(resampled) > 8 and max(map(np.prod, resampled)) <= 3_000
    peak = float(whole.projections.max())
    assert torch.allclose(slabs.projections, whole.projections, atol=1e-5 * peak)
    assert torch.allclose(slabs.test_projections, whole.test_projections, atol=1e-5 * peak)
    assert slabs.provenance == whole.provenance


def test_values_above_the_window_are_said(ellipsoid, caplog):
    loaded = ellipsoid((20, 15, 12)).loaded((24, 28, 32), (2.0, 2.0, 2.0))
    array = loaded.array.copy()
    array[10:12, 12:14, 14:16] = 2600.0
    array[11, 13, 15] = 7999.5
    enamel = replace(loaded, array=array, name="enamel")
    with caplog.at_level("WARNING", logger="diffnr"):
        simulate_case(enamel, SMALL)
    (message,) = caplog.messages
    assert "enamel: 0.0372 % of the voxels lie above the window" in message
    assert "from up to 8000 to 1024 HU (a window_hu of -1000 8000 holds them all)" in message
    caplog.clear()
    simulate_case(enamel, replace(SMALL, window_hu=(-1000.0, 8000.0)))
    assert not caplog.messages
    with caplog.at_level("WARNING", logger="diffnr"):
        simulate_case(replace(enamel, array=array + 1.5e4), SMALL)
    assert "enamel: 100 % of the voxels lie above the window" in caplog.messages[0]


def test_physical_noise_has_the_size_of_its_photon_count(loaded):
    noise = Noise(photons=1e4, electronic=10.0)
    noisy = replace(SMALL, noise=noise)
    cases = [simulate_case(loaded, noisy, seed=seed) for seed in range(30)]
    clean = simulate_case(loaded, replace(SMALL, noise=NOISELESS)).projections.numpy()
    stack = np.stack([case.projections.numpy() for case in cases])
    scale = MU_WATER_PER_MM * 2024 / 1000
    counts = 1e4 * np.exp(-clean * scale)
    expected = np.sqrt(counts + 10.0**2) / counts / scale
    ratio = stack.std(axis=0, ddof=1) / expected
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)
    bias = (stack.mean(axis=0) - clean) / expected * np.sqrt(len(cases))
    assert np.abs(bias.mean()) < 0.2


def test_tigre_noise_has_no_negative_line_integrals(loaded):
    case = simulate_case(loaded, replace(SMALL, noise=Noise(mode="tigre", photons=1e4)))
    clean = simulate_case(loaded, replace(SMALL, noise=NOISELESS)).projections
    assert case.projections.min() == 0
    empty = clean == 0
    spread = case.projections[empty].numpy()
    # sigma = sqrt(1e4 + 100) / 1e4 of the largest line integral, its negative half cut off.
    expected = np.sqrt(1e4 + 100) / 1e4 * float(clean.max()) / np.sqrt(2 * np.pi)
    assert spread.mean() == pytest.approx(expected, rel=0.05)


def test_what_lies_outside_the_cube_attenuates(ellipsoid):
    solid = ellipsoid((30, 30, 30))
    loaded = solid.loaded((40, 40, 40), (2.0, 2.0, 2.0))
    recipe = ScanRecipe(16, 4, voxel_mm=2.0, test_views=0, noise=NOISELESS)
    true = simulate_case(loaded, recipe)
    cut = simulate_case(loaded, replace(recipe, attenuate_outside=False))
    assert torch.equal(true.volume, cut.volume)
    exact = solid.line_integrals(true.scan)
    centre = (slice(None), slice(6, 10), slice(6, 10))
    assert true.projections.numpy()[centre] == pytest.approx(exact[centre], rel=0.02)
    # Only the cube of 32 mm is left of 60 mm.
    assert cut.projections.numpy()[centre].max() < 0.75 * exact[centre].min()


@pytest.mark.parametrize("beam", ["cone", "parallel"])
def test_a_few_slices_are_those_in_the_middle_of_the_cube(loaded, beam):
    scanner = Scanner(beam, detector_rows=6)
    cube = ScanRecipe(24, 5, scanner=scanner, noise=NOISELESS, attenuate_outside=False)
    slab = replace(cube, slices=8)
    whole, few = simulate_case(loaded, cube, seed=1), simulate_case(loaded, slab, seed=1)
    assert few.grid.voxel_mm == whole.grid.voxel_mm
    torch.testing.assert_close(few.volume, whole.volume[8:16])
    if beam == "parallel":
        torch.testing.assert_close(few.projections, whole.projections, rtol=0.01, atol=0.2)
    assert planned_geometry(slab)[0].shape == few.grid.shape
    assert planned_geometry(slab)[1].detector_shape == few.projections.shape[1:]


def test_rows_of_a_few_slices_see_these_alone(loaded):
    """Seven rows of 8.5 would see more than eight slices; what lies above and below would be in the eighth."""
    slab = ScanRecipe(24, 5, slices=8, scanner=Scanner("parallel"), noise=NOISELESS)
    case = simulate_case(loaded, slab)
    assert case.projections.shape == (5, 7, 36)
    explained = project(case.volume, case.grid, case.scan)
    assert float((explained - case.projections).norm() / case.projections.norm()) < 0.04


def test_luna16_recipe(ellipsoid):
    """DSO 800, DSD 1200, voxels 1.6 mm, detector 2.4 mm a pixel of 256; here an eighth of it."""
    loaded = ellipsoid((150, 110, 120)).loaded((40, 40, 40), (8.0, 8.0, 8.0))
    scanner = Scanner(source_to_axis=800, source_to_detector=1200, detector=614.4, unit="mm")
    recipe = ScanRecipe(
        size=32, voxel_mm=12.8, num_views=36, test_views=0, scanner=scanner,
        attenuate_outside=False, noise=Noise(mode="tigre", photons=1e4, electronic=10.0),
    )  # fmt: skip
    case = simulate_case(loaded, recipe)
    orbit = case.scan.orbit
    assert (orbit.source_to_axis_mm, orbit.source_to_detector_mm) == pytest.approx((800, 1200))
    assert orbit.pixel_mm == pytest.approx((19.2, 19.2))
    assert case.grid.size_mm == pytest.approx((409.6,) * 3)
    np.testing.assert_allclose(np.diff(orbit.angles_rad), np.deg2rad(10), atol=1e-9)


def test_simulated_case_survives_its_folder(loaded, tmp_path):
    case = simulate_case(loaded, SMALL)
    again = read_case(write_case(case, tmp_path / "case"))
    assert again.grid == case.grid
    assert torch.equal(again.projections, case.projections)
    assert torch.equal(again.volume, case.volume)
    assert again.provenance == case.provenance
    first, second = again.scan.orbit, case.scan.orbit
    np.testing.assert_allclose(first.angles_rad, second.angles_rad, atol=1e-9)


def test_layouts(loaded):
    quiet = replace(SMALL, noise=NOISELESS)
    cone = simulate_case(loaded, quiet).scan.orbit.angles_rad
    np.testing.assert_allclose(np.rad2deg(cone), [0, 72, 144, 216, 288], atol=1e-6)
    parallel = simulate_case(loaded, replace(quiet, scanner=Scanner(beam="parallel")))
    angles = parallel.scan.orbit.angles_rad
    np.testing.assert_allclose(np.rad2deg(angles), [0, 36, 72, 108, 144], atol=1e-6)
    third = replace(quiet, layout="limited_arc", arc_deg=120.0, start_deg=30.0)
    arc = simulate_case(loaded, third)
    angles = arc.scan.orbit.angles_rad
    np.testing.assert_allclose(np.rad2deg(angles), [30, 60, 90, 120, 150], atol=1e-6)
    random = simulate_case(loaded, replace(quiet, layout="random")).scan.orbit.angles_rad
    assert (np.diff(random) > 0).all()
    assert np.ptp(np.diff(random)) > 0.05


def test_arbitrary_unit_is_scaled_to_its_own_range(ellipsoid):
    base = ellipsoid((15, 12, 10)).loaded((24, 24, 24), (2.0, 2.0, 2.0))
    grey = LoadedVolume(base.array * 0.5 + 700, base.spacing_mm, "arbitrary", "grey")
    case = simulate_case(grey, replace(SMALL, fit="body"))
    assert case.window_hu is None
    assert case.unit == "arbitrary"
    assert float(case.volume.max()) == pytest.approx(1.0, abs=1e-3)
    assert case.provenance["window"] == [float(grey.array.min()), float(grey.array.max())]


BAD = {
    "one view": ({"num_views": 1}, "num_views"),
    "no view": ({"num_views": 0}, "num_views"),
    "small": ({"size": 4}, "size"),
    "layout": ({"layout": "spiral"}, "layout"),
    "arc": ({"layout": "limited_arc"}, "arc_deg"),
    "wide arc": ({"layout": "limited_arc", "arc_deg": 400.0}, "arc_deg"),
    "fit": ({"fit": "head"}, "fit"),
    "voxel": ({"voxel_mm": -1.0}, "voxel_mm"),
    "margin": ({"margin": -0.1}, "margin"),
    "tests": ({"test_views": -1}, "test_views"),
    "oversampling": ({"oversampling": 0}, "oversampling"),
    "window": ({"window_hu": (100.0, 100.0)}, "window_hu"),
    "low window": ({"window_hu": (-2000.0, 100.0)}, "window_hu"),
    "high window": ({"window_hu": (2000.0, 3000.0)}, "window"),
    "distances": ({"scanner": Scanner(source_to_detector=2.0)}, "DSO"),
    "small scanner": ({"scanner": Scanner(source_to_axis=0.3)}, "source"),
    "air": ({"voxel_mm": 0.01, "size": 8}, "air"),
}


@pytest.mark.parametrize("case", BAD)
def test_senseless_argument_is_named_in_one_sentence(ellipsoid, case, one_sentence):
    shell = ellipsoid((20, 15, 12)).loaded((24, 28, 32), (2.0, 2.0, 2.0))
    array = shell.array.copy()
    array[10:14, 12:16, 14:18] = -1000.0
    arguments, named = BAD[case]
    with pytest.raises(ValueError) as error:
        recipe = replace(SMALL, **arguments)
        simulate_case(LoadedVolume(array, shell.spacing_mm, "HU", "shell"), recipe)
    assert named in one_sentence(error)


@pytest.mark.parametrize("mode", ["physical", "tigre"])
def test_a_case_keeps_the_counts_behind_its_projections(loaded, mode, tmp_path):
    recipe = replace(SMALL, noise=Noise(mode=mode, photons=1e4), num_views=8)
    case = simulate_case(loaded, recipe)
    exact = simulate_case(loaded, replace(recipe, noise=NOISELESS))
    assert exact.photons is None
    assert case.photons.chi_square(exact.projections).mean() == pytest.approx(1, abs=0.05)
    # TIGRE's rule cuts off what is below zero.
    inside = exact.projections > 0.2 * exact.projections.max()
    error = (case.projections - exact.projections)[inside]
    assert (error.square() * case.photons.weights()[inside]).mean() == pytest.approx(1, abs=0.1)
    again = read_case(write_case(case, tmp_path / "case")).photons
    assert torch.equal(again.counts, case.photons.counts)
    assert (again.scale, again.electronic) == (case.photons.scale, 10.0)


@pytest.mark.parametrize("key", ["poisson_noise", "possion_noise"])
def test_a_case_of_the_noise_rule_of_published_tables_has_assumed_counts(loaded, tmp_path, key):
    """R2-Gaussian's folders say photons and read-out noise and hold no counts."""
    case = simulate_case(loaded, replace(SMALL, noise=Noise(mode="tigre", photons=1e4)))
    path = write_case(replace(case, photons=None, provenance={}), tmp_path / "case")
    meta = json.loads((path / "meta_data.json").read_text())
    meta["scanner"] |= {"noise": True, key: 1e4, "gaussian_noise": [0, 10]}
    (path / "meta_data.json").write_text(json.dumps(meta))
    found = read_case(path).photons
    assert (found.origin, found.electronic) == ("assumed", 10.0)
    assert found.weights().mean() == pytest.approx(float(case.photons.weights().mean()), rel=0.05)


@pytest.mark.parametrize("outside", [True, False])
def test_an_object_that_no_ray_meets_is_refused(outside):
    """It lies at the top of the cube, above what a small detector sees."""
    array = np.zeros((32, 32, 32), np.float32)
    array[28:, 12:20, 12:20] = 1
    loaded = LoadedVolume(array, (1.0, 1.0, 1.0), "arbitrary", "top")
    scanner = Scanner(detector=0.3)
    recipe = ScanRecipe(
        size=16, num_views=4, test_views=0, scanner=scanner, attenuate_outside=outside
    )
    with pytest.raises(NothingToScanError, match="no ray meets the object"):
        simulate_case(loaded, recipe)


def test_a_volume_that_is_the_same_everywhere_is_refused():
    loaded = LoadedVolume(np.ones((16, 16, 16), np.float32), (1.0, 1.0, 1.0), "arbitrary", "even")
    with pytest.raises(NothingToScanError, match="even: every voxel is 1"):
        simulate_case(loaded, SMALL)
