import numpy as np
import pytest

from diffnr_lightning.data.readers.readout import Readout

IMAGES = np.arange(2 * 5 * 7, dtype=np.uint16).reshape(2, 5, 7)


def test_nothing_is_done_by_itself():
    assert Readout()(IMAGES) is IMAGES


def test_axes_are_reversed_before_they_are_exchanged():
    found = Readout(flip=("rows",), transpose=True)(IMAGES)
    np.testing.assert_array_equal(found, IMAGES[:, ::-1].swapaxes(1, 2))
    assert Readout(transpose=True).upright((5, 7)) == (7, 5)


@pytest.mark.parametrize(
    ("kind", "kept"), [(np.uint16, np.int32), (np.uint32, np.int64), (np.float32, np.float32)]
)
def test_squares_are_summed_and_the_rest_is_left_out(kind, kept):
    binned = Readout(binning=2)(IMAGES.astype(kind))
    assert binned.shape == (2, 2, 3)
    assert binned.dtype == kept
    assert binned[1, 0, 2] == IMAGES[1, :2, 4:6].astype(int).sum()


def test_sums_of_bright_pixels_do_not_wrap():
    bright = np.full((1, 64, 64), 65535, np.uint16)
    assert Readout(binning=64)(bright) == 65535 * 64**2


def test_what_cannot_be_read_out_is_refused():
    with pytest.raises(ValueError, match="'views'; rows and columns are expected"):
        Readout(flip=("views",))
    with pytest.raises(ValueError, match="binning is 0"):
        Readout(binning=0)
    with pytest.raises(ValueError, match="1 to 5 pixels"):
        Readout(binning=6).upright((5, 7))
