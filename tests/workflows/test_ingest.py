import json

import numpy as np
import SimpleITK

from diffnr_lightning import cli
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project

# As wide as the part of the detector that lies evenly about the axis.
GRID = VolumeGrid((12, 43, 43), 1.0)
VIEWS = 60


def test_measured_counts_become_a_volume(tmp_path):
    degrees = np.arange(VIEWS + 1) * 180 / VIEWS
    scan = ScanGeometry.parallel(
        angles_rad=np.deg2rad(degrees),
        detector_shape=(12, 48),
        pixel_mm=1.0,
        detector_offset_mm=(0.0, 2.5),
    )
    points = GRID.points()
    ball = ((points[..., 0] - 5).square() + (points[..., 1] + 3).square()).sqrt()
    truth = 0.05 * (ball < 9) + 0.02 * (points[..., :2].norm(dim=-1) < 17)
    exact = project(truth.float(), GRID, scan).numpy()
    counts = 100 + 20_000 * np.exp(-exact)
    flat, dark = np.full((12, 48), 20_100.0), np.full((12, 48), 100.0)
    np.savez(tmp_path / "scan.npz", raw=counts, flat=flat, dark=dark, angles_deg=degrees)

    case, run = tmp_path / "case", tmp_path / "run"
    options = ["--projections", tmp_path / "scan.npz", "--every", "2", "--size", "43"]
    assert cli.main(["ingest", *map(str, options), "--out", str(case)]) == 0
    options = ["--case", case, "--config", "configs/reconstruct/fdk.yaml", "--out", run]
    assert cli.main(["reconstruct", *map(str, options)]) == 0

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["views"] == 31
    # Nobody knows the truth, but the views that were held out judge.
    assert "protocols" not in metrics
    assert metrics["projections"]["psnr"] > 25
    volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(run / "volume.nii.gz")))
    assert volume.shape == (12, 43, 43)
    middle = volume[6]
    # Density in the unit of the scan, and the ball where it was, not mirrored.
    expected = truth[6].numpy()
    assert np.corrcoef(middle.ravel(), expected.ravel())[0, 1] > 0.95
    assert abs(middle[expected > 0.06].mean() - 0.07) < 0.007
