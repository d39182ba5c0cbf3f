"""A label map has to lie where the volume lies, where both files say it."""

import numpy as np
import pytest
import SimpleITK

from diffnr_lightning.downstream import read_regions

SHAPE, VOXEL_MM, ORIGIN_MM = (6, 8, 10), (2.0, 1.5, 1.0), (-50.0, 20.0, 300.0)


def image(spacing=VOXEL_MM, origin=ORIGIN_MM, direction=None):
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2:4, 2:6, 3:5] = 1
    made = SimpleITK.GetImageFromArray(voxels)
    made.SetSpacing(spacing[::-1])
    made.SetOrigin(origin)
    if direction is not None:
        made.SetDirection(direction)
    return made


@pytest.fixture
def masks(tmp_path):
    """Return a function that reads a label map beside a volume."""
    volume = tmp_path / "volume.nii.gz"
    SimpleITK.WriteImage(SimpleITK.Cast(image(), SimpleITK.sitkFloat32), str(volume))
    file = tmp_path / "regions.yaml"
    file.write_text("labels: {file: labels.nii.gz, names: {1: liver}}\n")

    def read(labels, placed=volume):
        SimpleITK.WriteImage(labels, str(tmp_path / "labels.nii.gz"))
        return read_regions(file, SHAPE, VOXEL_MM, placed).masks

    return read


@pytest.mark.parametrize(
    "labels",
    [
        image(),
        SimpleITK.DICOMOrient(image(), "RAS"),
        image(origin=(-50.2, 20.3, 300.4)),
        image((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        image(VOXEL_MM, (0.0, 0.0, 0.0)),
        # As nibabel writes an array: with an affine of ones, or of the edges alone.
        image((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)),
        image(VOXEL_MM, (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_a_map_of_the_volume_is_read(masks, labels):
    assert masks(labels)["liver"].sum() == 2 * 4 * 2


TURNED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "labels",
    [
        image(origin=(-40.0, 20.0, 300.0)),
        image(spacing=(2.0, 2.0, 2.0)),
        image(direction=TURNED),
        image((4.0, 1.5, 1.0), (0.0, 0.0, 0.0)),
    ],
)
def test_a_map_of_another_place_is_refused(masks, labels):
    with pytest.raises(ValueError, match="has voxels of .*; a map that was resampled to that"):
        masks(labels)
    # Where the volume does not say where it is, the shape alone is compared.
    assert masks(labels, placed=None)
