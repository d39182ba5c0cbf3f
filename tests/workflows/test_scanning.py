"""The options of `simulate` as people type them, and what they make of a file."""

import json

import numpy as np
import pytest

from diffnr_lightning import cli
from diffnr_lightning.data import read_case
from diffnr_lightning.workflows import scanning

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def simulate(tmp_path, capsys):
    """Scan an array of HU and return the case and what was said."""
    ball = np.full((16, 16, 16), -1000.0, np.float32)
    ball[4:12, 4:12, 4:12] = 40.0
    ball[6, 6, 6] = 2600.0
    np.save(tmp_path / "ball.npy", ball)

    def run(*options):
        small = ["--size", "16", "--num_views", "4", "--test_views", "0"]
        arguments = ["--volume", str(tmp_path / "ball.npy"), "--out", str(tmp_path / "case")]
        assert cli.main(["simulate", *arguments, *small, *options]) == 0
        return read_case(tmp_path / "case"), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("edges", "voxel_mm"), [(["2"], 2.0), (["2", "1", "1"], 2.0), (["0.5", "1", "3"], 3.0)]
)
def test_voxel_edges_are_one_number_or_three(simulate, edges, voxel_mm):
    case, _ = simulate("--spacing_mm", *edges)
    assert case.grid.voxel_mm == pytest.approx((voxel_mm,) * 3)


def test_a_window_begins_below_zero(simulate):
    case, said = simulate("--window_hu", "-1000", "3000")
    assert case.window_hu == (-1000.0, 3000.0)
    assert "above the window" not in said


def test_what_the_window_clips_is_said(simulate):
    _, said = simulate()
    assert "0.0244 % of the voxels lie above the window" in said
    assert "(a window_hu of -1000 2600 holds them all)" in said


def test_the_case_records_what_was_asked_for(simulate, tmp_path):
    case, _ = simulate("--noise.photons", "5000", "--seed", "4")
    record = json.loads((tmp_path / "case" / "meta_data.json").read_text())["provenance"]
    assert record["simulation"]["recipe"]["noise"]["photons"] == 5000
    assert record["simulation"]["seed"] == 4
    assert record["simulation"]["source"] == str(tmp_path / "ball.npy")


def test_a_folder_of_other_things_is_refused_before_anything_is_scanned(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(scanning, "load_source", lambda *given: pytest.fail("read the volume"))
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["simulate", "--volume", "phantom:1", "--out", str(tmp_path)]) == 2
    assert "holds no case (meta_data.json is missing)" in capsys.readouterr().err


def test_a_case_folder_with_runs_in_it_is_not_replaced(simulate, tmp_path, capsys):
    simulate()
    run = tmp_path / "case" / "fdk" / "metrics.json"
    run.parent.mkdir()
    run.write_text("{}")
    arguments = ["--volume", str(tmp_path / "ball.npy"), "--out", str(tmp_path / "case")]
    assert cli.main(["simulate", *arguments, "--size", "16", "--num_views", "6"]) == 2
    assert "holds fdk, which is not of a case" in capsys.readouterr().err
    assert run.read_text() == "{}"
