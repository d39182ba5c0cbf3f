"""Volumes as other programs write them, by the commands in which a user meets them."""

import gzip

import numpy as np
import pytest
import SimpleITK
import tifffile
from scipy import ndimage

from diffnr_lightning import cli

pytestmark = pytest.mark.filterwarnings("ignore")
EDGES_MM = np.array([0.9, 0.9, 1.5])
SHAPE = (36, 34, 20)
BALL = np.array([28, 9, 13])
SCAN = "--size 32 --num_views 40 --test_views 0 --noise.mode none".split()


def oblique_head():
    """A head whose axes are turned against the patient's, with one dense ball off its middle."""
    i, j, k = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    voxels = np.stack([i, j, k], axis=-1)
    # Off the middle of the volume, so that a cube around the body is off it too.
    offset = (voxels - (0.5 * (np.array(SHAPE) - 1) + (7, -5, 3))) * EDGES_MM
    hu = np.where(np.linalg.norm(offset / (10, 9, 8), axis=-1) < 1, 40, -1000)
    hu[np.linalg.norm((voxels - BALL) * EDGES_MM, axis=-1) < 3] = 1000
    image = SimpleITK.GetImageFromArray(hu.transpose(2, 1, 0).astype(np.int16))
    image.SetSpacing(EDGES_MM.tolist())
    image.SetOrigin((-40.0, -30.0, 120.0))
    a, b = np.deg2rad((14.0, -9.0))
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = turn @ [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    image.SetDirection(turn.ravel().tolist())
    return image


@pytest.mark.parametrize("fit", ["volume", "body"])
def test_a_landmark_of_an_oblique_head_is_where_the_patient_has_it(tmp_path, fit):
    head = oblique_head()
    SimpleITK.WriteImage(head, str(tmp_path / "head.nii.gz"))
    scan = ["--volume", str(tmp_path / "head.nii.gz"), *SCAN, "--fit", fit]
    assert cli.main(["simulate", *scan, "--out", str(tmp_path / "case")]) == 0
    fdk = ["--case", str(tmp_path / "case"), "--config", "configs/reconstruct/fdk.yaml"]
    assert cli.main(["reconstruct", *fdk, "--out", str(tmp_path / "run")]) == 0
    image = SimpleITK.ReadImage(str(tmp_path / "run" / "volume.nii.gz"))
    values = SimpleITK.GetArrayFromImage(image)
    labels, _ = ndimage.label(values > 0.5 * values.max())
    centre = ndimage.center_of_mass(values, labels, np.bincount(labels[labels > 0]).argmax())
    found = image.TransformContinuousIndexToPhysicalPoint([float(c) for c in centre[::-1]])
    truth = head.TransformIndexToPhysicalPoint(BALL.tolist())
    assert np.linalg.norm(np.subtract(found, truth)) < 0.5 * image.GetSpacing()[0]


def grey(low, high):
    values = np.random.default_rng(0).uniform(low, high, (16, 16, 16)).astype(np.float32)
    values[4:12, 4:12, 4:12] = high
    return values


def nifti_with_nan(path):
    values = grey(-1000, 900)
    values[0, 0] = np.nan
    # ITK writes NaN as it is, and reads it as zero.
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(path / "v.nii.gz"))
    return "v.nii.gz"


def truncated_nifti(path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey(-1000, 900)), str(path / "v.nii"))
    content = (path / "v.nii").read_bytes()[:-4000]
    (path / "v.nii").unlink()
    (path / "v.nii.gz").write_bytes(gzip.compress(content))
    return "v.nii.gz"


def signed_grey_values(path):
    image = SimpleITK.GetImageFromArray(grey(-12000, 9000).astype(np.int16))
    SimpleITK.WriteImage(image, str(path / "v.mha"))
    return "v.mha"


def coloured_slices(path):
    (path / "v").mkdir()
    for number in range(3):
        image = np.zeros((16, 16, 3), np.uint8)
        tifffile.imwrite(path / "v" / f"{number}.tif", image, photometric="rgb")
    return "v"


def folder_above_a_series(path):
    (path / "v" / "study" / "series").mkdir(parents=True)
    (path / "v" / "study" / "series" / "1.dcm").write_bytes(bytes(128) + b"DICM")
    return "v"


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (nifti_with_nan, "16 NaN or infinite voxels"),
        (truncated_nifti, "v.nii.gz cannot be read: it is truncated"),
        (signed_grey_values, "say --unit arbitrary"),
        (coloured_slices, "is in colours"),
        (folder_above_a_series, "lie below it in v/study/series: name one"),
    ],
)
def test_a_volume_that_is_refused_leaves_one_sentence(tmp_path, monkeypatch, capsys, write, words):
    monkeypatch.chdir(tmp_path)
    name = write(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert cli.main(["simulate", "--volume", name, *SCAN, "--out", "case"]) == cli.USAGE_ERROR
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith("diffnr simulate: error: ")
    assert words in last
    assert set(tmp_path.rglob("*")) == before
