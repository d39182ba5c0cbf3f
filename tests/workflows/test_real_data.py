"""Real volumes and projections, from the file to the reconstructed volume, by the commands."""

import json

import numpy as np
import pytest
import SimpleITK

from diffnr_lightning import cli

pytestmark = pytest.mark.data
FDK = ["--config", "configs/reconstruct/fdk.yaml"]


def run(command, *options):
    assert cli.main([command, *map(str, options)]) == 0


@pytest.mark.parametrize(
    ("file", "size", "least_psnr"),
    [("headneck/pt_1.nii.gz", 64, 36.0), ("chest_lidc0003_1p5mm.nii.gz", 64, 23.0)],
)
def test_a_simulated_scan_of_a_real_volume_is_reconstructed(
    real_data, tmp_path, file, size, least_psnr
):
    scan = ["--size", size, "--num_views", 120, "--noise.mode", "none", "--test_views", 4]
    run("simulate", "--volume", real_data / file, *scan, "--out", tmp_path / "case")
    run("reconstruct", "--case", tmp_path / "case", *FDK, "--out", tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["protocols"]["r2"]["psnr"] > least_psnr


@pytest.mark.parametrize(
    ("file", "column", "least_psnr"),
    [
        ("pedestal_parallel3d.npz", (160 - 1) / 2 + 6.5, 37.0),
        ("tooth_parallel.h5", (640 - 1) / 2 - 23.5, 35.0),
    ],
)
def test_a_measured_scan_is_reconstructed(real_data, tmp_path, file, column, least_psnr):
    case = tmp_path / "case"
    run("ingest", "--projections", real_data / "projections" / file, "--every", 2, "--out", case)
    meta = json.loads((case / "meta_data.json").read_text())
    assert meta["provenance"]["axis_column"] == pytest.approx(column, abs=0.25)
    run("reconstruct", "--case", case, *FDK, "--out", tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    # The views that were held out judge.
    assert metrics["projections"]["psnr"] > least_psnr
    volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "run/volume.nii.gz")))
    # Air around the object, seen from its densest voxels.
    assert abs(np.median(volume)) < 0.2 * np.quantile(volume, 0.999)
