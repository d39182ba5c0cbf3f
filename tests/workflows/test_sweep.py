import importlib
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from diffnr_lightning import cli
from diffnr_lightning.data import load_case
from diffnr_lightning.workflows import Solver
from diffnr_lightning.workflows.cases.scanned_case import scanned_case
from diffnr_lightning.workflows.runs.folder_lock import FolderInUseError

TINY = Path(__file__).resolve().parents[2] / "configs" / "tiny"
SCANS = ["phantom_3", "phantom_4"]
METHODS = ["fdk", "sirt"]


def sweep(out, *options):
    arguments = ["--volumes", "phantom:3", "phantom:4", "--views", "6", "9", "--out", out]
    arguments += ["--methods", "reconstruct/fdk.yaml", "configs/reconstruct/sirt.yaml"]
    arguments += ["--scans", TINY / "simulate.yaml"]
    return cli.main(["sweep", *map(str, [*arguments, *options])])


def runs(out):
    return sorted(str(path.parent.relative_to(out)) for path in out.rglob("metrics.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    assert sweep(out) == 0
    return out


def test_every_method_meets_every_scan(whole):
    expected = [f"simulate/{v}_views/{scan}/{m}" for v in (6, 9) for scan in SCANS for m in METHODS]
    assert runs(whole) == sorted(expected)
    for views in (6, 9):
        metrics = json.loads(
            (whole / f"simulate/{views}_views/phantom_3/sirt/metrics.json").read_text()
        )
        assert metrics["views"] == views
        assert metrics["protocols"]["r2"]["psnr"] > 15
        assert metrics["kind"] is None


def test_a_sweep_goes_on_where_it_stopped(whole):
    missing = whole / "simulate/9_views/phantom_4/fdk/metrics.json"
    kept = whole / "simulate/9_views/phantom_4/sirt/metrics.json"
    before = kept.stat().st_mtime_ns
    score = json.loads(missing.read_text())["protocols"]
    missing.unlink()
    assert sweep(whole) == 0
    assert json.loads(missing.read_text())["protocols"] == score
    assert kept.stat().st_mtime_ns == before


def test_a_finished_run_is_not_built_again(whole, monkeypatch):
    def built(*args, **kwargs):
        raise AssertionError("a solver was built for a finished run")

    monkeypatch.setattr(Solver, "__init__", built)
    assert sweep(whole) == 0


def test_a_case_of_other_settings_is_refused(whole, tmp_path, capsys):
    before = sorted(whole.rglob("*"))
    (tmp_path / "simulate.yaml").write_text("size: 128\n")
    changed = ["--scans", tmp_path / "simulate.yaml"]
    assert sweep(whole, *changed) == cli.USAGE_ERROR
    line = capsys.readouterr().err.splitlines()[-1]
    assert "6_views/phantom_3/case holds a case with recipe.size = 24, not 128" in line
    assert "give another --out" in line
    assert sorted(whole.rglob("*")) == before


def test_a_volume_that_cannot_be_scanned_stops_no_other(tmp_path, capsys):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"not a volume")
    few = ["--volumes", bad, "phantom:4", "--views", "6"]
    assert sweep(tmp_path / "out", *few) == cli.USAGE_ERROR
    assert runs(tmp_path / "out") == [f"simulate/6_views/phantom_4/{name}" for name in METHODS]
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("left out: simulate, 6 views, bad: ") for line in lines)
    assert lines[-1].startswith("diffnr sweep: error: simulate, 6 views, bad: ")
    assert str(bad) in lines[-1]


def test_a_method_that_fails_stops_no_other(tmp_path, capsys):
    (tmp_path / "none.yaml").write_text("method: {init_args: {options: {iterations: -1}}}\n")
    methods = ["--methods", f"sirt+{tmp_path / 'none.yaml'}", "fdk", "--views", "6"]
    assert sweep(tmp_path / "out", *methods) == cli.USAGE_ERROR
    assert runs(tmp_path / "out") == [f"simulate/6_views/{name}/fdk" for name in SCANS]
    assert "2 scans or runs could not be finished, all others are." in capsys.readouterr().err


def test_a_method_whose_files_are_missing_stops_no_other(tmp_path, capsys):
    lacking = tmp_path / "lacking.yaml"
    lacking.write_text(f"method: {{init_args: {{denoiser: {tmp_path / 'none'}}}}}\n")
    methods = ["--methods", f"dds+{lacking}", "fdk", "--views", "6", "--volumes", "phantom:3"]
    assert sweep(tmp_path / "out", *methods) == cli.USAGE_ERROR
    assert runs(tmp_path / "out") == ["simulate/6_views/phantom_3/fdk"]
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_volumes_of_one_file_name_are_cases_of_their_own(tmp_path):
    for number, patient in enumerate(("P1", "P2")):
        (tmp_path / patient).mkdir()
        volume = np.full((16, 16, 16), -1000.0)
        volume[4:12, 4:12, 4:12] = 100.0 * number
        np.save(tmp_path / patient / "data.npy", volume)
    volumes = [tmp_path / patient / "data.npy" for patient in ("P1", "P2")]
    (tmp_path / "npy.yaml").write_text("unit: HU\nspacing_mm: [2, 2, 2]\n")
    options = ["--volumes", *volumes, "--views", "6", "--methods", "fdk"]
    scan = f"{TINY / 'simulate.yaml'}+{tmp_path / 'npy.yaml'}"
    assert sweep(tmp_path / "out", *options, "--scans", scan) == 0
    cases = [load_case(path.parent) for path in sorted((tmp_path / "out").rglob("vol_gt.npy"))]
    assert [case.name for case in cases] == ["P1_data", "P2_data"]
    assert cases[0].seed != cases[1].seed


def test_a_volume_that_was_exchanged_is_not_taken_for_the_one_before(tmp_path, capsys):
    file = tmp_path / "head.npy"
    volume = np.full((16, 16, 16), -1000.0, np.float32)
    volume[4:12, 4:12, 4:12] = 40.0
    np.save(file, volume)
    (tmp_path / "npy.yaml").write_text("unit: HU\nspacing_mm: 2\n")
    scan = f"{TINY / 'simulate.yaml'}+{tmp_path / 'npy.yaml'}"
    again = ["--volumes", file, "--views", "6", "--methods", "fdk", "--scans", scan]
    assert sweep(tmp_path / "out", *again) == sweep(tmp_path / "out", *again) == 0
    volume[4:8] = 60.0
    np.save(file, volume)
    capsys.readouterr()
    assert sweep(tmp_path / "out", *again) == cli.USAGE_ERROR
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"case holds a case with another content of {file}; remove it" in line
    (meta,) = (tmp_path / "out").rglob("meta_data.json")
    described = json.loads(meta.read_text())
    del described["provenance"]["source_sha256"]
    meta.write_text(json.dumps(described))
    assert sweep(tmp_path / "out", *again) == 0, "a case of an earlier version is refused"


def test_a_case_that_was_exchanged_is_refused(whole, tmp_path, capsys):
    copy = shutil.copytree(whole, tmp_path / "copy")
    view = copy / "simulate/6_views/phantom_3/case/proj_train/0000.npy"
    np.save(view, 2 * np.load(view))
    assert sweep(copy) == cli.USAGE_ERROR
    assert "another content of case" in capsys.readouterr().err


def test_what_an_earlier_version_finished_is_not_built_again(whole, tmp_path, monkeypatch, capsys):
    """It hashed less of a case, and recorded that."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    for file in copy.rglob("environment.json"):
        described = json.loads(file.read_text())
        if "inputs" in described:
            described["inputs"] = {k: v.partition(".")[0] for k, v in described["inputs"].items()}
            file.write_text(json.dumps(described))

    def built(*args, **kwargs):
        raise AssertionError("a solver was built for a finished run")

    monkeypatch.setattr(Solver, "__init__", built)
    assert sweep(copy) == 0
    view = copy / "simulate/6_views/phantom_3/case/proj_train/0000.npy"
    np.save(view, 2 * np.load(view))
    assert sweep(copy) == cli.USAGE_ERROR
    assert "another content of case" in capsys.readouterr().err


def test_two_methods_of_one_name_are_refused(tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tuned.yaml").write_text("name: tuned\n")
    methods = ["--methods", tmp_path / "a/tuned.yaml", tmp_path / "b/tuned.yaml"]
    assert sweep(tmp_path / "out", *methods) == cli.USAGE_ERROR
    assert "another one that would be called tuned too" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shards_share_the_scans(whole, tmp_path):
    assert sweep(tmp_path, "--shard", "0/2") == 0
    first = runs(tmp_path)
    assert len(first) == len(runs(whole)) / 2
    assert sweep(tmp_path, "--shard", "1/2") == 0
    assert runs(tmp_path) == runs(whole)
    for run in first:
        scores = [json.loads((out / run / "metrics.json").read_text()) for out in (tmp_path, whole)]
        assert scores[0]["protocols"] == scores[1]["protocols"]


def test_of_shards_that_end_together_one_logs_the_table(whole, capsys, monkeypatch):
    module = importlib.import_module("diffnr_lightning.workflows.sweep")
    logged = []
    monkeypatch.setattr(module, "log_tables", lambda *table: logged.append(table))
    assert sweep(whole, "--curves", "loggers/csv") == 0
    assert len(logged) == 1 and not (whole / ".logging").exists()

    def held(path, *, wait):
        raise FolderInUseError("process 7 on here")

    monkeypatch.setattr(module, "folder_lock", held)
    assert sweep(whole, "--curves", "loggers/csv") == 0
    assert len(logged) == 1
    assert "is being logged by process 7 on here" in capsys.readouterr().err


def test_all_gpus_share_the_scans(tmp_path, capsys, monkeypatch):
    """Two processes on the CPU stand for two GPUs; a scan that one of them cannot take stops no other."""
    module = importlib.import_module("diffnr_lightning.workflows.sweep")
    monkeypatch.setattr(module, "all_gpus", lambda: ["cpu", "cpu"])
    few = ["--methods", "fdk", "--views", "6", "--volumes", "phantom:3", "phantom:4", "phantom:5"]
    taken = tmp_path / "simulate/6_views/phantom_4/case"
    taken.parent.mkdir(parents=True)
    taken.write_text("a file where a case would lie")
    assert sweep(tmp_path, *few, "--device", "cuda:all", "--seed", "1") == cli.USAGE_ERROR
    assert runs(tmp_path) == [f"simulate/6_views/phantom_{seed}/fdk" for seed in (3, 5)]
    lines = capsys.readouterr().err.splitlines()
    assert "cpu: scan 2 of 2: simulate, 6 views, phantom_5" in lines
    assert any(line.startswith("cpu: diffnr sweep: error") for line in lines)
    assert "1 of 2 workers ended with an error (cpu (2))" in lines[-1]


def test_nothing_is_written_of_a_sweep_that_cannot_fit(whole, tmp_path, capsys, monkeypatch):
    from diffnr_lightning.workflows.machine import memory_refusal

    module = importlib.import_module("diffnr_lightning.workflows.sweep")
    monkeypatch.setattr(module, "use_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(memory_refusal, "free_bytes", lambda device: 2**20)
    assert sweep(tmp_path / "out", "--device", "cuda") == cli.USAGE_ERROR
    words = "fdk at 6 views of simulate: the run needs about"
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    # What is finished needs nothing.
    assert sweep(whole, "--device", "cuda") == 0


def test_no_method_is_held_while_another_one_runs(tmp_path, monkeypatch):
    """Its networks and volumes lie on a GPU, and often in circles, as a Trainer and its module."""
    seen, alive = [], []

    def watched(solver, problem):
        alive.append([other() is not None for other in seen])
        solver.circle = solver
        seen.append(weakref.ref(solver))
        if len(seen) == 1:
            raise ValueError("failed")
        return torch.zeros(problem.grid.shape)

    monkeypatch.setattr(Solver, "reconstruct", watched)
    few = ["--volumes", "phantom:3", "--views", "6", "--methods", "fdk", "sirt", "asd_pocs"]
    assert sweep(tmp_path / "out", *few) == cli.USAGE_ERROR
    assert alive == [[], [False], [False, False]]


def test_scans_by_several_recipes_lie_side_by_side(tmp_path, monkeypatch):
    """The first scan comes first, and is that of a sweep of one scan."""
    order = []
    module = importlib.import_module("diffnr_lightning.workflows.sweep")
    monkeypatch.setattr(module, "scanned_case", lambda s: order.append(s) or scanned_case(s))
    (tmp_path / "loud.yaml").write_text("noise: {mode: physical, photons: 100}\n")
    base = TINY / "simulate.yaml"
    scans = ["--scans", f"{base}+{tmp_path / 'loud.yaml'}", base]
    few = ["--methods", "fdk", "--views", "9", "6", "--volumes", "phantom:300"]
    assert sweep(tmp_path / "out", *scans, *few) == 0
    folders = [str(s.resolved["out"].split("/out/")[1]) for s in order]
    assert folders == [
        f"{scan}/{views}_views/phantom_300/case"
        for scan in ("simulate+loud", "simulate")
        for views in (9, 6)
    ]
    assert [s.resolved["noise"]["photons"] for s in order] == [100, 100, 1e5, 1e5]
    scores = [
        json.loads((tmp_path / "out" / scan / "9_views/phantom_300/fdk/metrics.json").read_text())
        for scan in ("simulate+loud", "simulate")
    ]
    assert scores[0]["protocols"]["r2"]["psnr"] < scores[1]["protocols"]["r2"]["psnr"] - 1
    assert scores[0]["kind"] == "phantom"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--volumes", "none*.nii"], "matches no file"),
        (["--views", "6", "1"], "views has 1; at least two views of each scan are expected"),
        (["--views", "6", "8", "6"], "views has 6 more than once"),
        (["--views", "[]"], "views is empty; at least one number of views is expected"),
        (["--methods", "reconstruct/none.yaml"], "none.yaml"),
        (["--shard", "2/2"], "shard is '2/2'"),
        (["--device", "cuda:99"], "device is 'cuda:99' but torch finds"),
        (["--device", "cuda:all"], "device is 'cuda:all' but torch finds no GPU; use --device cpu"),
        (["--device", "tpu"], "cpu, cuda or cuda:N is expected"),
        (["--scans", "data/none.yaml"], "none.yaml"),
        (["--curves", "loggers/none.yaml"], "none.yaml"),
        (["--curves", "reconstruct/fdk.yaml"], "unknown key 'method"),
        (["--methods", "reconstruct/fdk.yaml", "fdk"], "would be called fdk too"),
        (["--scans", "data/body.yaml", "data/body"], "scans has data/body and another one"),
    ],
)
def test_sweeps_that_cannot_be(tmp_path, capsys, options, words):
    assert sweep(tmp_path / "out", *options) == cli.USAGE_ERROR
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
