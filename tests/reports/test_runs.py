import json
import logging

import numpy as np
import pytest

from diffnr_lightning.reports import read_run, read_runs, read_truth, read_volume
from diffnr_lightning.reports.tables import score_table

from .conftest import SHAPE, VOXEL_MM, WINDOW_HU, write_run


def test_runs_are_found_at_any_depth_and_once(run_folders, tmp_path):
    found = read_runs([run_folders[1], tmp_path])
    assert [run.folder for run in found] == [
        run_folders[1],
        *sorted(f for f in run_folders if f != run_folders[1]),
    ]
    assert {run.method for run in found} == {"FDK", "DiffNR"}


def test_runs_that_are_named_in_several_ways_count_once(run_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(run_folders[0])
    found = read_runs([".", tmp_path, f"{tmp_path}/link"])
    assert len(found) == len(run_folders)
    assert {str(run.folder) for run in found} == {folder.name for folder in run_folders}


def test_runs_behind_links_are_found_and_links_to_folders_around_them_are_harmless(
    run_folders, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "scratch").symlink_to(run_folders[0].parent)
    for folder in run_folders:
        (folder / "around").symlink_to(tmp_path)
    assert len(read_runs([elsewhere])) == len(run_folders)


def test_unfinished_run_is_left_out_and_named(run_folders, tmp_path, caplog):
    (run_folders[0] / "metrics.json").unlink()
    with caplog.at_level(logging.WARNING, "diffnr"):
        found = read_runs([tmp_path])
    assert len(found) == 3
    assert str(run_folders[0]) in caplog.text


def test_settings_that_are_no_text_keep_no_table_from_being_made(run_folders, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.yaml").write_bytes(b"\xff\xfe\x00")
    assert len(read_runs([tmp_path])) == len(run_folders)


def test_folders_of_pairs_are_no_runs_that_are_not_finished(run_folders, tmp_path, caplog):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "config.yaml").write_text("volumes: [phantom:1]\nmethods: []\n")
    assert len(read_runs([tmp_path])) == len(run_folders)
    assert not caplog.records


def test_a_training_below_the_folder_is_left_out(run_folders, tmp_path):
    training = tmp_path / "slicefixer"
    training.mkdir()
    content = {"iterations": 10, "validation": {}, "held_out": ["phantom_1"], "seconds": 3.0}
    (training / "metrics.json").write_text(json.dumps(content))
    assert len(read_runs([tmp_path])) == len(run_folders)
    with pytest.raises(ValueError, match="no finished run"):
        read_runs([training])


def test_volume_and_truth_share_unit_and_axes(run_folders, truth):
    run = read_run(run_folders[0])
    volume = read_volume(run)
    shown = read_truth(run, volume)
    assert volume.values.shape == SHAPE == shown.values.shape
    assert volume.voxel_mm == VOXEL_MM
    assert volume.unit == shown.unit == "HU"
    assert volume.window == WINDOW_HU
    np.testing.assert_allclose(shown.values, -1000 + 3000 * truth, atol=1e-2)
    np.testing.assert_allclose(volume.values - shown.values, 300, atol=1e-2)


@pytest.mark.parametrize("window_hu", [WINDOW_HU, None])
def test_a_truth_by_which_the_run_was_not_scored_is_not_shown(tmp_path, truth, caplog, window_hu):
    """A case may be simulated anew, of another volume, where its runs lie beside it."""
    folder = write_run(tmp_path / "run", "chest", "FDK", truth + 0.1, truth, window_hu)
    run = read_run(folder)
    assert read_truth(run, read_volume(run)) is not None
    np.save(tmp_path / "case_chest/vol_gt.npy", 1 - truth.transpose(2, 1, 0))
    assert read_truth(run, read_volume(run)) is None
    assert f"another volume than run {folder} was scored by" in caplog.text


def test_case_without_truth_or_window(tmp_path, truth):
    run = read_run(write_run(tmp_path / "run", "tooth", "FBP", truth, window_hu=None))
    volume = read_volume(run)
    assert run.protocols == {}
    assert volume.unit == "arbitrary"
    assert volume.window is None
    assert read_truth(run, volume) is None


def test_a_truth_that_was_normalised_is_shown_as_the_run_saw_it(tmp_path, truth):
    folder = write_run(
        tmp_path / "run",
        "tooth",
        "FDK",
        truth,
        0.02 * truth,
        None,
        normalised_by=0.02,
        protocols={},
    )
    meta = tmp_path / "case_tooth" / "meta_data.json"
    meta.write_text(meta.read_text(), encoding="utf-8-sig")  # as editors on Windows leave it
    run = read_run(folder)
    np.testing.assert_allclose(read_truth(run, read_volume(run)).values, truth, rtol=1e-5)


def test_a_truth_that_is_named_as_on_windows_is_found(run_folders):
    run = read_run(run_folders[0])
    (run.case_folder / "data").mkdir()
    (run.case_folder / "vol_gt.npy").rename(run.case_folder / "data" / "vol_gt.npy")
    (run.case_folder / "meta_data.json").write_text(json.dumps({"vol": "data\\vol_gt.npy"}))
    assert read_truth(run, read_volume(run)) is not None


def test_case_that_moved_is_shown_without_truth(run_folders, caplog):
    metrics = json.loads((run_folders[0] / "metrics.json").read_text())
    metrics["case_folder"] = "elsewhere"
    (run_folders[0] / "metrics.json").write_text(json.dumps(metrics))
    with caplog.at_level(logging.WARNING, "diffnr"):
        run = read_run(run_folders[0])
    assert "elsewhere" in caplog.text
    assert read_truth(run, read_volume(run)) is None
    assert run.protocols["r2"]["psnr"] == pytest.approx(20, abs=1e-3)


def test_relative_case_folder_is_looked_up_from_the_run(run_folders):
    metrics = json.loads((run_folders[0] / "metrics.json").read_text())
    metrics["case_folder"] = "../case_chest"
    (run_folders[0] / "metrics.json").write_text(json.dumps(metrics))
    assert read_run(run_folders[0]).case_folder is not None


def test_bad_folders_are_refused_in_words(run_folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no finished run"):
        read_runs([tmp_path / "empty"])
    (run_folders[0] / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        read_runs(run_folders)
    (run_folders[0] / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="'case' and 'method'"):
        read_runs(run_folders)
    (run_folders[1] / "volume.nii.gz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as NIfTI"):
        read_volume(read_run(run_folders[1]))
    (run_folders[1] / "volume.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"volume.nii.gz does not exist"):
        read_volume(read_run(run_folders[1]))
    run = read_run(run_folders[2])
    volume = read_volume(run)
    (run.case_folder / "vol_gt.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="true volume"):
        read_truth(run, volume)
    np.save(run.case_folder / "vol_gt.npy", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"has the shape \(4, 4\); three axes \(x, y, z\)"):
        read_truth(run, volume)
    (run.folder / "downstream.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no results of tasks; delete it"):
        read_run(run.folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("protocols", 5),
        ("protocols", {"r2": {"psnr": "high"}}),
        ("protocols", {"r2": 30.0}),
        ("projections", {"psnr": [40.0]}),
        ("chi_square", {"mean": 5}),
        ("protocols", {"r2": None}),
        ("history", [1, 2]),
        ("history", {"loss": ["low"]}),
        ("window_hu", 3),
        ("window_hu", [0, 1, 2]),
        ("window_hu", [0, None]),
        ("window_hu", [0, "1"]),
        ("noise", {"photons": 1}),
        ("size", 64),
        ("views", "many"),
        ("seconds", "long"),
    ],
)
def test_entries_that_no_run_writes_are_refused(run_folders, key, value):
    file = run_folders[0] / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(
        ValueError, match=f"metrics.json says of {key} .*; remove the folder of the run"
    ):
        read_run(run_folders[0])


def test_chi_square_evaluations_and_the_part_of_the_prior_are_columns(tmp_path, truth):
    extra = {"chi_square": {"mean": {"fitted": 3.5, "resolved": 1.1}}, "prior": {"unseen": 0.4}}
    extra |= {"evaluations": 52.5}
    folder = write_run(tmp_path / "run", "chest", "DiffNR", truth, truth, **extra)
    (row,) = score_table([read_run(folder)]).cases
    assert row.values["chi_fitted"] == 3.5 and row.values["chi_resolved"] == 1.1
    assert row.values["prior_unseen"] == 0.4 and row.values["evaluations"] == 52.5
    assert "chi_left_out" not in row.values
