"""What a command loads before it answers: packages, since seconds depend on the machine."""

import json
import subprocess
import sys

import pytest

from diffnr_lightning import cli

HEAVY = [
    *("torch", "lightning", "torchmetrics", "torch._dynamo", "transformers", "diffusers"),
    *("numba", "scipy.signal", "matplotlib", "SimpleITK"),
]

# Runs command lines one after the other and prints exit code and heavy packages after each.
PROGRAM = """
import contextlib, io, json, sys
from diffnr_lightning import cli
heavy, lines = json.loads(sys.argv[1])
for line in lines:
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(line)
    print(json.dumps([line, code, [name for name in heavy if name in sys.modules]]))
"""

# Inputs that are not there, of every command that reads some.
MISSING = [
    "simulate --volume none.mha --out case",
    "reconstruct --config reconstruct/fdk --case none --out run",
    "reconstruct --config r2gaussian --config diffnr/align --case none --out run",
    "sweep --volumes none.mha --methods fdk --views 8 --out sweep",
    "curate --config tiny/curate --volumes none.mha --out pairs",
    "curate --config tiny/curate --volumes phantom:1 --shard 3/2 --out pairs",
    "finetune --data.folders pairs --start none --out run",
    "train-denoiser --config tiny/train-denoiser --volumes none.mha --out run",
    "train-denoiser --volumes phantom:100 --start none --out run",
    "submit --command nothing",
]


def loaded_after(lines, folder):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([HEAVY, lines])],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_help_loads_nothing_heavy(tmp_path):
    answers, _ = loaded_after([[command, "--help"] for command in cli.COMMANDS], tmp_path)
    assert answers == [[[command, "--help"], 0, []] for command in cli.COMMANDS]


def test_refusals_load_nothing_heavy(tmp_path):
    (tmp_path / "key.yaml").write_text("nothing: 1\n")
    (tmp_path / "type.yaml").write_text("seed: many\n")
    lines = [[command, "--nothing", "1"] for command in cli.COMMANDS]
    lines += [[command, "--config", "key.yaml"] for command in cli.COMMANDS]
    # A config that names classes of torch and Lightning is no reason to import them.
    named = ["reconstruct", "--config", "r2gaussian", "--config", "diffnr/align"]
    lines += [[*named, "--nothing", "1"], [*named, "--config", "type.yaml"], named]
    lines += [[*named, "--method.optimisation.lambda_dif", "3"]]
    lines += [line.split() for line in MISSING]
    answers, errors = loaded_after(lines, tmp_path)
    assert answers == [[line, cli.USAGE_ERROR, []] for line in lines]
    assert len(errors.splitlines()) == len(lines)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("startup") / "case"
    options = "--volume phantom:1 --size 16 --num_views 6 --test_views 2 --out".split()
    assert cli.main(["simulate", *options, str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (["--config", "reconstruct/fdk"], {"torch", "numba", "matplotlib", "SimpleITK"}),
        # Lightning brings torchmetrics, and that transformers and scipy.signal where they are installed.
        (["--config", "r2gaussian", "--method.iterations", "2"], set(HEAVY) - {"diffusers"}),
    ],
    ids=["fdk", "gaussians"],
)
def test_a_reconstruction_loads_what_it_uses(case, tmp_path, options, allowed):
    line = ["reconstruct", *options, "--case", str(case), "--out", "run"]
    ((_, code, loaded),), _ = loaded_after([line], tmp_path)
    assert code == 0
    assert set(loaded) <= allowed
