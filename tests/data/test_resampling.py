from __future__ import annotations

import numpy as np
import pytest

from diffnr_lightning.data.resampling import axis_weights, resample


def test_same_grid_is_the_identity():
    np.testing.assert_allclose(axis_weights(7, 1.5, 7, 1.5), np.eye(7), atol=1e-6)


def test_linear_ramps_stay_linear_inside():
    source = np.arange(20.0)
    for edge in (0.4, 1.0, 1.7, 3.0):
        count = int(14 / edge)
        centres = (np.arange(count) - 0.5 * (count - 1)) * edge + 0.3
        target = axis_weights(20, 1.0, count, edge, 0.3) @ source
        np.testing.assert_allclose(target, centres + 9.5, atol=1e-5)


def test_coarser_voxels_keep_the_mass():
    source = np.random.default_rng(0).random((12, 10, 14)).astype(np.float32)
    target = resample(source, (1.0, 2.0, 1.5), (8, 9, 9), (2.0, 2.7, 3.1), (0.2, 0.1, -0.3))
    mass = source.sum() * 1.0 * 2.0 * 1.5
    assert target.sum() * 2.0 * 2.7 * 3.1 == pytest.approx(mass, rel=0.01)


def test_nothing_comes_from_outside():
    source = np.ones((4, 4, 4), np.float32)
    target = resample(source, (1.0,) * 3, (12, 4, 4), (1.0,) * 3)
    np.testing.assert_allclose(target[4:8], 1, rtol=1e-6)
    assert not target[:4].any()
    assert not target[8:].any()


@pytest.mark.parametrize("edge", [0.3, 0.83, 1.0, 1.9, 2.9])
@pytest.mark.parametrize("offset", [0.0, 0.21])
def test_an_object_is_as_long_on_all_grids(edge, offset):
    """Voxels through which its faces go hold the share of them that it fills."""
    count = int(16 / edge)
    weights = axis_weights(11, 1.0, count, edge, offset)
    filled = weights @ np.ones(11)
    assert filled.sum() * edge == pytest.approx(11, abs=1e-4)
    faces = (np.arange(count + 1) - 0.5 * count) * edge + offset
    shares = np.diff(np.clip(faces, -5.5, 5.5)) / edge
    np.testing.assert_allclose(filled, shares, atol=1e-4)


def test_a_cut_voxel_holds_what_lies_in_its_part_of_the_object():
    ramp = np.arange(4.0)
    cut = axis_weights(4, 1.0, 5, 0.9) @ ramp
    # The first voxel reaches from -0.75 to 0.15 in voxels of the source, whose face is at -0.5.
    assert cut[0] == pytest.approx(0.65 / 0.9 * 0.0, abs=1e-6)
    assert cut[-1] == pytest.approx(0.65 / 0.9 * 3.0, abs=1e-6)


def test_fine_detail_does_not_alias():
    stripes = np.tile([0.0, 1.0], 32)
    target = axis_weights(64, 1.0, 16, 4.0) @ stripes
    np.testing.assert_allclose(target[1:-1], 0.5, atol=0.02)
