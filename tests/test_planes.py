import numpy as np

from diffnr_lightning.planes import PLANES, image_of, pixel_aspect


def test_z_points_up_and_y_down():
    volume = np.zeros((4, 5, 6), np.float32)
    volume[3, 0, 5] = 1  # highest z, lowest y, highest x
    axial, coronal, sagittal = PLANES
    assert np.argwhere(image_of(volume, axial, 3)).tolist() == [[0, 5]]
    assert np.argwhere(image_of(volume, coronal, 0)).tolist() == [[0, 5]]
    assert np.argwhere(image_of(volume, sagittal, 5)).tolist() == [[0, 0]]


def test_pixels_keep_their_shape():
    aspects = [pixel_aspect(plane, (4.0, 2.0, 1.0)) for plane in PLANES]
    assert aspects == [2.0, 4.0, 2.0]
