"""Runs find their truth again when they were moved together with their cases."""

import json
import shutil

import pytest

from diffnr_lightning.reports import read_run, read_truth, read_volume

from .conftest import write_run


@pytest.fixture
def moved(tmp_path, truth):
    """Return a function that writes a run and its case, and moves both."""

    def moved(case_name="case", **numbers):
        run = write_run(tmp_path / "runs" / "one" / "fdk", "one", "FDK", truth, truth, **numbers)
        case = run.parent / case_name
        (run.parent / "case_one").rename(case)
        meta = json.loads((case / "meta_data.json").read_text()) | {"name": "one"}
        (case / "meta_data.json").write_text(json.dumps(meta))
        return shutil.move(tmp_path / "runs", tmp_path / "elsewhere") / "one" / "fdk"

    return moved


def has_truth(folder):
    run = read_run(folder)
    return read_truth(run, read_volume(run)) is not None


def test_a_case_that_was_moved_with_its_run_is_found(moved):
    assert has_truth(moved("scan", case_from_run="../scan"))


def test_runs_of_before_find_the_case_that_a_sweep_laid_beside_them(moved):
    assert has_truth(moved())


@pytest.mark.parametrize("other", [{"name": "two"}, {"proj_train": [{}] * 3}])
def test_another_case_in_its_place_is_not_taken_for_it(moved, other, caplog):
    run = moved(views=4)
    meta = run.parent / "case" / "meta_data.json"
    known = {"proj_train": [{}] * 4, **json.loads(meta.read_text())}
    meta.write_text(json.dumps(known))
    assert has_truth(run)
    meta.write_text(json.dumps(known | other))
    assert not has_truth(run)
    assert "is not there" in caplog.text
