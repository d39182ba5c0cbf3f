import json

import h5py
import numpy as np
import SimpleITK
import tifffile

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


def test_a_wide_object_beside_the_axis_becomes_a_whole_volume(tmp_path):
    """360 degrees with the axis at column 6 of 40, views divided by the flat field, radians."""
    angles, axis, width = np.arange(90) * 2 * np.pi / 90, 6.0, 40
    across = np.arange(width) - axis
    views = np.zeros((90, 8, width))
    # Cylinders along the axis: place, radius and density, in pixels.
    for x, y, radius, density in ((0, 0, 24, 0.02), (12, 5, 6, 0.03), (-10, 9, 5, 0.02)):
        shift = across - (-np.sin(angles) * x + np.cos(angles) * y)[:, None]
        views += density * 2 * np.sqrt(np.maximum(radius**2 - shift**2, 0))[:, None]
    noise = np.random.default_rng(0).normal(0, 2e-3, views.shape)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = np.exp(-views) + noise
        file["exchange/data_white"], file["exchange/data_dark"] = 1.0, 0.0
        file["exchange/theta"] = angles
        file["exchange/theta"].attrs["units"] = "rad"

    case, run = tmp_path / "case", tmp_path / "run"
    options = ["--projections", tmp_path / "scan.h5", "--every", "1"]
    assert cli.main(["ingest", *map(str, options), "--out", str(case)]) == 0
    meta = json.loads((case / "meta_data.json").read_text())
    assert abs(meta["provenance"]["axis_column"] - axis) < 0.1
    options = ["--case", case, "--config", "configs/reconstruct/fdk.yaml", "--out", run]
    assert cli.main(["reconstruct", *map(str, options)]) == 0

    volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(run / "volume.nii.gz")))
    # The farther end of the detector is 33.5 columns from the axis.
    assert volume.shape in ((8, 66, 66), (8, 67, 67))
    middle = volume.shape[1] // 2
    for x, y, density in ((0, 0, 0.02), (12, 5, 0.05), (-10, 9, 0.04), (0, -20, 0.02), (28, 0, 0)):
        place = volume[4, middle + y - 1 : middle + y + 2, middle + x - 1 : middle + x + 2]
        assert abs(place.mean() - density) < 0.004


def test_images_of_a_cone_beam_and_a_file_of_the_scanner_become_a_volume(tmp_path):
    scan = ScanGeometry.cone(
        angles_rad=np.arange(48) * 2 * np.pi / 48,
        source_to_axis_mm=100.0,
        source_to_detector_mm=160.0,
        detector_shape=(20, 56),
        pixel_mm=1.6,
        detector_offset_mm=(0.0, 1.6),
    )
    points = GRID.points()
    ball = ((points[..., 0] - 5).square() + (points[..., 1] + 3).square()).sqrt()
    truth = (0.05 * (ball < 7) + 0.02 * (points[..., :2].norm(dim=-1) < 17)).float()
    counts = np.rint(20_000 * np.exp(-project(truth, GRID, scan).numpy())).astype(np.uint16)
    (tmp_path / "views").mkdir()
    for number, image in enumerate(counts):
        tifffile.imwrite(tmp_path / "views" / f"view_{number}.tif", image)
    (tmp_path / "scanner.yaml").write_text(
        "source_to_axis_mm: 100\nsource_to_detector_mm: 160\npixel_mm: 1.6\nstep_deg: 7.5\nflat: 20000\ndark: 0\n"
    )
    case, run = tmp_path / "case", tmp_path / "run"
    options = [
        "--config",
        tmp_path / "scanner.yaml",
        "--projections",
        tmp_path / "views",
        "--every",
        "2",
    ]
    assert cli.main(["ingest", *map(str, options), "--out", str(case)]) == 0
    options = ["--case", case, "--config", "fdk", "--out", run]
    assert cli.main(["reconstruct", *map(str, options)]) == 0
    volume = SimpleITK.ReadImage(str(run / "volume.nii.gz"))
    middle = SimpleITK.GetArrayFromImage(volume)[volume.GetSize()[2] // 2]
    side = middle.shape[0]
    # The ball where it was, not mirrored; voxels are of 1 mm.
    places = np.arange(side) - 0.5 * (side - 1)
    inside = (places[None] - 5) ** 2 + (places[:, None] + 3) ** 2 < 36
    assert abs(float(middle[inside].mean()) - 0.07) < 0.007
