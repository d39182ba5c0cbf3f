from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from diffnr_lightning.data import LoadedVolume, ScanRecipe, load_volume, simulate_case
from diffnr_lightning.data.field_of_view import body_box, fit_cube

SMALL = ScanRecipe(size=24, num_views=5, test_views=2, fit="body")


def test_volume_fit_bounds_the_volume(ellipsoid):
    loaded = ellipsoid((5, 5, 5)).loaded((10, 20, 30), (4.0, 2.5, 1.0))
    assert fit_cube(loaded, "volume", 0.5) == ((0.0, 0.0, 0.0), 50.0)


def test_body_fit_finds_a_shifted_ellipsoid_and_not_the_couch(ellipsoid):
    solid = ellipsoid((16, 12, 20), (10, -8, 5))
    loaded = solid.loaded((40, 40, 50), (2.0, 2.0, 2.0))
    array = loaded.array.copy()
    array[:, 32, 10:40] = 0.0  # a thin couch below, not touching
    array[:, 24:32, 30] = 0.0  # and what holds it
    couch = LoadedVolume(array, loaded.spacing_mm, "HU", "couch", (100.0, 200.0, 300.0))
    first, last = body_box(couch)
    np.testing.assert_allclose((last - first) * 2.0, (40, 24, 32), atol=4)
    case = simulate_case(couch, replace(SMALL, margin=0.1))
    assert case.grid.size_mm[0] == pytest.approx(40 * 1.2, abs=4.8)
    np.testing.assert_allclose(case.frame_origin_mm, (110, 192, 305), atol=2.0)
    centre = ndimage.center_of_mass(case.volume.numpy() > 0.4)
    np.testing.assert_allclose(centre, (11.5,) * 3, atol=1.0)


def test_volume_without_body_is_refused(one_sentence):
    air = np.full((16, 16, 16), -900.0, np.float32)
    air[4] = -800
    with pytest.raises(ValueError) as error:
        simulate_case(LoadedVolume(air, (1.0,) * 3, "HU", "air"), SMALL)
    assert "-500 HU" in one_sentence(error)


@pytest.mark.data
def test_real_bodies_fill_their_cube(real_data):
    for file in ("headneck/pt_2.nii.gz", "chest_lidc0001_2mm.nii.gz"):
        loaded = load_volume(real_data / file)
        case = simulate_case(loaded, replace(SMALL, size=32, num_views=4))
        body = case.volume.numpy() > 0.25
        reach = [np.flatnonzero(body.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        assert max(r[-1] - r[0] + 1 for r in reach) >= 27, file
        assert max(case.grid.size_mm) <= max(loaded.size_mm) * 1.11, file
        assert 0.3 < float(case.volume[body].median()) < 0.7, file
        assert torch.isfinite(case.projections).all(), file
