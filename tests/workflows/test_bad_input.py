"""Bad files are one sentence and exit code 2, and leave nothing half-written."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffnr_lightning import cli

TINY = Path(__file__).resolve().parents[2] / "configs" / "tiny"
GAUSSIANS = ["--config", str(TINY / "reconstruct_gaussians.yaml")]
FDK = ["--config", "configs/reconstruct/fdk.yaml"]
pytestmark = pytest.mark.filterwarnings("ignore")


def cube():
    volume = np.random.default_rng(0).normal(0, 50, (20, 20, 20)).astype(np.float32)
    volume[5:15, 5:15, 5:15] += 1000
    return volume


def spoilt(value):
    volume = cube()
    volume[3, 3, 3] = value
    return volume


SCAN = "--size 16 --num_views 8 --test_views 2 --unit HU --spacing_mm 1 1 1 --out case".split()


@pytest.fixture(scope="module")
def good_case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    np.save(folder / "volume.npy", cube())
    options = [*SCAN[:-1], str(folder / "case")]
    assert cli.main(["simulate", "--volume", str(folder / "volume.npy"), *options]) == 0
    return folder / "case"


@pytest.fixture(scope="module")
def good_run(good_case, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["reconstruct", "--case", str(good_case), *GAUSSIANS, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (cube()[0], "2 dimensions"),
        (cube()[None], "4 dimensions"),
        (spoilt(np.nan), "NaN"),
        (spoilt(np.inf), "infinite"),
        (np.full_like(cube(), 5), "constant"),
        (np.array([{}], dtype=object), "cannot be read"),
    ],
)
def test_arrays_that_are_no_volume(refused, tmp_path, volume, words):
    np.save(tmp_path / "v.npy", volume)
    assert words in refused("simulate", "--volume", "v.npy", *SCAN)


@pytest.mark.parametrize("name", ["v.nii.gz", "v.mha", "v.tif", "v.npy"])
def test_files_that_are_missing_or_damaged(refused, tmp_path, name):
    assert "does not exist" in refused("simulate", "--volume", name, *SCAN)
    (tmp_path / name).write_bytes(b"no volume" * 50)
    assert "cannot be read" in refused("simulate", "--volume", name, *SCAN)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--noise.photons", "-3"], "photons is -3"),
        (["--num_views", "1"], "num_views is 1"),
        (["--num_views", "0"], "num_views is 0"),
        (["--size", "0"], "size is 0"),
        (["--voxel_mm", "-1"], "voxel_mm is -1"),
        (["--voxel_mm", "1e9"], "one voxel of the cube is 1e+09 mm wide"),
        (["--margin", "nan"], "--margin is nan; a finite number is expected"),
        (["--seed", "-1"], "seed is -1"),
        (["--volume", "split:test"], "split:test, a set of volumes"),
        (["--scanner", "none.yaml"], "--scanner is 'none.yaml'; a file that can be read"),
        (["--scanner.source_to_detector", "1"], "less than source_to_axis_mm"),
        (["--window_hu", "100", "-100"], "window_hu"),
        (["--window_hu", "3000"], "two numbers are expected, such as --window_hu -1000 1024"),
        (["--window_hu", "-1000,x"], "two numbers are expected, such as --window_hu -1000 1024"),
        (["--spacing_mm", "2", "1"], "such as --spacing_mm 1 1 1"),
        (["--spacing_mm", "-2"], "spacing_mm is -2"),
        (["--scanner.unit", "mm"], "without source_to_axis, source_to_detector, detector;"),
        (["--arc_deg", "500"], "arc_deg is 500"),
        (["--scaner.beam", "cone"], "did you mean --scanner.beam"),
        (["--out", "v.npy"], "is a file"),
    ],
)
def test_scans_that_cannot_be(refused, tmp_path, options, words):
    np.save(tmp_path / "v.npy", cube())
    assert words in refused("simulate", "--volume", "v.npy", *SCAN, *options)


@pytest.mark.parametrize("options", [["--spacing_mm", "2"], ["--unit", "arbitrary"]])
def test_options_of_files_for_what_is_generated(refused, options):
    words = "is generated in HU with voxels of its own"
    assert words in refused("simulate", "--volume", "specimen:3", *SCAN, *options)


def remove(name):
    def spoil(case):
        path = case / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return spoil


def rewrite(name, content):
    return lambda case: (case / name).write_bytes(content)


def truncate(name):
    return lambda case: (case / name).write_bytes((case / name).read_bytes()[:200])


def edit(change):
    def spoil(case):
        meta = json.loads((case / "meta_data.json").read_text())
        change(meta)
        (case / "meta_data.json").write_text(json.dumps(meta))

    return spoil


def views(meta):
    return enumerate(meta["proj_train"])


def negate(case):
    for view in (case / "proj_train").iterdir():
        np.save(view, -np.load(view))


def measured_by_another(case, **factors):
    """The same case without a word of who made it, its truth in another unit."""
    edit(lambda meta: [meta.pop(key) for key in ("provenance", "window_hu")])(case)
    np.save(case / "vol_gt.npy", factors["slope"] * np.load(case / "vol_gt.npy") + factors["shift"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (remove("meta_data.json"), "meta_data.json does not exist"),
        (remove("proj_train"), "does not exist"),
        (remove("proj_train/0001.npy"), "0001.npy does not exist"),
        (truncate("proj_train/0001.npy"), "0001.npy cannot be read"),
        (truncate("vol_gt.npy"), "vol_gt.npy cannot be read"),
        (rewrite("meta_data.json", b"{"), "cannot be read as JSON"),
        (rewrite("meta_data.json", b"[]"), "a JSON object is expected"),
        (edit(lambda meta: meta["scanner"].pop("DSO")), "lacks the key 'DSO'"),
        (edit(lambda meta: meta["scanner"].update(DSD=1.0)), "(DSD) is 1.0"),
        (edit(lambda meta: meta["scanner"].update(nVoxel=[16, 16])), "nVoxel"),
        (edit(lambda meta: meta["scanner"].update(nDetector=[20, 20])), "(20, 20)"),
        (edit(lambda meta: meta["scanner"].update(nVoxel=[16, 16, 16.5])), "whole numbers"),
        (edit(lambda meta: meta.update(provenance="made")), "a JSON object is expected"),
        (edit(lambda meta: [view.update(angle=50 * n) for n, view in views(meta)]), "radians"),
        (negate, "below zero"),
        (edit(lambda meta: meta.update(proj_train=[])), "no projections"),
        (edit(lambda meta: meta.update(proj_train=meta["proj_train"][:1])), "one projection"),
    ],
)
def test_cases_that_are_damaged(refused, good_case, tmp_path, spoil, words):
    case = shutil.copytree(good_case, tmp_path / "case")
    spoil(case)
    assert words in refused("reconstruct", "--case", "case", *FDK, "--out", "run")


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"slope": 2024, "shift": -2000}, "not HU"),
        ({"slope": 0.02, "shift": 0}, "times as large as those of its truth"),
    ],
)
def test_a_truth_in_another_unit(refused, good_case, tmp_path, factors, words):
    case = shutil.copytree(good_case, tmp_path / "case")
    measured_by_another(case, **factors)
    assert words in refused("reconstruct", "--case", "case", *FDK, "--out", "run")


def counts(**changes):
    """A bar of which views half a turn apart are mirror images."""
    bar = np.ones((12, 16, 32))
    bar[:, 4:, 12:20] = 0.5
    arrays = {"raw": 100 + 2e4 * bar, "flat": np.full((16, 32), 20_100.0), "dark": 100}
    return {**arrays, "angles_deg": np.arange(12) * 180 / 11, **changes}


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"angles_deg": np.linspace(0, 3.1, 12)}, [], "angle_unit=rad"),
        ({"flat": 100, "dark": 20_100}, [], "exchanged"),
        ({"raw": np.full((12, 16, 32), -9e3)}, [], "brighter than the dark field"),
        ({"angles_deg": np.full(12, np.nan)}, [], "infinite angles;"),
        ({"raw": np.full((12, 16, 32), 9e3)}, [], "shows something"),
        ({"raw": np.full((12, 16, 32), "x")}, [], "real numbers"),
        ({"angles_deg": np.arange(12) * 9.0}, [], "axis_column"),
        ({}, ["--axis_column", "90"], "axis_column is 90"),
        ({}, ["--every", "12"], "every is 12"),
        ({}, ["--air_border", "north"], "auto"),
        ({}, ["--angle_unit", "gon"], "deg"),
        ({}, ["--pixel_mm", "0"], "pixel_mm is 0"),
        ({}, ["--out", "scan.npz"], "is a file"),
    ],
)
def test_scans_that_cannot_be_ingested(refused, tmp_path, changes, options, words):
    np.savez(tmp_path / "scan.npz", **counts(**changes))
    assert words in refused("ingest", "--projections", "scan.npz", "--out", "case", *options)


def test_projections_that_show_nothing(refused, good_case, tmp_path):
    case = shutil.copytree(good_case, tmp_path / "case")
    for view in (case / "proj_train").iterdir():
        np.save(view, 0 * np.load(view))
    assert "zeros only" in refused("reconstruct", "--case", "case", *FDK, "--out", "run")
    assert not (tmp_path / "run").exists()


def test_outputs_that_cannot_be_written(refused, good_case):
    blocked = os.path.join(os.devnull, "run")
    refused("reconstruct", "--case", good_case, *FDK, "--out", blocked)
    refused("report", "--runs", good_case, "--out", blocked)


def test_folders_that_are_no_runs(refused):
    for command in ("evaluate", "report"):
        assert "does not exist" in refused(command, "--runs", "nothing")
        assert "is a file" in refused(command, "--runs", __file__)
    words = "'hearts'; one of lungs, regions or null is expected"
    assert words in refused("evaluate", "--runs", "nothing", "--downstream", "hearts")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "fdk"], "--method is 'fdk'; a class_path with its init_args is expected"),
        (["--method", "{}"], "--method is '{}'; a class_path with its init_args is expected"),
        (
            ["--config", "nosuch"],
            "reconstruct/nosuch.yaml is not among the configs that come with diffnr.",
        ),
        (["--config", "fdk+"], "config is 'fdk+'; names of files, joined by single pluses"),
        (["--config", ""], "--config is given an empty word"),
        ([*FDK, "--method.init_args.options", "5"], "is '5'; dict[str, Any] or null is expected"),
        ([*FDK, "--photons", "-5"], "photons is -5"),
        ([*FDK, "--seed", "-3"], "seed is -3"),
        (["--config", "sirt", "--method.init_args.options", "{iterations: 0}"], "iterations is 0"),
        (
            [
                "--config",
                "r2gaussian",
                "--config",
                "diffnr/loop",
                "--method.pseudo_reference.repairer.batch_size",
                "0",
            ],
            "batch_size 0",
        ),
    ],
)
def test_methods_that_cannot_be(refused, good_case, options, words):
    assert words in refused("reconstruct", "--case", good_case, "--out", "runs/run", *options)


@pytest.mark.parametrize("content", [b"junk" * 50, pickle.dumps({"weights": 1}), b""])
def test_weights_that_are_damaged_or_hostile(refused, good_case, tmp_path, content):
    options = [*GAUSSIANS, "--config", TINY / "reconstruct_diffnr.yaml", "--out", "run"]
    options += ["--method.pseudo_reference.repairer.weights", "w.safetensors"]
    line = refused("reconstruct", "--case", good_case, *options)
    assert "error: w.safetensors does not exist" in line
    (tmp_path / "w.safetensors").write_bytes(content)
    assert "error: w.safetensors is not" in refused("reconstruct", "--case", good_case, *options)


def test_a_checkpoint_of_another_geometry(refused, good_case, good_run, tmp_path):
    case = shutil.copytree(good_case, tmp_path / "case")
    run = shutil.copytree(good_run, tmp_path / "run")
    (run / "metrics.json").unlink()
    settings = (run / "config.yaml").read_text().replace(str(good_case), "case")
    (run / "config.yaml").write_text(settings)
    edit(lambda meta: meta["scanner"].update(sVoxel=[2.0, 2.0, 2.0]))(case)
    options = ["--case", "case", *GAUSSIANS, "--out", "run"]
    assert "another" in refused("reconstruct", *options)


def test_a_damaged_checkpoint(refused, good_case, good_run, tmp_path):
    run = shutil.copytree(good_run, tmp_path / "run")
    (run / "metrics.json").unlink()
    kept = run / "checkpoint.ckpt"
    kept.write_bytes(kept.read_bytes()[:5000])
    line = refused("reconstruct", "--case", good_case, *GAUSSIANS, "--out", "run")
    assert "checkpoint.ckpt cannot be read" in line
    torch.save({"weights": 1}, kept)
    refused("reconstruct", "--case", good_case, *GAUSSIANS, "--out", "run")
