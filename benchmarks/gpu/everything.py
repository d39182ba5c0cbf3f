"""Measure on a GPU, in one go: kernels against their rooflines and peers, and whole reconstructions.

    python benchmarks/gpu/everything.py [--size 256] [--views 36] [--only kernels,peers] [--device cuda]

Every part runs in a process of its own with a limit of time, so that a part that fails, hangs or breaks
the device does not lose the others, whose results are written as they come, to
``benchmarks/results/gpu_<card>.json``. ASTRA and RTK are compared with where they are installed
(``pip install astra-toolbox``, ``pip install itk-rtk-cuda124``). The limits add up to
16 minutes; it has not run on a GPU yet.

``--device cpu --size 16`` tries the script itself where no GPU is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lightning  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from diffnr_lightning.data import Noise, ScanRecipe, generate, simulate_case  # noqa: E402
from diffnr_lightning.geometry import VolumeGrid  # noqa: E402
from diffnr_lightning.losses import ssim_2d, ssim_3d, tv_3d  # noqa: E402
from diffnr_lightning.metrics import psnr  # noqa: E402
from diffnr_lightning.priors import Conditioning, load_default  # noqa: E402
from diffnr_lightning.projectors import backproject, project, weighted_backproject  # noqa: E402
from diffnr_lightning.representations import GaussianCloud  # noqa: E402
from diffnr_lightning.solvers import total_variation_gradient  # noqa: E402
from diffnr_lightning.workflows import Problem, Scene, reconstruct  # noqa: E402
from diffnr_lightning.workflows.command_line.settings import configured  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results"
MARK = "RESULT "
# Iterations at which the paper's Gaussians are looked at.
LOOKS = (1000, 5000, 13_500)

Options = argparse.Namespace
Run = Callable[[], Any]


def timed_ms(run: Run, device: str, rounds: int = 9) -> float:
    """Return the median milliseconds of a call after two that warm up."""
    times = []
    for n in range(rounds + 2):
        if device == "cpu":
            started = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - started))
        else:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        if n == 2 and times[-1] > 2000:
            break  # once is enough of what takes seconds
    return statistics.median(times[2:])


def case_problem(options: Options) -> tuple[Any, Problem]:
    """Return a generated chest, scanned, and what methods are given of it."""
    noise = Noise("tigre", 1e5, 10.0)
    recipe = ScanRecipe(size=options.size, num_views=options.views, noise=noise, test_views=0)
    case = simulate_case(generate("phantom:1", options.size), recipe)
    photons = case.photons and case.photons.to(options.device)
    views = case.projections.to(options.device)
    return case, Problem(views, case.scan, case.grid, 0, photons=photons)


def card(options: Options) -> dict[str, Any]:
    """Name the device and its software, and measure bandwidth and float32 rate."""
    size = 1 << (28 if options.device != "cpu" else 20)
    source = torch.rand(size, device=options.device)
    target = torch.empty_like(source)
    edge = 8192 if options.device != "cpu" else 256
    torch.backends.cuda.matmul.allow_tf32 = False
    left = torch.rand(edge, edge, device=options.device)
    copied = timed_ms(lambda: target.copy_(source), options.device)
    multiplied = timed_ms(lambda: left @ left, options.device)
    found = {
        "name": "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "copy_bytes_per_s": 8 * size / copied * 1e3,
        "matmul_flops_per_s": 2 * edge**3 / multiplied * 1e3,
    }
    if options.device != "cpu":
        properties = torch.cuda.get_device_properties(options.device)
        found |= {
            "name": properties.name,
            "memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "triton": importlib.import_module("triton").__version__,
        }
    return found


def operations(options: Options) -> dict[str, tuple[Run, tuple[str, ...]]]:
    """Return what is timed and the launches of `static.py` that it consists of."""
    case, problem = case_problem(options)
    grid, scan, views = problem.grid, problem.scan, problem.projections
    volume = case.volume.to(options.device)
    other = (volume + 0.1 * torch.rand_like(volume)).clamp(0, 1)
    cloud = GaussianCloud(grid, num_gaussians=min(50_000, options.size**3 // 16))
    cloud.initialise(case.volume, case.projections, scan, seed=0)
    cloud.to(options.device)
    small = VolumeGrid((min(32, options.size),) * 3, grid.voxel_mm, grid.centre_mm)
    leaf = volume.clone().requires_grad_()
    part = volume[:32, :32, :32].clone().requires_grad_()
    flat = views[:1].clone().requires_grad_()

    def gradient(value: Callable[[], torch.Tensor], of: Any) -> Run:
        return lambda: torch.autograd.grad(value(), of)

    gaussians = list(cloud.parameters())
    planes = [
        f"3D SSIM, {plane}: {visit}"
        for plane in ("axial", "coronal", "sagittal")
        for visit in ("index and slopes", "gradient")
    ]
    forward = ("bin a view", "project Gaussians", "splat")
    both = (*forward, "splat backward", "project Gaussians backward")
    return {
        "project": (lambda: project(volume, grid, scan), ("project",)),
        "backproject": (
            lambda: backproject(views, grid, scan),
            ("backproject, scale of rays", "backproject"),
        ),
        "any poses: project": (
            lambda: project(volume, grid, scan, "rays"),
            ("any poses: trace", "any poses: project"),
        ),
        "any poses: backproject": (
            lambda: backproject(views, grid, scan, "rays"),
            ("any poses: trace", "any poses: backproject"),
        ),
        "FDK backproject": (
            lambda: weighted_backproject(views, grid, scan),
            ("FDK backproject",),
        ),
        "total variation, gradient": (
            lambda: total_variation_gradient(volume),
            ("total variation, gradient",),
        ),
        "total variation 32^3 with gradient": (
            gradient(lambda: tv_3d(part), part),
            ("total variation 32^3 with gradient",),
        ),
        "3D SSIM with gradient": (
            gradient(lambda: ssim_3d(leaf, other).sum(), leaf),
            tuple(planes),
        ),
        "2D SSIM of a view with gradient": (
            gradient(lambda: ssim_2d(flat, views[1:2]).sum(), flat),
            (),
        ),
        "splat a view": (lambda: _without_gradient(lambda: cloud.render(scan[0])), forward),
        "splat a view with gradient": (
            gradient(lambda: cloud.render(scan[0]).sum(), gaussians),
            both,
        ),
        "voxelise 32^3 with gradient": (
            gradient(lambda: cloud.query(small).sum(), gaussians),
            ("place Gaussians", "bin 32^3", "voxelise 32^3", "voxel_moments 32^3", "voxel gradients"),
        ),
        "voxelise": (
            lambda: _without_gradient(lambda: cloud.query(grid)),
            ("place Gaussians", "bin 256^3", "voxelise 256^3"),
        ),
    }  # fmt: skip


@torch.no_grad()
def _without_gradient(run: Run) -> Any:
    return run()


def kernels(options: Options) -> dict[str, Any]:
    """Time every operation, beside bytes and operations of its launches at the paper's size."""
    launches = {
        launch.name: launch for launch in importlib.import_module("static").paper_launches()
    }
    found: dict[str, Any] = {}
    for name, (run, parts) in operations(options).items():
        try:
            found[name] = {"ms": timed_ms(run, options.device)}
        except Exception as error:  # noqa: BLE001 -- one that fails must not lose the others
            found[name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        if parts and (options.size, options.views) == (256, 36):
            seconds = found[name]["ms"] / 1e3
            found[name] |= {
                "bytes_per_s": sum(launches[part].bytes for part in parts) / seconds,
                "flops_per_s": sum(launches[part].flops for part in parts) / seconds,
            }
    return found


def peers(options: Options) -> dict[str, Any]:
    """Time ASTRA and RTK on the same scan, each if it is installed."""
    found = {}
    case, problem = case_problem(options)
    rivals = importlib.import_module("peers")
    for name in ("astra", "rtk"):
        try:
            runs = getattr(rivals, name)(case, problem)
            found[name] = {what: timed_ms(run, options.device) for what, run in runs.items()}
        except Exception as error:  # noqa: BLE001
            found[name] = f"{type(error).__name__}: {error}"
    return found


class Looks(lightning.Callback):
    """Note seconds and PSNR at a few iterations; the looks themselves are not counted."""

    def __init__(self, truth: torch.Tensor, at: tuple[int, ...]) -> None:
        self.truth, self.at = truth, at
        self.seen: dict[int, dict[str, float]] = {}
        self.paused = 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Start the clock."""
        self.started = _now()

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        """Look, where it is time."""
        if trainer.global_step not in self.at or trainer.global_step in self.seen:
            return
        begun = _now()
        with torch.no_grad():
            error = (module.query_volume() - self.truth.to(module.device)).square().mean()
        self.seen[trainer.global_step] = {
            "seconds": begun - self.started - self.paused,
            "psnr_db": psnr(float(error)),
        }
        self.paused += _now() - begun


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def scene(config: str) -> Scene:
    """Build the method of shipped configs."""
    return configured(reconstruct, [config], {"case": "case", "out": "run"}).arguments["method"]


def _watched(config: str, options: Options, at: tuple[int, ...]) -> dict[str, Any]:
    case, problem = case_problem(options)
    at = (2, 4) if options.device == "cpu" else at
    looks = Looks(case.volume, at)
    scene(config).fit(problem._replace(callbacks=(looks,)), stop_at=at[-1])
    last = looks.seen[at[-1]]
    out = {"looks": looks.seen, "iterations_per_s": at[-1] / last["seconds"]}
    if options.device != "cpu":
        out["peak_bytes"] = torch.cuda.max_memory_allocated()
    return out


def gaussians(options: Options) -> dict[str, Any]:
    """Optimise the paper's Gaussians."""
    return _watched("r2gaussian_paper", options, LOOKS)


def naf(options: Options) -> dict[str, Any]:
    """Optimise NAF for a while."""
    return _watched("naf", options, (200, 1000))


def repair(options: Options) -> dict[str, Any]:
    """Repair 256 slices of 512 pixels with the shipped prior."""
    count, edge = (256, 512) if options.device != "cpu" else (2, 32)
    prior = load_default().to(options.device)
    slices = torch.rand(8, 2 * prior.context + 1, edge, edge, device=options.device)
    told = Conditioning(
        biplanar=torch.rand(1, 2, 32, 32),
        plane=torch.zeros(8, dtype=torch.long),
        position=torch.zeros(8),
        views=torch.full((8,), float(options.views)),
    ).to(options.device)
    batch = timed_ms(lambda: prior.repair(slices, told), options.device, rounds=5)
    return {"slices": count, "edge": edge, "seconds": batch / 1e3 * count / 8}


def diffnr(options: Options) -> dict[str, Any]:
    """Reconstruct with DiffNR + data consistency, from projections to the repaired volume."""
    case, problem = case_problem(options)
    method = scene("r2gaussian+diffnr/align")
    if options.device == "cpu":
        method.iterations = 4
    started = _now()
    volume = method.reconstruct(problem)
    seconds = _now() - started
    error = (volume.cpu() - case.volume).square().mean()
    return {"seconds": seconds, "psnr_db": psnr(float(error))}


# name: (what is done, seconds that it may take)
PARTS: dict[str, tuple[Callable[[Options], dict[str, Any]], int]] = {
    "card": (card, 90),
    "kernels": (kernels, 150),
    "gaussians": (gaussians, 200),
    "peers": (peers, 90),
    "naf": (naf, 60),
    "repair": (repair, 60),
    "diffnr": (diffnr, 300),
}


def measured(part: str, options: Options) -> dict[str, Any]:
    """Run a part in a process of its own and return what it found, or the end of what it said."""
    command = [sys.executable, __file__, "--part", part, "--device", options.device]
    command += ["--size", str(options.size), "--views", str(options.views)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PARTS[part][1], check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {PARTS[part][1]} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        return {"error": (done.stderr or done.stdout)[-2000:]}
    return json.loads(lines[-1].removeprefix(MARK))


def print_kernels(found: dict[str, Any], peak: dict[str, Any]) -> None:
    """Print times and shares of what a copy and a matrix product reach on this card."""
    if "error" in found:
        print(found["error"])
        return
    table = Table("operation", "ms", "of a copy's bandwidth", "of a product's flops")
    for name, result in found.items():
        if "ms" not in result:
            table.add_row(name, result["error"])
            continue
        shares = ["", ""]
        if "bytes_per_s" in result and "copy_bytes_per_s" in peak:
            shares = [
                f"{result['bytes_per_s'] / peak['copy_bytes_per_s']:.0%}",
                f"{result['flops_per_s'] / peak['matmul_flops_per_s']:.0%}",
            ]
        table.add_row(name, f"{result['ms']:.3f}", *shares)
    Console().print(table)


def main() -> None:
    """Measure part after part, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--views", type=int, default=36)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--part", choices=PARTS, help="run one part here, for the script itself")
    options = parser.parse_args()
    if options.part:
        print(MARK + json.dumps(PARTS[options.part][0](options)))
        return
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; --device cpu --size 16 tries the script without one.")
    record: dict[str, Any] = {"size": options.size, "views": options.views}
    for part in options.only.split(","):
        started = time.perf_counter()
        record[part] = measured(part, options)
        print(f"== {part} ({time.perf_counter() - started:.0f} s)", flush=True)
        if part == "kernels":
            print_kernels(record[part], record.get("card", {}))
        else:
            print(json.dumps(record[part], indent=1))
        name = re.sub(r"\W+", "_", record.get("card", {}).get("name", "card")).lower()
        path = options.out or RESULTS / f"gpu_{name}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
