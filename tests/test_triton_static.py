"""Every Triton kernel compiles for GPUs that are not here, and none spills registers."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")


def described(repository, architecture):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(repository)
    return subprocess.run(
        [sys.executable, "benchmarks/gpu/static.py", "--architectures", architecture],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "architecture", ["90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("80", "86", "100"))]
)
def test_kernels_compile_without_spills(repository, architecture):
    done = described(repository, architecture)
    assert done.returncode == 0, done.stderr
    assert "spill registers: none" in done.stdout


def test_predictions_are_within_what_is_wanted(repository):
    """The numbers that the page of benchmarks states; `static.py --write` renews them."""
    record = json.loads((repository / "benchmarks/results/static.json").read_text(encoding="utf-8"))
    for entry in record["sums"]:
        assert entry["expected_ms"]["H100"] <= entry["wanted_ms"], entry["name"]


def test_the_interpreter_is_refused(repository):
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu/static.py"],
        cwd=repository,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "unset it" in done.stderr
