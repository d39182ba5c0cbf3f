"""Scans beside a circle, and objects wider than the detector, by the command that a user types."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
import torch
from balls import ball_integrals
from poses import calibrated

from diffnr_lightning import cli
from diffnr_lightning.data import Case, read_case, write_case
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.metrics import peak_signal_to_noise
from diffnr_lightning.projectors import project

pytestmark = pytest.mark.filterwarnings("ignore")

# A walnut's scanner (source to axis 66 mm, to detector 199 mm), with few pixels.
GRID = VolumeGrid((20, 20, 20), 0.8)
WALNUT = ScanGeometry.cone(
    angles_rad=uniform_angles(24),
    source_to_axis_mm=66.0,
    source_to_detector_mm=199.0,
    detector_shape=(26, 28),
    pixel_mm=2.4,
)
BALLS = (((0.5, -0.5, 0.0), 5.5, 0.05), ((1.5, 1.5, 1.0), 1.8, -0.03))
QUICK = "--method.iterations 60 --method.optimisation.rate_iterations 60".split()
METHODS = {
    "fdk": [],
    "sirt": ["--method.options.iterations", "20"],
    "sart": [],
    "asd_pocs": [],
    "weighted_tv": [],
    "r2gaussian": [*QUICK, "--method.representation.num_gaussians", "400"],
    "naf": [*QUICK, "--method.representation.warm_up", "30"],
    "voxel_grid": QUICK,
    "r2gaussian+diffnr/align": [
        *QUICK,
        *("--method.representation.num_gaussians", "400"),
        *("--method.start.options.iterations", "5"),
    ],
}


def density(grid: VolumeGrid) -> torch.Tensor:
    points = grid.points()
    return sum(
        value * ((points - torch.tensor(centre)).norm(dim=-1) < radius).float()
        for centre, radius, value in BALLS
    )


def measured(scan: ScanGeometry, name: str) -> Case:
    """Attenuation in 1/mm without truth or window, as a scanner gives it."""
    projections = sum(
        value * ball_integrals(scan, centre, radius) for centre, radius, value in BALLS
    )
    return Case(name, scan, projections, GRID, unit="1/mm")


@pytest.fixture(scope="module")
def walnut(tmp_path_factory):
    case = measured(calibrated(WALNUT, 0.5, 0.3), "walnut")
    return write_case(case, tmp_path_factory.mktemp("poses") / "walnut")


def reconstruct(case, out, method, *options):
    base, *overlays = method.split("+")
    configs = [f"configs/reconstruct/{base}.yaml", *(f"configs/{name}.yaml" for name in overlays)]
    arguments = ["--case", case, *(a for c in configs for a in ("--config", c)), "--out", out]
    assert cli.main([str(a) for a in ("reconstruct", *arguments, *options)]) == 0
    volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "volume.nii.gz")))
    return torch.from_numpy(volume), json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize("method", METHODS)
def test_a_calibrated_scan_reconstructs_by_every_method(walnut, method, tmp_path):
    volume, metrics = reconstruct(walnut, tmp_path / "run", method, *METHODS[method])
    assert metrics["intensity_scale"] == pytest.approx(0.05, rel=0.3)
    truth = density(GRID)
    correlation = np.corrcoef(volume.flatten(), truth.flatten())[0, 1]
    assert correlation > 0.9
    assert float(volume[truth > 0.04].mean()) == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize("method", ["sirt", "r2gaussian"])
def test_a_scan_far_from_a_circle_is_scaled_and_started_by_sirt(method, tmp_path, caplog):
    heights = np.linspace(-12.0, 12.0, 24)
    spiral = ScanGeometry.cone(
        angles_rad=uniform_angles(24),
        source_to_axis_mm=66.0,
        source_to_detector_mm=199.0,
        detector_shape=(60, 28),
        pixel_mm=2.4,
        height_mm=heights,
    )
    case = write_case(measured(spiral, "spiral"), tmp_path / "case")
    with caplog.at_level(logging.INFO, logger="diffnr"):
        volume, metrics = reconstruct(case, tmp_path / "run", method, *METHODS[method])
    assert "the first volume comes from 20 iterations of SIRT, not from FDK" in caplog.text
    assert metrics["intensity_scale"] == pytest.approx(0.05, rel=0.3)
    assert np.corrcoef(volume.flatten(), density(GRID).flatten())[0, 1] > 0.9


def test_fdk_alone_refuses_a_scan_far_from_a_circle(tmp_path, capsys):
    spiral = ScanGeometry.cone(
        angles_rad=uniform_angles(24),
        source_to_axis_mm=66.0,
        source_to_detector_mm=199.0,
        detector_shape=(60, 28),
        pixel_mm=2.4,
        height_mm=np.linspace(-12.0, 12.0, 24),
    )
    case = write_case(measured(spiral, "spiral"), tmp_path / "case")
    options = ["--config", "configs/reconstruct/fdk.yaml", "--out", tmp_path / "run"]
    assert cli.main([str(a) for a in ("reconstruct", "--case", case, *options)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "fdk was given views whose rays pass" in last and "use sirt, sart or asd_pocs" in last


FIELD_MM = 18.75


@pytest.fixture(scope="module")
def wide_ball(tmp_path_factory):
    """A ball of 30 mm in a field of view of 18.75 mm, density of water."""
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(48),
        source_to_axis_mm=200.0,
        source_to_detector_mm=300.0,
        detector_shape=(28, 28),
        pixel_mm=1.5 * 2 * FIELD_MM / 28,
    )
    grid = VolumeGrid((12, 24, 24), 2 * FIELD_MM / 24)
    projections = 0.02 * ball_integrals(scan, (0.0, 0.0, 0.0), 30.0)
    case = Case("ball", scan, projections, grid, unit="1/mm")
    return write_case(case, tmp_path_factory.mktemp("wide") / "ball")


def middle_error_hu(volume: torch.Tensor) -> float:
    middle = volume[5:7, 8:16, 8:16]
    return 1000 * abs(float(middle.mean()) / 0.02 - 1)


@pytest.mark.parametrize("options", [(), ("--pad", "0.6")], ids=["plain", "padded"])
def test_fdk_of_a_body_wider_than_the_detector_is_right_in_the_middle(
    wide_ball, tmp_path, caplog, options
):
    volume, metrics = reconstruct(wide_ball, tmp_path / "run", "fdk", *options)
    assert "in 100 % of the views the object reaches beyond the detector" in caplog.text
    # By FDK, which the scale of the volume is from as well as the volume.
    assert caplog.text.count("the rows are continued") == 1
    assert "is subtracted" not in caplog.text and "surroundings" not in metrics
    assert tuple(volume.shape) == (12, 24, 24)
    assert metrics["pad"] == (0.6 if options else 0.0)
    assert middle_error_hu(volume) < 100


def test_sirt_has_room_for_the_rest_of_the_body_in_a_padded_grid(wide_ball, tmp_path):
    options = ("--method.options.iterations", "100")
    ignore = ("--surroundings", "ignore")
    cut, _ = reconstruct(wide_ball, tmp_path / "cut", "sirt", *options, *ignore)
    padded, _ = reconstruct(wide_ball, tmp_path / "padded", "sirt", *options, "--pad", "0.6")
    assert cut.shape == padded.shape
    edges = [1000 * float((v[4:8] / 0.02 - 1).square().mean().sqrt()) for v in (cut, padded)]
    assert middle_error_hu(padded) < 100
    assert edges[1] < 0.5 * edges[0]


def test_what_lies_around_the_grid_is_taken_from_what_sirt_fits(wide_ball, tmp_path, caplog):
    options = ("--method.options.iterations", "100")
    ignored, _ = reconstruct(
        wide_ball, tmp_path / "ignored", "sirt", *options, "--surroundings", "ignore"
    )
    volume, metrics = reconstruct(wide_ball, tmp_path / "auto", "sirt", *options)
    assert "what lies around the grid is subtracted" in caplog.text
    assert 0.5 < metrics["surroundings"] < 0.8
    errors = [(v[4:8] / 0.02 - 1).square().mean().sqrt() for v in (ignored, volume)]
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize("method", ["voxel_grid", "r2gaussian+diffnr/align"])
def test_an_optimisation_on_a_larger_grid_is_judged_by_what_is_kept(wide_ball, method, tmp_path):
    wide = read_case(wide_ball)
    lump = 0.3 * (wide.grid.points().norm(dim=-1) < 6.0).float()
    projections = 35.0 * wide.projections + 0.3 * ball_integrals(wide.scan, (0.0, 0.0, 0.0), 6.0)
    truth = 0.7 + lump
    case = write_case(replace(wide, projections=projections, volume=truth), tmp_path / "case")
    volume, metrics = reconstruct(
        case, tmp_path / "run", method, *METHODS[method], *("--pad", "0.6")
    )
    assert tuple(volume.shape) == (12, 24, 24)
    last = peak_signal_to_noise(volume.numpy(), truth.numpy())
    if "diffnr" not in method:  # a repaired volume is not the last one of the optimisation
        assert metrics["history"]["psnr"][-1] == pytest.approx(last, abs=1e-3)
    assert last > 15  # after few iterations


def test_a_negative_pad_is_refused(wide_ball, tmp_path, capsys):
    options = ["--config", "configs/reconstruct/fdk.yaml", "--out", tmp_path / "run", "--pad", "-1"]
    assert cli.main([str(a) for a in ("reconstruct", "--case", wide_ball, *options)]) == 2
    assert "pad is -1.0; a share of at least 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_few_slices_are_scored_by_the_protocols_that_they_have(tmp_path):
    grid = VolumeGrid((4, 24, 24), 1.0)
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(12, 180), detector_shape=(4, 36), pixel_mm=1.0
    )
    truth = torch.zeros(grid.shape)
    truth[:, 6:16, 8:18] = 0.8
    write_case(
        Case("thin", scan, project(truth, grid, scan), grid, volume=truth), tmp_path / "case"
    )
    out = tmp_path / "runs" / "fbp"
    options = ["--case", str(tmp_path / "case"), "--config", "fbp", "--out", str(out)]
    assert cli.main(["reconstruct", *options]) == 0
    protocols = json.loads((out / "metrics.json").read_text())["protocols"]
    assert list(protocols) == ["r2", "strict"]
    assert protocols["r2"]["psnr"] > 15
    table = ["--out", str(tmp_path / "table")]
    assert cli.main(["evaluate", "--runs", str(tmp_path / "runs"), *table]) == 0
    assert cli.main(["report", "--runs", str(out), "--out", str(tmp_path / "page.html")]) == 0
