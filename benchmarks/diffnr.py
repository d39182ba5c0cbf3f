"""Time whole reconstructions: 3D Gaussians with and without DiffNR, in one process.

    python benchmarks/diffnr.py [--size 128] [--views 24]

Rays weigh as in a reconstruction from the shell. Prints seconds, those of one repair (network and agreement, all
passes), and the overhead that DiffNR adds to plain Gaussians at the shipped schedules. The paper's own overhead is
11m35s / 5m52s = 1.97.
The result goes to ``benchmarks/results/diffnr.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from diffnr_lightning.data import Case, Noise, ScanRecipe, generate, simulate_case  # noqa: E402
from diffnr_lightning.workflows import Problem, Scene, reconstruct  # noqa: E402
from diffnr_lightning.workflows.command_line.settings import configured  # noqa: E402
from diffnr_lightning.workflows.methods.assumed_photons import photons_of  # noqa: E402
from diffnr_lightning.workflows.methods.posed_problem import measured_problem  # noqa: E402
from diffnr_lightning.workflows.runs.environment import cpu_name  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "diffnr.json"
CONFIGS = (
    "r2gaussian",
    "r2gaussian+diffnr/loop",
    "r2gaussian+diffnr/align+diffnr/fast",
    "r2gaussian+diffnr/align",
)


def scene(config: str) -> Scene:
    """Build the method of a shipped config."""
    return configured(reconstruct, [config], {"case": "case", "out": "run"}).arguments["method"]


def scanned(size: int, views: int) -> tuple[Case, Problem]:
    """Scan a generated chest of size^3 voxels; return the case, and what methods are given of it."""
    noise = Noise("tigre", 1e4, 10.0)
    recipe = ScanRecipe(size=size, num_views=views, noise=noise, test_views=0)
    case = simulate_case(generate("phantom:1", size), recipe)
    problem = measured_problem(
        case, case.grid, "cpu", photons=photons_of(case, None), weighted=True, seed=0
    )
    return case, problem


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=24)
    options = parser.parse_args()
    # Whole short reconstructions first: they compile all kernels, or load them from the cache.
    for config in CONFIGS:
        scene(f"{config}+tiny/reconstruct_gaussians").reconstruct(scanned(32, 6)[1])
    case, problem = scanned(options.size, options.views)
    seconds = {}
    for config in CONFIGS:
        method = scene(config)
        started = time.perf_counter()
        method.reconstruct(problem)
        seconds[config] = time.perf_counter() - started
    repairer = scene("r2gaussian+diffnr/align").pseudo_reference.repairer
    started = time.perf_counter()
    rays = {"weights": problem.weights, "photons": problem.photons}
    repairer.repair(case.volume, case.projections, case.grid, case.scan, **rays)
    repair = time.perf_counter() - started
    table = Table(
        title=f"{options.size}^3, {options.views} views, {torch.get_num_threads()} threads"
    )
    for column in ("method", "seconds", "ratio to plain Gaussians"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for config in CONFIGS:
        ratio = seconds[config] / seconds["r2gaussian"]
        table.add_row(config, f"{seconds[config]:.1f}", f"{ratio:.2f}")
    table.add_row("one repair, all passes", f"{repair:.1f}", "")
    Console().print(table)
    result = {
        "machine": cpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "size": options.size,
        "views": options.views,
        "seconds": {**seconds, "one_repair": repair},
        "overhead": {c: seconds[c] / seconds["r2gaussian"] for c in CONFIGS},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
