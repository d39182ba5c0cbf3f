"""What a curation draws covers what it is asked for, and nothing else."""

import numpy as np
import pytest

from diffnr_lightning.data import LoadedVolume, Noise, Scanner, ScanRecipe
from diffnr_lightning.workflows.pairs.variation import Variation, zoomed

RECIPE = ScanRecipe(size=16, test_views=0)


def drawn(variation, count=200):
    return [variation.draw(RECIPE, np.random.default_rng(seed)) for seed in range(count)]


def test_noise_of_every_kind_is_drawn_log_uniformly():
    variation = Variation(
        noises=("physical", "tigre", "none"), photons=(1e4, 1e6), electronic=(0, 20)
    )
    noises = [recipe.noise for recipe in drawn(variation)]
    modes = [noise.mode for noise in noises]
    assert all(50 < modes.count(mode) < 85 for mode in ("physical", "tigre", "none"))
    photons = [noise.photons for noise in noises if noise.mode == "physical"]
    assert 1e4 <= min(photons) and max(photons) <= 1e6
    assert np.mean(np.array(photons) < 1e5) == pytest.approx(0.5, abs=0.15)
    assert all(noise.photons == RECIPE.noise.photons for noise in noises if noise.mode == "tigre")


def test_arcs_are_drawn_for_limited_arcs_only():
    recipes = drawn(Variation(layouts=("uniform", "limited_arc"), arcs_deg=(120, 200)))
    arcs = [recipe.arc_deg for recipe in recipes if recipe.layout == "limited_arc"]
    assert arcs and 120 <= min(arcs) < 140 and 180 < max(arcs) <= 200
    assert {r.arc_deg for r in recipes if r.layout == "uniform"} == {None}


def test_shifted_detectors_see_the_axis_from_all_around():
    recipes = drawn(Variation(detectors=(1.0, 1.6), shifted_share=0.5, layouts=("uniform",)))
    scanners = [recipe.scanner for recipe in recipes]
    shifted = [scanner for scanner in scanners if scanner.shift]
    assert len(shifted) == pytest.approx(100, abs=25)
    assert all(1.0 <= scanner.detector <= 1.6 for scanner in scanners)
    assert all(scanner.shift < scanner.detector / 2 for scanner in shifted)


def test_a_plain_variation_keeps_the_recipe():
    for recipe in drawn(Variation(), 10):
        assert (recipe.noise, recipe.scanner, recipe.fit) == (Noise(), Scanner(), "volume")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photons": (0, 1e5)}, "photons is"),
        ({"arcs_deg": (200, 120)}, "arcs_deg is"),
        ({"arcs_deg": (300, 361)}, "arcs_deg is"),
        ({"electronic": (-1, 3)}, "electronic is"),
        ({"electronic": (0, float("inf"))}, "electronic is"),
        ({"weighted_share": 2}, "weighted_share is 2"),
        ({"views": ()}, "views or layouts is empty"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Variation(**options)


def test_detectors_in_edges_of_the_cube_are_for_scanners_in_those():
    scanner = Scanner(source_to_axis=800, source_to_detector=1200, detector=600, unit="mm")
    with pytest.raises(ValueError, match="scanner in mm"):
        Variation(shifted_share=0.2).check(ScanRecipe(scanner=scanner))


def test_photons_that_no_noise_can_have_are_refused_before_any_scan():
    with pytest.raises(ValueError, match="noise photons is 0.5"):
        Variation(photons=(0.5, 1e4)).check(RECIPE)


def test_a_shifted_detector_is_for_views_all_around():
    """Those of parallel beams lie on half a circle, from which it would see half of the object."""
    with pytest.raises(ValueError, match="shifted_share is 0.2 for views over 180"):
        Variation(shifted_share=0.2).check(ScanRecipe(scanner=Scanner(beam="parallel")))


def test_a_volume_of_a_few_slices_keeps_them_all_when_it_is_zoomed():
    # A box of sixteen slices began before the first one, which left three of the ten.
    thin = LoadedVolume(np.ones((10, 40, 60), np.float32), (1.0, 1.0, 1.0), "HU", "thin")
    part = zoomed(thin, 0.5, np.random.default_rng(0))
    assert part.array.shape == (10, 20, 30)


def test_a_box_knows_where_it_was_cut_out():
    """Its voxels hold where they lie in the world of a volume that lies upside down."""
    upside_down = (1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0)
    array = np.mgrid[:40, :50, :60].astype(np.float32)
    for axis, spacing in enumerate((3.0, 2.0, 1.0)):
        whole = LoadedVolume(
            array[axis], (3.0, 2.0, 1.0), "HU", "ramp", (5.0, 6.0, 7.0), "", upside_down
        )
        part = zoomed(whole, 0.5, np.random.default_rng(3))
        shift = spacing * float(part.array.mean() - whole.array.mean())
        moved = np.subtract(part.centre_mm, whole.centre_mm)[2 - axis]
        assert moved == pytest.approx((1, -1, -1)[2 - axis] * shift) and shift
