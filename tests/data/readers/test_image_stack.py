from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile

from diffnr_lightning.data.readers.image_stack import read_images

IMAGES = np.random.default_rng(0).integers(0, 60000, (11, 4, 6)).astype(np.uint16)


def test_every_kind_of_file_gives_the_same_images(tmp_path):
    (tmp_path / "views").mkdir()
    for number, image in enumerate(IMAGES):
        tifffile.imwrite(tmp_path / "views" / f"view_{number}.tif", image)
    tifffile.imwrite(tmp_path / "stack.tif", IMAGES)
    np.save(tmp_path / "stack.npy", IMAGES)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(IMAGES), str(tmp_path / "stack.mha"))
    for name in ("views", "stack.tif", "stack.npy", "stack.mha"):
        found = read_images(tmp_path / name).images
        np.testing.assert_array_equal(found, IMAGES, err_msg=name)
        assert found.dtype == np.uint16


def test_the_header_of_itk_says_where_pixels_lie(tmp_path):
    image = SimpleITK.GetImageFromArray(IMAGES)
    image.SetSpacing((0.2, 0.4, 1.0))
    image.SetOrigin((-3.0, 5.0, 0.0))
    SimpleITK.WriteImage(image, str(tmp_path / "stack.mha"))
    stack = read_images(tmp_path / "stack.mha")
    assert (stack.pixel_mm, stack.first_mm) == ((0.4, 0.2), (5.0, -3.0))


def test_what_holds_no_images_is_refused(tmp_path, one_sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.npy").write_bytes(b"nothing")
    (tmp_path / "damaged.mha").write_bytes(b"nothing")
    (tmp_path / "other.png").write_bytes(b"nothing")
    colours = SimpleITK.GetImageFromArray(np.zeros((3, 4, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colours, str(tmp_path / "colours.mha"))
    for name in ("empty", "damaged.npy", "damaged.mha", "other.png", "colours.mha", "missing.tif"):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            read_images(Path(tmp_path / name))
        assert name in one_sentence(error)


def test_images_are_kept_as_they_are_wanted_one_by_one(tmp_path):
    (tmp_path / "views").mkdir()
    for number, image in enumerate(IMAGES):
        tifffile.imwrite(tmp_path / "views" / f"view_{number}.tif", image)
    np.save(tmp_path / "stack.npy", IMAGES)
    for name in ("views", "stack.npy"):
        stack = read_images(tmp_path / name, lambda images: images[:, ::2, ::3])
        np.testing.assert_array_equal(stack.images, IMAGES[:, ::2, ::3])
        assert stack.shape == (4, 6)
