import numpy as np

from diffnr_lightning.data.generated import generate
from diffnr_lightning.phantoms import ellipsoids


def unit(volume):
    """Values of air and of the densest become 0 and 1."""
    return (volume.array + 1000) / 2024


def test_a_seed_is_one_volume_at_every_size():
    fine, coarse = unit(ellipsoids(3, 64)), unit(ellipsoids(3, 32))
    halved = fine.reshape(32, 2, 32, 2, 32, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(halved.ravel(), coarse.ravel())[0, 1] > 0.95
    assert np.array_equal(generate("ellipsoids:3", 32).array, ellipsoids(3, 32).array)
    assert not np.array_equal(ellipsoids(4, 32).array, ellipsoids(3, 32).array)


def test_values_fill_their_range_and_the_corners_are_air():
    volume = unit(ellipsoids(5, 48))
    assert volume.dtype == np.float32
    assert volume.min() == 0
    assert volume.max() == 1
    middle = np.abs((np.arange(48) + 0.5) / 48 - 0.5)
    outside = np.hypot(*np.meshgrid(middle, middle)) > 0.6
    assert volume[:, outside].mean() < 0.2 * volume[:, ~outside].mean()
    # No height is empty: slices are images of one kind.
    assert volume.max(axis=(1, 2)).min() > 0.3
