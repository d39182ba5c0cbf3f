"""Curation: shards share a folder, kills cost nothing, settings are never mixed, pairs say how they were made."""

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from killed_after_file import kill_after_file
from small_curation import curate, scene, write_config

from diffnr_lightning import cli
from diffnr_lightning.data.slice_pairs import SlicePairData, open_pairs
from diffnr_lightning.files import whole_files
from diffnr_lightning.workflows.pairs.pairs_folder import PairsFolder
from diffnr_lightning.workflows.pairs.shards import shard_of

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config"))


def test_nothing_is_written_of_a_curation_that_cannot_fit(config, tmp_path, capsys, monkeypatch):
    from diffnr_lightning.workflows.machine import memory, memory_refusal

    module = importlib.import_module("diffnr_lightning.workflows.curation")
    monkeypatch.setattr(module, "use_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(memory_refusal, "free_bytes", lambda device: 2**20)
    assert curate(config, tmp_path / "pairs", "--device", "cuda") == cli.USAGE_ERROR
    assert "methods, number 1: the run needs about" in capsys.readouterr().err
    monkeypatch.setattr(memory_refusal, "free_bytes", lambda device: 2**34)
    monkeypatch.setattr(memory, "slices_bytes", lambda *_: 2**35)
    repairing = ("--device", "cuda", "--repair", "diffnr_lightning.priors.Repairer")
    assert curate(config, tmp_path / "pairs", *repairing) == cli.USAGE_ERROR
    assert "repair: the run needs about" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()


def started(config, out, *options):
    arguments = map(str, ["curate", "--config", config, "--out", out, *options])
    command = [sys.executable, "-m", "diffnr_lightning.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def pairs(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "whole"
    assert curate(config, out) == 0
    return out


def assert_same_pairs(folder, other):
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in other.iterdir())
    ours, others = open_pairs(folder), open_pairs(other)
    for name, scan in ours.items():
        for key in ("degraded", "clean", "biplanar", "residual"):
            assert torch.equal(getattr(scan, key), getattr(others[name], key))
        # The checkout may change while the tests run.
        assert {**scan.info, "code": None} == {**others[name].info, "code": None}
    manifests = [json.loads((f / "manifest.json").read_text()) for f in (folder, other)]
    assert manifests[0]["shares"] == manifests[1]["shares"]
    assert list(manifests[0]["scans"]) == list(manifests[1]["scans"])


def test_a_pair_says_how_it_was_made(pairs):
    info = open_pairs(pairs)["phantom_2_1"].info
    assert info["case"] == "phantom_2_1"
    assert info["volume"] == "phantom_2"
    assert len(info["volume_sha256"]) == 64
    assert info["representation"] == "VoxelGrid"
    assert info["method"]["init_args"]["representation"]["class_path"].endswith(".VoxelGrid")
    assert info["method"]["init_args"]["iterations"] == 6
    assert info["iterations"] == [3, 6]
    assert info["fractions"] == [0.5, 1.0]
    assert len(info["angles_deg"]) == info["views"] in (8, 12)
    assert info["layout"] in ("uniform", "random")
    recipe = info["scan"]["simulation"]["recipe"]
    assert recipe["noise"]["photons"] == 1e5
    assert recipe["scanner"]["source_to_axis"] == 2.5
    assert (recipe["num_views"], recipe["fit"]) == (info["views"], "body")
    assert info["code"]["diffnr_lightning"]
    assert set(info["code"]) == {"diffnr_lightning", "git"}
    first, second = (info["angles_deg"][view] for view in info["biplanar_views"])
    assert abs(np.cos(np.deg2rad(first - second))) < 0.5


def test_psnr_is_that_of_the_volumes_kept(pairs):
    for scan in open_pairs(pairs).values():
        error = (scan.degraded.double() - scan.clean.double()).square().mean(dim=(1, 2, 3))
        expected = (-10 * error.log10()).tolist()
        assert scan.info["psnr"] == pytest.approx(expected, abs=0.02)


def test_the_residual_points_from_the_degraded_to_the_clean_volume(pairs):
    for scan in open_pairs(pairs).values():
        for degraded, residual in zip(scan.degraded.float(), scan.residual.float(), strict=True):
            error = scan.clean.float() - degraded
            assert (error * residual).sum() > 0.3 * error.norm() * residual.norm()


def test_a_prior_repairs_the_last_volume_once_a_pass(config, pairs, tmp_path):
    repairing = tmp_path / "repairing.yaml"
    repair = {"passes": 2, "align_iterations": 2}
    repairing.write_text(yaml.safe_dump({"repair": repair}))
    assert (
        curate(config, tmp_path / "pairs", "--config", repairing, "--volumes", "phantom:1-2") == 0
    )
    before = open_pairs(pairs)
    for name, scan in open_pairs(tmp_path / "pairs").items():
        passes = len(scan.degraded) - 2  # a second one is not always taken
        assert passes in (1, 2)
        assert scan.info["repaired"] == [False, False] + [True] * passes
        assert scan.info["iterations"] == [3, 6] + [6] * passes
        assert torch.equal(scan.degraded[:2], before[name].degraded)
        assert torch.equal(scan.residual[:2], before[name].residual)
        assert not torch.equal(scan.degraded[2], scan.degraded[1])
        assert not torch.equal(scan.residual[2], scan.residual[1])


def test_projections_are_kept_as_large_as_wanted(pairs):
    assert {tuple(scan.biplanar.shape) for scan in open_pairs(pairs).values()} == {(2, 20, 20)}


def test_representations_have_equal_shares(pairs, config, capsys, monkeypatch):
    shares = json.loads((pairs / "manifest.json").read_text())["shares"]
    representations = shares["representation"]
    assert {k: (v["scans"], v["volumes"], v["share"]) for k, v in representations.items()} == {
        "GaussianCloud": (2, 4, 0.5),
        "VoxelGrid": (2, 4, 0.5),
    }
    assert sum(count["scans"] for count in shares["views"].values()) == 4
    # A finished curation shows its shares again.
    monkeypatch.setenv("COLUMNS", "120")
    assert curate(config, pairs) == 0
    shown = capsys.readouterr().out
    assert "4 scans of 2 volumes" in shown
    line = next(line for line in shown.splitlines() if "VoxelGrid" in line)
    assert "50.0 %" in line and f"{representations['VoxelGrid']['psnr']:.2f}" in line


def test_shards_at_the_same_time_make_the_same_files(config, pairs, tmp_path):
    out = tmp_path / "pairs"
    shards = [started(config, out, "--shard", f"{part}/2") for part in range(2)]
    outputs = [shard.communicate(timeout=300)[0] for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], outputs
    assert_same_pairs(out, pairs)


def test_a_killed_curation_goes_on(config, pairs, tmp_path):
    out = tmp_path / "pairs"
    kill_after_file("*.safetensors", 2, "curate", "--config", config, "--out", out)
    kept = {file: file.stat().st_mtime_ns for file in whole_files(out, "*.safetensors")}
    open_pairs(out)
    assert len(kept) == 2
    assert curate(config, out) == 0
    assert_same_pairs(out, pairs)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "18"], "size = 16, not 18"),
        (["--seed", "3"], "seed = 0, not 3"),
        (["--noise.photons", "100"], "noise.photons = 100000.0, not 100.0"),
        (["--volumes", "phantom:1-3"], "volumes without phantom_3; give"),
        (["--methods", json.dumps([scene("VoxelGrid", iterations=7)])], "methods.0.init_args"),
    ],
)
def test_other_settings_are_refused(config, pairs, capsys, options, words):
    before = {file: file.stat().st_mtime_ns for file in pairs.iterdir()}
    assert curate(config, pairs, *options) == cli.USAGE_ERROR
    error = capsys.readouterr().err
    assert words in error and "give another --out" in error
    assert {file: file.stat().st_mtime_ns for file in pairs.iterdir()} == before


def test_two_curations_that_begin_together_do_not_mix(pairs, tmp_path):
    # The other's record appears after this one has looked for it, which looks once more.
    folder = PairsFolder(tmp_path / "pairs", {"size": 3}, {"a": "a.npy"})
    shutil.copytree(pairs, folder.path)
    with pytest.raises(ValueError, match="holds pairs made by"):
        folder.add("a", {"case": "a", "views": 2})
    assert sorted(p.name for p in folder.path.iterdir()) == sorted(p.name for p in pairs.iterdir())


@pytest.mark.parametrize("record", [b"", b"size: [3", b"\xff\xfe", b"volumes: 3"])
def test_a_damaged_record_is_named(tmp_path, record):
    (tmp_path / "config.yaml").write_bytes(record)
    with pytest.raises(ValueError, match=r"config.yaml is damaged or no record of a curation"):
        PairsFolder(tmp_path, {"size": 3}, {"a": "a.npy"})


def test_pairs_of_unknown_settings_are_read_but_not_added_to(config, pairs, tmp_path, capsys):
    out = shutil.copytree(pairs, tmp_path / "pairs")
    (out / "config.yaml").unlink()
    assert curate(config, out) == cli.USAGE_ERROR
    assert "holds pairs but no config.yaml" in capsys.readouterr().err
    data = SlicePairData([out], iterations=1, held_out_share=0)
    data.setup("fit")
    assert len(data.training) == 4


@pytest.fixture
def unreadable(tmp_path):
    file = tmp_path / "bad.nii.gz"
    file.write_bytes(b"not a volume")
    return file


def test_a_volume_that_cannot_be_read_stops_no_other(config, pairs, unreadable, tmp_path, capsys):
    assert curate(config, tmp_path / "pairs", "--volumes", unreadable, "phantom:1") == 2
    assert list(open_pairs(tmp_path / "pairs")) == ["phantom_1_0", "phantom_1_1"]
    assert list(json.loads((tmp_path / "pairs" / "manifest.json").read_text())["scans"])
    lines = capsys.readouterr().err.splitlines()
    # Once, though it was to be scanned twice.
    assert len([line for line in lines if line.startswith("left out: bad: ")]) == 1
    assert lines[-1].startswith("diffnr curate: error: bad: ") and str(unreadable) in lines[-1]


def test_volumes_none_of_which_can_be_read_leave_no_folder(config, unreadable, tmp_path):
    assert curate(config, tmp_path / "pairs", "--volumes", unreadable) == cli.USAGE_ERROR
    assert not (tmp_path / "pairs").exists()


def test_scans_that_fail_stop_no_other_and_are_made_later(
    config, pairs, tmp_path, capsys, monkeypatch
):
    module = importlib.import_module("diffnr_lightning.workflows.curation")
    whole = module.stopped_early

    def failing(case, *others):
        if case.name in ("phantom_1_1", "phantom_2_0"):
            raise torch.OutOfMemoryError(f"no room for {case.name}.")
        return whole(case, *others)

    monkeypatch.setattr(module, "stopped_early", failing)
    assert curate(config, tmp_path / "pairs") == cli.USAGE_ERROR
    assert list(open_pairs(tmp_path / "pairs")) == ["phantom_1_0", "phantom_2_1"]
    assert capsys.readouterr().err.splitlines()[-1] == (
        "diffnr curate: error: 2 volumes or scans could not be finished, all others are. "
        "phantom_1_1: no room for phantom_1_1. phantom_2_0: no room for phantom_2_0."
    )
    monkeypatch.undo()
    assert curate(config, tmp_path / "pairs") == 0
    assert_same_pairs(tmp_path / "pairs", pairs)


def test_a_shard_without_volumes_is_no_error(config, tmp_path):
    assert curate(config, tmp_path / "pairs", "--shard", "2/3") == 0
    assert json.loads((tmp_path / "pairs" / "manifest.json").read_text())["scans"] == {}


def test_a_pattern_that_holds_nothing_out_is_said(config, tmp_path, capsys):
    """It was said to leave nothing out, which is what --exclude does."""
    assert curate(config, tmp_path / "pairs", "--shard", "2/3", "--held_out", "pt_*") == 0
    assert "'pt_*' holds no pairs out of finetunings: no volume" in capsys.readouterr().err


def test_leaving_a_volume_out_changes_nothing_else(config, pairs, tmp_path):
    out = tmp_path / "pairs"
    assert curate(config, out, "--exclude", "phantom_1") == 0
    assert list(open_pairs(out)) == ["phantom_2_0", "phantom_2_1"]
    scans = [open_pairs(folder)["phantom_2_0"] for folder in (out, pairs)]
    assert torch.equal(scans[0].degraded, scans[1].degraded)
    # And it can be taken back.
    assert curate(config, out) == 0
    assert_same_pairs(out, pairs)


def test_a_volume_to_leave_out_that_is_there_already_is_refused(config, pairs, capsys):
    assert curate(config, pairs, "--exclude", "*_2") == cli.USAGE_ERROR
    assert "holds pairs of phantom_2, which exclude leaves out" in capsys.readouterr().err
    assert curate(config, pairs, "--exclude", "*") == cli.USAGE_ERROR


def test_a_damaged_file_is_named(config, pairs, tmp_path, capsys):
    out = shutil.copytree(pairs, tmp_path / "pairs")
    damaged = out / "phantom_1_0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert curate(config, out) == cli.USAGE_ERROR
    assert f"{damaged} is not a file of slice pairs or is damaged" in capsys.readouterr().err
    damaged.unlink()
    assert curate(config, out) == 0
    assert_same_pairs(out, pairs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runs", "0"], "runs is 0"),
        (["--biplanar_size", "0"], "biplanar_size is 0"),
        (["--volumes", "none*.mhd"], "volumes has 'none*.mhd', which matches no file"),
        (["--volumes", "phantom:x"], "phantom:SEED"),
        (["--views", "12", "1"], "num_views is 1"),
        (["--views", "[]"], "views or layouts is empty"),
        (["--zooms", "1", "0.5"], "zooms is (1.0, 0.5)"),
        (["--num_views", "12"], "unknown option --num_views"),
        (["--methods", "[]"], "methods is empty"),
        (
            [
                "--methods",
                json.dumps([{"class_path": "diffnr_lightning.workflows.Postprocessing"}]),
            ],
            "methods, number 1, is a Postprocessing",
        ),
        (["--shard", "2/2"], "K/N with K < N"),
        (["--device", "cuda:99"], "device is 'cuda:99' but torch finds"),
        (["--device", "gpu"], "cpu, cuda or cuda:N"),
    ],
)
def test_bad_input_leaves_nothing(config, tmp_path, capsys, options, words):
    assert curate(config, tmp_path / "pairs", *options) == cli.USAGE_ERROR
    assert words in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()


@pytest.mark.gpu
def test_each_gpu_can_be_named(config, pairs, tmp_path):
    device = f"cuda:{torch.cuda.device_count() - 1}"
    assert curate(config, tmp_path / "pairs", "--device", device) == 0
    # Where it was computed is no setting.
    assert curate(config, tmp_path / "pairs", "--device", "cpu") == 0
    for name, scan in open_pairs(tmp_path / "pairs").items():
        assert scan.info["psnr"] == pytest.approx(open_pairs(pairs)[name].info["psnr"], abs=0.5)


@pytest.mark.parametrize("shard", ["", "3", "2/2", "a/b", "-1/2", "1/0"])
def test_shards_that_do_not_exist(shard):
    with pytest.raises(ValueError, match="K/N with K < N"):
        shard_of(shard)
