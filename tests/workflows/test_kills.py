"""Kills at random moments: the same command goes on to the bits of an uninterrupted run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from run_contents import contents
from safetensors import safe_open

from diffnr_lightning import cli
from diffnr_lightning.data import load_case

TINY = Path(__file__).resolve().parents[2] / "configs" / "tiny"
SEED = int(os.environ.get("DIFFNR_KILLS_SEED", "13"))
# Twenty in all.
KILLS = {"simulate": 3, "ingest": 3, "reconstruct": 4, "curate": 3, "finetune": 4, "sweep": 3}
# Their files are written within milliseconds: the moment is the number of files that are there.
BY_FILES = {"simulate", "ingest"}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Measured counts, a case and pairs."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    angles = np.arange(61) * 3.0
    shape = (len(angles), 16, 48)
    columns = np.abs(np.arange(48) - 23.5)
    counts = 100 + 20_000 * np.exp(-0.05 * np.sqrt(np.maximum(15.0**2 - columns**2, 0)))
    counts = np.broadcast_to(counts, shape) + generator.normal(0, 10, shape)
    flat, dark = np.full(shape[1:], 20_100.0), np.full(shape[1:], 100.0)
    np.savez(folder / "scan.npz", raw=counts, flat=flat, dark=dark, angles_deg=angles)
    scan = ["simulate", "--config", TINY / "simulate.yaml", "--out", folder / "case"]
    pairs = ["curate", "--config", TINY / "curate.yaml", "--out", folder / "pairs"]
    for command in (scan, pairs):
        assert cli.main([str(word) for word in command]) == 0
    return folder


def command_line(command, inputs):
    gaussians = TINY / "reconstruct_gaussians.yaml"
    words = {
        "simulate": ["--volume", "phantom:3", "--size", 32, "--num_views", 60],
        "ingest": ["--projections", inputs / "scan.npz", "--axis_column", 23.5],
        "reconstruct": [
            *("--case", inputs / "case", "--config", gaussians, "--checkpoint_every", 10),
            *("--config", TINY / "reconstruct_diffnr.yaml"),
        ],
        "curate": ["--config", TINY / "curate.yaml"],
        "finetune": [
            *("--config", TINY / "finetune.yaml", "--data.folders", inputs / "pairs"),
            *("--module.init_args.log_every", 1, "--checkpoint_every", 1),
        ],
        "sweep": [
            *("--volumes", "phantom:3", "--views", 6, 9, "--scans", TINY / "simulate.yaml"),
            *("--methods", "fdk", gaussians),
        ],
    }
    return [command, *map(str, words[command]), "--out", "made/out"]


def start(words, folder):
    folder.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "diffnr_lightning.cli", *words]
    package = str(Path(cli.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": package}
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def first_entry(process, folder):
    """Wait until something is written; return whether the process still runs."""
    while not (folder / "made").exists():
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def files_of(folder):
    """Count the files of a folder that changes."""
    return sum(len(files) for _, _, files in os.walk(folder))


def uninterrupted(words, folder):
    """Run; return seconds from the first entry to the end."""
    process = start(words, folder)
    assert first_entry(process, folder)
    began = time.monotonic()
    assert process.wait(600) == 0
    return time.monotonic() - began


def check_nothing_half_written(folder):
    """Read all that stands under its final name."""
    for meta in folder.rglob("meta_data.json"):
        if not any(part.startswith(".") for part in meta.relative_to(folder).parts):
            load_case(meta.parent)
    for metrics in folder.rglob("metrics.json"):
        assert json.loads(metrics.read_text())
        assert (metrics.parent / "config.yaml").is_file()
        results = [metrics.parent / name for name in ("volume.nii.gz", "weights.safetensors")]
        assert any(result.is_file() for result in results)
    for path in folder.rglob("*.safetensors"):
        if not path.name.startswith("."):
            with safe_open(path, framework="np") as file:
                assert [file.get_tensor(key) for key in file.keys()]
    for path in folder.rglob("volume.nii.gz"):
        assert SimpleITK.ReadImage(str(path)).GetDimension() == 3


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", KILLS)
def test_a_killed_command_goes_on_to_the_same_bits(command, inputs, tmp_path, monkeypatch, capsys):
    words = command_line(command, inputs)
    seconds = uninterrupted(words, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    generator = random.Random(f"{SEED}/{command}")
    kills = tries = 0
    while kills < KILLS[command]:
        tries += 1
        assert tries < 10 * KILLS[command], "the command ends before it can be killed"
        trial = tmp_path / f"trial_{tries}"
        share = generator.random()
        process = start(words, trial)
        if not first_entry(process, trial):
            continue
        if command in BY_FILES:
            while files_of(trial) < share * len(whole) and process.poll() is None:
                pass
        else:
            time.sleep(share * seconds)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            continue
        kills += 1
        check_nothing_half_written(trial)
        left = files_of(trial)
        monkeypatch.chdir(trial)
        assert cli.main(words) == 0
        resumed = contents(trial)
        with capsys.disabled():
            print(f"\n{command}, seed {SEED}: killed at {100 * share:.0f} % of its writing", end="")
            print(f" ({seconds:.1f} s), {left} of {len(whole)} files there", end="", flush=True)
        assert resumed.keys() == whole.keys()
        for name, content in whole.items():
            assert resumed[name] == content, f"{name} differs"
