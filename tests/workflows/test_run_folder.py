import json
import os

import pytest
import torch
import yaml

from diffnr_lightning.workflows.run_folder import RunFolder, environment

SETTINGS = {
    "case": "a",
    "out": "here",
    "method": {"init_args": {"iterations": 3, "window": (0, 1)}},
}


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def changed(**init_args):
    return {**SETTINGS, "method": {"init_args": {**SETTINGS["method"]["init_args"], **init_args}}}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.open()
    return folder


def test_a_new_run_is_described(run):
    assert yaml.safe_load((run.path / "config.yaml").read_text())["method"]["init_args"] == {
        "iterations": 3,
        "window": [0, 1],
    }
    described = json.loads((run.path / "environment.json").read_text())
    assert described["packages"]["torch"]
    assert not run.finished
    assert run.resume_from() is None


def test_the_same_settings_take_up_the_run_from_another_place(run):
    RunFolder(run.path, {**SETTINGS, "out": "elsewhere"}).open()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (changed(iterations=4), "method.init_args.iterations = 3, not 4"),
        (changed(extra="x"), "method.init_args.extra = nothing, not 'x'"),
        ({**SETTINGS, "case": "b"}, "case = 'a', not 'b'"),
    ],
)
def test_a_run_of_other_settings_is_refused(run, settings, words):
    run.checkpoint.touch()
    with pytest.raises(ValueError, match="give another --out") as error:
        RunFolder(run.path, settings).open()
    assert words in str(error.value)


def test_a_run_that_made_nothing_is_replaced(run):
    RunFolder(run.path, changed(iterations=4)).open()
    kept = yaml.safe_load((run.path / "config.yaml").read_text())
    assert kept["method"]["init_args"]["iterations"] == 4


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        RunFolder(tmp_path, SETTINGS).open()
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex", SETTINGS).open()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    folder = RunFolder(tmp_path, SETTINGS)
    (tmp_path / ".123.part.config.yaml").write_text("method: {")
    folder.open()
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "environment.json"]


def test_a_damaged_checkpoint_is_refused(run):
    run.checkpoint.write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(ValueError, match="cannot be read"):
        run.resume_from()
    torch.save({"weights": 1}, run.checkpoint)
    with pytest.raises(ValueError, match="cannot be read"):
        run.resume_from()


def test_a_hostile_checkpoint_is_not_run(run, capsys):
    torch.save({"state_dict": Hostile()}, run.checkpoint)
    with pytest.raises(ValueError, match="cannot be read"):
        run.resume_from()
    assert "executed" not in capsys.readouterr().out


def test_metrics_mark_the_end(run):
    metrics = run.finish({"protocols": {"r2": {"psnr": 30.0}}})
    assert run.finished
    assert json.loads((run.path / "metrics.json").read_text()) == metrics
    assert metrics["protocols"]["r2"]["psnr"] == 30.0
    assert {"seconds", "peak_memory_mb"} <= set(metrics)


def test_environment_says_what_a_result_depends_on():
    described = json.loads(json.dumps(environment()))
    assert described["threads"]["numba"] >= 1
    assert described["cpu"]
    assert {"git", "gpus", "platform", "python", "omp_wait_policy"} <= set(described)
