import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffnr_lightning import cli, phantoms
from diffnr_lightning.reports import read_runs
from diffnr_lightning.workflows.runs.downstream import score_task
from tests.reports.conftest import write_run


@pytest.fixture
def runs(tmp_path):
    truth = np.zeros((12, 12, 12), np.float32)
    truth[3:9, 3:9, 3:9] = 0.5
    for method, error in (("FDK", 0.1), ("SIRT", 0.05)):
        write_run(tmp_path / "runs" / method, "chest", method, truth + error, truth)
    return tmp_path / "runs"


def test_published_numbers_and_a_baseline_are_options(runs, tmp_path, capsys):
    (tmp_path / "paper.csv").write_text("method,protocol,psnr\nSIRT,r2,20\n")
    options = ["--runs", runs, "--paper", tmp_path / "paper.csv", "--baseline", "FDK"]
    assert cli.main(["evaluate", *map(str, options), "--out", str(tmp_path / "table")]) == 0
    shown = capsys.readouterr().out
    assert "SIRT against FDK: +6.02 dB" in shown and "SIRT (paper)" in shown
    assert "+6.02" in shown and "+6.02" in (tmp_path / "table/table.md").read_text()
    page = tmp_path / "page.html"
    assert cli.main(["report", *map(str, options), "--out", str(page)]) == 0
    assert "SIRT (paper)" in page.read_text() and "Δbaseline" in page.read_text()
    assert "2 runs of 1 case\n" in " ".join(capsys.readouterr().err.split(" "))


def test_a_table_is_written_though_nobody_reads_what_is_printed(runs, tmp_path):
    command = [sys.executable, "-m", "diffnr_lightning.cli", "evaluate", "--runs", str(runs)]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "table")], stdout=output, timeout=60
        )
    assert done.returncode == 0
    assert (tmp_path / "table/table.md").is_file()


def test_a_picture_says_which_cases_it_leaves_out(runs, tmp_path, capsys):
    truth = np.zeros((12, 12, 12), np.float32)
    truth[3:9] = 0.5
    write_run(runs / "other/FDK", "head", "FDK", truth + 0.1, truth)
    options = ["--runs", str(runs), "--out", str(tmp_path / "page.png")]
    assert cli.main(["report", *options]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "the picture is of chest, without head." in told
    assert "page.png: 2 runs of 1 case" in told


def test_a_picture_is_of_the_runs_that_have_their_volumes(runs, tmp_path, capsys):
    (runs / "FDK/volume.nii.gz").unlink()
    options = ["report", "--runs", str(runs), "--out", str(tmp_path / "page.png")]
    assert cli.main(options) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "has no volume.nii.gz and is left out of pictures; remove the folder of the run" in told
    assert "page.png: 1 run of 1 case" in told
    (runs / "SIRT/volume.nii.gz").unlink()
    assert cli.main(options) == cli.USAGE_ERROR
    assert "at least one finished run with its volume" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["regions", "lungs"])
def test_a_run_without_its_volume_stops_no_task(tmp_path, caplog, monkeypatch, task):
    monkeypatch.setattr("diffnr_lightning.downstream.lungs.find_spec", lambda name: None)
    low, high = -1000.0, 1000.0
    truth = (phantoms.chest(300, 32).array - low) / (high - low)
    for name in ("A", "B"):
        write_run(tmp_path / name, "chest", name, truth, truth, (low, high))
    (tmp_path / "A/volume.nii.gz").unlink()
    score_task(task, read_runs([tmp_path]))
    assert [path.parent.name for path in tmp_path.glob("*/downstream.json")] == ["B"]
    assert f"run {tmp_path / 'A'} has no volume.nii.gz" in caplog.text


def test_a_report_of_another_kind_is_refused(runs, tmp_path, capsys):
    out = tmp_path / "report.pdf"
    assert cli.main(["report", "--runs", str(runs), "--out", str(out)]) == cli.USAGE_ERROR
    assert ".html or .png is expected" in capsys.readouterr().err and not out.exists()


def test_options_that_would_be_ignored_are_refused(runs, tmp_path, capsys):
    def refused(command, *options):
        assert cli.main([command, "--runs", str(runs), *options]) == cli.USAGE_ERROR
        return capsys.readouterr().err

    (tmp_path / "paper.csv").write_text("method,protocol,psnr\nSIRT,r2,20\n")
    picture = ("--out", str(tmp_path / "page.png"))
    for name, value in (("paper", str(tmp_path / "paper.csv")), ("baseline", "FDK")):
        told = refused("report", *picture, f"--{name}", value)
        assert f"{name} is {value}" in told and ".html is expected" in told
    for options in ([], ["--downstream", "regions"]):
        told = refused("evaluate", "--segmenter", "embedded", *options)
        assert "segmenter is embedded" in told and "--downstream lungs is expected" in told
    assert not (tmp_path / "page.png").exists()


def test_places_that_cannot_be_written_are_refused_at_once(runs, tmp_path, capsys):
    file, folder = tmp_path / "notes.txt", tmp_path / "pages.html"
    file.touch()
    folder.mkdir()
    for command, out, words in (
        ("evaluate", file, f"{file} is a file; a folder for the table is expected"),
        ("report", folder, f"{folder} is a folder; a name for the page is expected"),
        ("report", file / "page.html", f"{file} is a file; a folder for the page is expected"),
    ):
        options = ["--runs", str(runs), "--out", str(out)]
        assert cli.main([command, *options]) == cli.USAGE_ERROR
        told = capsys.readouterr()
        assert words in told.err and not told.out


def test_bad_papers_and_baselines_are_refused(runs, tmp_path, capsys):
    def refused(*options):
        assert cli.main(["evaluate", "--runs", str(runs), *options]) == cli.USAGE_ERROR
        return capsys.readouterr().err

    assert "published numbers none.csv does not exist" in refused("--paper", "none.csv")
    assert "the baseline 'NAF' has no run; one of FDK, SIRT" in refused("--baseline", "NAF")


def test_lungs_are_compared_and_kept_beside_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffnr_lightning.downstream.lungs.find_spec", lambda name: None)
    low, high = -1000.0, 1000.0
    truth = (phantoms.chest(300, 32).array - low) / (high - low)
    blurred = gaussian_filter(truth, 1.0)
    for method, volume in (("FDK", blurred), ("SIRT", truth)):
        write_run(tmp_path / method, "chest", method, volume, truth, window_hu=(low, high))
    options = ["evaluate", "--runs", str(tmp_path), "--downstream", "lungs"]
    assert cli.main([*options, "--out", str(tmp_path / "table")]) == 0
    shown = capsys.readouterr().out
    assert "Dice % / mm" in shown and "100.00 / 0.00" in shown
    kept = json.loads((tmp_path / "FDK/downstream.json").read_text())["lungs"]
    assert kept["segmenter"] == "embedded"
    assert 70 < kept["dice_percent"] < 100 and kept["surface_distance_mm"] > 0
    table = (tmp_path / "table/table.md").read_text()
    assert "lungs Dice % | lungs ASD mm" in table and "| 100.00 | 0.00 |" in table
    before = (tmp_path / "FDK/downstream.json").stat().st_mtime_ns
    assert cli.main(options) == 0
    assert (tmp_path / "FDK/downstream.json").stat().st_mtime_ns == before


def test_regions_are_compared_and_kept_with_other_tasks(runs, tmp_path, capsys):
    file = runs / "FDK/downstream.json"
    file.write_text('{"lungs": {"segmenter": "embedded", "dice_percent": 90.0}}')
    options = ["evaluate", "--runs", str(runs), "--downstream", "regions"]
    regions = tmp_path / "regions.yaml"
    regions.write_text(
        "unit: voxel\nregions:\n  air: {centre: [1, 1, 1], radius: 1}\n"
        "  cube: {centre: [6, 6, 6], radius: 2}\nlines: {in: {start: [0, 6, 6], end: [6, 6, 6]}}\n"
    )
    out = ["--out", str(tmp_path / "table")]
    assert cli.main([*options, "--regions", str(regions), *out]) == 0
    shown = capsys.readouterr().out
    assert "error / dev." in shown and "300.00 / " in shown
    kept = json.loads(file.read_text())
    assert kept["lungs"]["dice_percent"] == 90
    # The window of these runs spans 3000 HU: the cube is 1500 HU above air, the reconstruction off by 300 HU.
    assert kept["regions"]["contrasts"]["cube - air"]["recovered_percent"] == pytest.approx(100)
    assert kept["regions"]["summary"]["error"] == pytest.approx(300, rel=1e-3)
    assert (runs / "FDK/profiles.png").is_file()
    assert (runs / "FDK/profiles.csv").read_text().startswith("line,distance_mm,reconstruction")
    assert "regions mean error" in (tmp_path / "table/table.md").read_text()
    # Regions without a line leave no profiles of those before.
    regions.write_text("unit: voxel\nregions: {air: {centre: [1, 1, 1], radius: 1}}\n")
    assert cli.main([*options, "--regions", str(regions)]) == 0
    assert not list((runs / "FDK").glob("profiles.*"))
    # A cube of this size has no flat places in the cylinder beside it: named and left out.
    assert cli.main([*options]) == 0
    assert json.loads(file.read_text())["regions"]["regions_from"] == str(regions)
    assert cli.main(["evaluate", "--runs", str(runs), "--regions", str(regions)]) == 2
    assert "--downstream regions is expected" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["regions", "lungs"])
def test_runs_of_a_case_that_was_simulated_anew_are_named(tmp_path, caplog, monkeypatch, task):
    """Those of the former volume, of its size or another, cost nothing of those of the new one."""
    monkeypatch.setattr("diffnr_lightning.downstream.lungs.find_spec", lambda name: None)
    low, high = -1000.0, 1000.0
    truth = (phantoms.chest(300, 32).array - low) / (high - low)
    volumes = {"A": 1 - truth, "B": truth, "C": truth[:, :, 1:], "D": truth}
    for name, volume in volumes.items():
        write_run(tmp_path / name, "chest", name, gaussian_filter(volume, 0.7), volume, (low, high))
    runs = read_runs([tmp_path])
    for _ in range(2):
        score_task(task, runs)
    scored = {path.parent.name for path in tmp_path.glob("*/downstream.json")}
    assert scored == {"B", "D"}
    for name in ("A", "C"):
        assert f"{tmp_path / name}: no" in caplog.text
    assert f"{tmp_path / 'B'}: no" not in caplog.text
