"""Time what a person waits for before work begins: help, refusals, and a reconstruction of 0.2 s.

    python benchmarks/startup.py [--size 128] [--dearest 8] [--package /path/to/another/checkout]

Every command line runs in a process of its own with compiled kernels in the cache. Prints its wall
and processor seconds, the heavy packages that it loaded, and the dearest imports. Wall seconds mean
something on an idle machine only. The result goes to ``benchmarks/results/startup.json``, unless
another checkout was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from diffnr_lightning.cli import COMMANDS
from diffnr_lightning.workflows.runs.environment import cpu_name, version

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "startup.json"

# Kinds that make a run folder, which every run of theirs needs anew.
RUNS = ("fdk", "gaussians")

# What a command may wait for, in seconds on an idle machine.
ALLOWED = {"help": 1.5, "option": 1.5, "config": 3.0, "input": 3.0, "fdk": 6.0}

HEAVY = (
    "torch lightning torchmetrics torch._dynamo transformers diffusers numba scipy.signal scipy.stats matplotlib "
    "SimpleITK"
).split()

# An input that does not exist, for every command that reads one.
MISSING = {
    "simulate": "--volume none.mha --out case",
    "ingest": "--projections none.h5 --out case",
    "reconstruct": "--config configs/reconstruct/fdk.yaml --case none --out run",
    "evaluate": "--runs none",
    "sweep": "--volumes none.mha --methods reconstruct/fdk.yaml --views 8 --out sweep",
    "curate": "--config configs/tiny/curate.yaml --volumes none.mha --out pairs",
    "finetune": "--config configs/tiny/finetune.yaml --data.folders none --out run",
    "report": "--runs none",
    "submit": "--command nothing",
}

_IMPORT_TIME = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)")


class Start(NamedTuple):
    """What one command line cost.

    Attributes:
        wall: seconds from start to end.
        processor: seconds of user and system.
        code: exit code.
    """

    wall: float
    processor: float
    code: int


class Measurement:
    """Run command lines of one checkout, in one folder.

    Args:
        package: the checkout.
        folder: where they run.
    """

    def __init__(self, package: Path, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(package),
            "OMP_WAIT_POLICY": "PASSIVE",
            "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(package / ".numba_cache")),
        }

    def start(self, arguments: list[str]) -> Start:
        """Run a command line and return what it cost."""
        began = time.perf_counter()
        process = self._process(arguments, [], subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        return Start(wall, used.ru_utime + used.ru_stime, process.returncode)

    def imports(self, arguments: list[str]) -> dict[str, tuple[float, float]]:
        """Return own and cumulative seconds of the import of each module, slower than untraced."""
        process = self._process(arguments, ["-X", "importtime"], subprocess.PIPE)
        _, text = process.communicate()
        found = _IMPORT_TIME.findall(text.decode())
        return {name: (int(own) / 1e6, int(total) / 1e6) for own, total, _, name in found}

    def _process(self, arguments: list[str], flags: list[str], stderr: int) -> subprocess.Popen:
        command = [sys.executable, *flags, "-m", "diffnr_lightning.cli", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


def command_lines(size: int) -> dict[tuple[str, str], list[str]]:
    """Return the command line of each (kind, command)."""
    lines: dict[tuple[str, str], list[str]] = {}
    for command in COMMANDS:
        lines["help", command] = [command, "--help"]
        lines["option", command] = [command, "--nothing", "1"]
        lines["config", command] = [command, "--config", "unknown_key.yaml"]
        if command in MISSING:
            lines["input", command] = [command, *MISSING[command].split()]
    for kind, config, more in (
        ("fdk", "fdk", []),
        ("gaussians", "r2gaussian", ["--method.iterations", "2"]),
    ):
        options = [f"--config=configs/reconstruct/{config}.yaml", "--case", "case", *more]
        lines[kind, f"reconstruct {size}^3"] = ["reconstruct", *options]
    return lines


def heavy(imported: set[str]) -> list[str]:
    """Return which of the heavy packages are among imported modules."""
    return [name for name in HEAVY if name in imported]


def dearest(imports: dict[str, tuple[float, float]], count: int) -> dict[str, float]:
    """Return the packages whose modules cost most by themselves, in seconds."""
    seconds: dict[str, float] = {}
    for module, (own, _) in imports.items():
        package = module.partition(".")[0]
        seconds[package] = seconds.get(package, 0.0) + own
    first = sorted(seconds, key=seconds.__getitem__, reverse=True)[:count]
    return {package: round(seconds[package], 3) for package in first}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--dearest", type=int, default=8)
    parser.add_argument("--package", type=Path, default=REPOSITORY)
    options = parser.parse_args()
    table = Table(title="seconds until the answer")
    for column in ("what", "command", "wall", "processor", "allowed", "loaded"):
        table.add_column(column, justify="left" if column in ("what", "command") else "right")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        measurement = Measurement(options.package.resolve(), Path(folder))
        (Path(folder) / "unknown_key.yaml").write_text("nothing: 1\n", encoding="utf-8")
        scan = "simulate --volume phantom:1 --num_views 24 --test_views 2 --out case".split()
        measurement.start([*scan, "--size", str(options.size)])
        for (kind, command), line in command_lines(options.size).items():
            folders = [["--out", f"{kind}_{k}"] if kind in RUNS else [] for k in range(3)]
            if kind in RUNS:
                # The first run compiles the kernels or loads them from the cache.
                measurement.start([*line, *folders[0]])
            cost = measurement.start([*line, *folders[1]])
            imports = measurement.imports([*line, *folders[2]])
            loaded = heavy(set(imports))
            rows.append(
                {
                    "kind": kind,
                    "command": command,
                    "wall": round(cost.wall, 2),
                    "processor": round(cost.processor, 2),
                    "exit_code": cost.code,
                    "modules": len(imports),
                    "heavy": loaded,
                    "dearest": dearest(imports, options.dearest),
                }
            )
            allowed = f"{ALLOWED[kind]:.1f}" if kind in ALLOWED else ""
            seconds = (f"{cost.wall:.2f}", f"{cost.processor:.2f}")
            table.add_row(kind, command, *seconds, allowed, " ".join(loaded))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for row in rows:
        if row["command"].startswith("reconstruct"):
            parts = (f"{name} {seconds:.2f}" for name, seconds in row["dearest"].items())
            console.print(f"{row['kind']}, {row['command']}: " + ", ".join(parts))
    if options.package.resolve() != REPOSITORY:
        return
    packages = ("torch", "lightning", "torchmetrics", "transformers", "jsonargparse")
    result = {
        "machine": cpu_name(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "size": options.size,
        "starts": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
