"""Every command really runs, from the scan to the page, on configs/tiny; killed runs resume."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
import yaml
from killed_after_file import kill_after_file
from safetensors import safe_open

from diffnr_lightning import cli
from diffnr_lightning.workflows.tables.experiment import MINIATURE_SCAN

TINY = Path(__file__).resolve().parents[2] / "configs" / "tiny"
GAUSSIANS = ["--config", str(TINY / "reconstruct_gaussians.yaml"), "--checkpoint_every", "10"]
pytestmark = pytest.mark.filterwarnings("ignore")


def diffnr(*arguments):
    return cli.main([str(argument) for argument in arguments])


def voxels(run):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(run / "volume.nii.gz")))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def case(work):
    assert diffnr("simulate", "--config", TINY / "simulate.yaml", "--out", work / "case") == 0
    return work / "case"


@pytest.fixture(scope="module")
def pairs(work):
    assert diffnr("curate", "--config", TINY / "curate.yaml", "--out", work / "pairs") == 0
    return work / "pairs"


def finetune_options(pairs):
    options = ["--config", TINY / "finetune.yaml", "--data.folders", pairs]
    return [*options, "--module.init_args.log_every", 1]


@pytest.fixture(scope="module")
def weights(work, pairs):
    out = work / "slicefixer"
    assert diffnr("finetune", *finetune_options(pairs), "--out", out) == 0
    return out / "weights.safetensors"


@pytest.fixture(scope="module")
def gaussians(work, case):
    assert diffnr("reconstruct", "--case", case, *GAUSSIANS, "--out", work / "gaussians") == 0
    return work / "gaussians"


def diffnr_options(weights):
    options = ["--config", TINY / "reconstruct_diffnr.yaml"]
    return [*GAUSSIANS, *options, "--method.pseudo_reference.repairer.weights", weights]


@pytest.fixture(scope="module")
def repaired(work, case, weights):
    out = work / "repaired"
    assert diffnr("reconstruct", "--case", case, *diffnr_options(weights), "--out", out) == 0
    return out


def test_a_run_folder_holds_what_it_promises(gaussians):
    names = {path.name for path in gaussians.iterdir()}
    promised = "volume.nii.gz metrics.json config.yaml environment.json preview.png checkpoint.ckpt"
    assert set(promised.split()) == names
    metrics = json.loads((gaussians / "metrics.json").read_text())
    assert {"r2", "naf", "strict"} <= set(metrics["protocols"])
    assert metrics["projections"]["psnr"] > 15
    assert metrics["seconds"] > 0
    assert metrics["peak_memory_mb"] > 50
    history = metrics["history"]
    assert history["iteration"] == list(range(12, 121, 12))
    assert history["loss"][-1] < history["loss"][0]
    assert history["psnr"][-1] == pytest.approx(metrics["protocols"]["r2"]["psnr"], abs=0.01)
    settings = yaml.safe_load((gaussians / "config.yaml").read_text())
    assert settings["method"]["init_args"]["iterations"] == 120
    assert settings["method"]["init_args"]["optimisation"]["init_args"]["lambda_ssim"] == 0.25
    # In HU, since the phantom is.
    assert -1100 < np.percentile(voxels(gaussians), 1) < -700


def test_the_prior_takes_part(gaussians, repaired):
    assert not np.array_equal(voxels(gaussians), voxels(repaired))
    kept = torch.load(repaired / "checkpoint.ckpt", weights_only=True)
    assert kept["scene"]["reference"] is not None
    assert kept["callbacks"]["PseudoReference"]["made"] == 2


def test_runs_become_a_table_and_a_page(gaussians, repaired, tmp_path, capsys, monkeypatch):
    # A narrow terminal may break names, depending on how wide the seconds are.
    monkeypatch.setenv("COLUMNS", "160")
    assert diffnr("evaluate", "--runs", gaussians, repaired) == 0
    shown = capsys.readouterr().out
    assert "scene + DiffNR" in shown
    assert diffnr("report", "--runs", gaussians, repaired, "--out", tmp_path / "report.html") == 0
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()
    assert diffnr("report", "--runs", gaussians, repaired, "--out", tmp_path / "slices.png") == 0
    assert (tmp_path / "slices.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "method", ["fdk", "sirt", "sart", "asd_pocs", "weighted_tv", "cgls", "fista_tv", "sbtv", "mbir"]
)
def test_classical_solvers(case, method, tmp_path):
    config = f"configs/reconstruct/{method}.yaml"
    assert diffnr("reconstruct", "--case", case, "--config", config, "--out", tmp_path) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["protocols"]["r2"]["psnr"] > 15


def test_a_finished_run_is_left_alone(case, gaussians):
    before = (gaussians / "volume.nii.gz").stat().st_mtime_ns
    assert diffnr("reconstruct", "--case", case, *GAUSSIANS, "--out", gaussians) == 0
    assert (gaussians / "volume.nii.gz").stat().st_mtime_ns == before


def test_a_run_of_other_settings_is_refused(case, gaussians, capsys):
    options = [*GAUSSIANS, "--method.iterations", "119"]
    assert diffnr("reconstruct", "--case", case, *options, "--out", gaussians) == cli.USAGE_ERROR
    assert "method.init_args.iterations = 120, not 119" in capsys.readouterr().err


def test_a_case_without_truth_and_held_out_views(case, tmp_path):
    blind = shutil.copytree(case, tmp_path / "case")
    shutil.rmtree(blind / "proj_test")
    (blind / "vol_gt.npy").unlink()
    meta = json.loads((blind / "meta_data.json").read_text())
    for key in ("vol", "proj_test"):
        meta.pop(key, None)
    (blind / "meta_data.json").write_text(json.dumps(meta))
    options = ["--config", "configs/reconstruct/fdk.yaml", "--out", tmp_path / "run"]
    assert diffnr("reconstruct", "--case", blind, *options) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "protocols" not in metrics
    assert "projections" not in metrics


def assert_same_tensors(path, other):
    # The order of the header's entries is not fixed by safetensors.
    with safe_open(path, framework="pt") as a, safe_open(other, framework="pt") as b:
        assert set(a.keys()) == set(b.keys())
        assert all(torch.equal(a.get_tensor(key), b.get_tensor(key)) for key in a.keys())


def test_a_killed_reconstruction_resumes_to_the_same_volume(case, weights, repaired, tmp_path):
    out = tmp_path / "run"
    options = ["--case", case, *diffnr_options(weights), "--out", out]
    # After the first repair and after the number of Gaussians has changed.
    kill_after_file("checkpoint.ckpt", 6, "reconstruct", *options)
    assert torch.load(out / "checkpoint.ckpt", weights_only=True)["scene"]["iteration"] == 60
    assert not (out / "metrics.json").exists()
    assert diffnr("reconstruct", *options) == 0
    np.testing.assert_array_equal(voxels(out), voxels(repaired))
    assert not list(out.glob(".*"))
    ours, others = (json.loads((run / "metrics.json").read_text()) for run in (out, repaired))
    assert ours["history"] == others["history"]


def test_two_processes_finetune_in_one_folder(pairs, weights, tmp_path):
    out = tmp_path / "two"
    options = ["--devices", 2, "--strategy", "ddp_find_unused_parameters_true"]
    command = [sys.executable, "-m", "diffnr_lightning.cli", "finetune", *finetune_options(pairs)]
    subprocess.run(
        [str(part) for part in (*command, *options, "--accelerator", "cpu", "--out", out)],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert json.loads((out / "metrics.json").read_text())["iterations"] == 12
    assert {path.name for path in out.iterdir()} == {p.name for p in weights.parent.iterdir()}


def test_a_finetuning_takes_pairs_that_were_moved_but_no_others(pairs, weights, tmp_path, capsys):
    moved = shutil.copytree(pairs, tmp_path / "elsewhere")
    out = shutil.copytree(weights.parent, tmp_path / "run")
    (out / "metrics.json").unlink()
    assert diffnr("finetune", *finetune_options(moved), "--out", out) == 0
    (out / "metrics.json").unlink()
    one = min(moved.glob("*.safetensors"))
    one.rename(moved / "more.safetensors")
    shutil.copy(pairs / one.name, one)
    assert diffnr("finetune", *finetune_options(moved), "--out", out) == cli.USAGE_ERROR
    assert "another content of data.init_args.folders" in capsys.readouterr().err


def test_a_killed_finetuning_resumes_to_the_same_weights(pairs, weights, tmp_path):
    out = tmp_path / "run"
    options = [*finetune_options(pairs), "--out", out]
    # Between the two validations, after the discriminator has begun.
    kill_after_file("checkpoint.ckpt", 2, "finetune", *options)
    assert not (out / "metrics.json").exists()
    assert diffnr("finetune", *options) == 0
    assert_same_tensors(out / "weights.safetensors", weights)
    curves, whole = ((run / "curves/metrics.csv").read_text() for run in (out, weights.parent))
    assert curves == whole
    assert len(whole.splitlines()) == 1 + 12 + 2 + 1  # header, batches, validations, the last one


def test_an_interrupted_curation_goes_on(pairs, tmp_path):
    out = tmp_path / "pairs"
    shutil.copytree(pairs, out)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) == 2
    files[0].unlink()
    assert diffnr("curate", "--config", TINY / "curate.yaml", "--out", out) == 0
    for file in files:
        assert_same_tensors(file, pairs / file.name)


@pytest.mark.parametrize("config", sorted(TINY.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_tiny_config_is_used(config, repository):
    """By a test, or by the miniature of a table."""
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")]
    tables = (repository / "experiments").rglob("table.yaml")
    texts = [MINIATURE_SCAN, *(path.read_text(encoding="utf-8") for path in tables)]
    words = re.findall(r"tiny/([\w-]+)", " ".join(texts))
    assert config.stem in words or any(config.name in text for text in tests)
