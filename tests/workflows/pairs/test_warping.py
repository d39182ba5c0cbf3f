"""Warped volumes are other shapes of the same stuff: nothing folds, and faces stay where scanners leave them."""

import numpy as np
import pytest

from diffnr_lightning.data import LoadedVolume
from diffnr_lightning.workflows.pairs.variation import Variation
from diffnr_lightning.workflows.pairs.warping import MOST_WARP, warped


def ramp(axis, shape=(12, 60, 70)):
    array = np.mgrid[tuple(map(slice, shape))][axis].astype(np.float32)
    return LoadedVolume(array, (2.0, 1.0, 1.5), "HU", "ramp")


def deformed(volume, seed=0, share=0.03, stretch=1.0):
    return warped(volume, share, stretch, np.random.default_rng(seed))


@pytest.mark.parametrize("axis", [1, 2])
def test_nothing_folds_and_the_edges_of_planes_stay(axis):
    """A ramp shows where its voxels come from: always further along, and at the edges from themselves."""
    for seed in range(3):
        source = deformed(ramp(axis), seed, MOST_WARP).array
        inner = np.take(np.diff(source, axis=axis), range(3, source.shape[axis] - 4), axis)
        assert inner.min() > 0.2
        for edge in (0, -1):
            np.testing.assert_allclose(
                np.take(source, edge, axis), np.take(ramp(axis).array, edge, axis), atol=1e-3
            )
        assert abs(source - ramp(axis).array).max() > 2


def test_nothing_moves_along_z():
    np.testing.assert_allclose(deformed(ramp(0)).array, ramp(0).array, atol=1e-4)


def test_a_volume_keeps_its_range_and_its_world():
    rng = np.random.default_rng(5)
    noise = LoadedVolume(
        rng.uniform(-1000, 1000, (8, 40, 40)).astype(np.float32),
        (1.0, 1.0, 1.0),
        "HU",
        "noise",
        (5.0, 6.0, 7.0),
    )
    out = deformed(noise)
    assert out.array.dtype == np.float32 and out.array.shape == noise.array.shape
    assert noise.array.min() <= out.array.min() and out.array.max() <= noise.array.max()
    assert (out.centre_mm, out.spacing_mm, out.name) == ((5.0, 6.0, 7.0), (1.0, 1.0, 1.0), "noise")


def test_a_stretch_keeps_the_area_of_voxels():
    source = ramp(1)
    out = deformed(source, share=0.0, stretch=1.25)
    assert out.spacing_mm == pytest.approx((2.0, 1.25, 1.2))
    assert out.array is source.array


def test_displacements_come_from_the_generator_alone():
    first, again, other = (deformed(ramp(2), seed).array for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs(first - other).max() > 1


def test_a_curation_that_deforms_nothing_draws_nothing_for_it():
    """Scans of earlier versions are drawn as before."""
    generator = np.random.default_rng(0)
    source = ramp(2)
    assert Variation().deformed(source, generator) is source
    assert generator.random() == np.random.default_rng(0).random()


def test_a_curation_draws_how_much_is_deformed():
    variation = Variation(warps=(0.02, 0.05), stretches=(0.8, 1.25))
    outs = [variation.deformed(ramp(2), np.random.default_rng(seed)) for seed in range(20)]
    stretches = [out.spacing_mm[1] for out in outs]
    assert 0.8 <= min(stretches) < 0.9 and 1.1 < max(stretches) <= 1.25
    alone = Variation(stretches=(0.8, 0.8)).deformed(ramp(2), np.random.default_rng(0))
    np.testing.assert_array_equal(alone.array, ramp(2).array)
    assert alone.spacing_mm == pytest.approx((2.0, 0.8, 1.875))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warps": (0.05, 0.02)}, r"warps is \(0.05, 0.02\)"),
        ({"warps": (0.02, 0.07)}, "more would fold"),
        ({"stretches": (0, 1)}, "stretches is"),
    ],
)
def test_deformations_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Variation(**options)
