"""Time projectors and solvers against RTK and the torch reference, interleaved in one process.

    python benchmarks/projectors.py [--size 128] [--views 36] [--rounds 7] [--threads N]

All contenders of an operation run once per round, in an order that turns from round to round, so
that a machine that slows down or is shared slows all of them. Ratios are between medians. RTK is
optional: ``pip install diffnr-lightning[bench]``. The result goes to
``benchmarks/results/projectors.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numba  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from diffnr_lightning.consistency import normalise  # noqa: E402
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles  # noqa: E402
from diffnr_lightning.projectors import (  # noqa: E402
    backproject,
    project,
    warmup,
    weighted_backproject,
)
from diffnr_lightning.solvers import analytic, sirt  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "projectors.json"


class Setting(NamedTuple):
    """What every contender is given."""

    grid: VolumeGrid
    scan: ScanGeometry
    volume: torch.Tensor
    projections: torch.Tensor


class Contender(NamedTuple):
    """A way to do an operation: called once per round, at most ``rounds`` times."""

    name: str
    run: Callable[[], Any]
    read: Callable[[Any], np.ndarray]
    rounds: int


def setting(size: int, views: int) -> Setting:
    """A cube of 256 mm with blobs in a circular scan, as many pixels as voxels along an edge."""
    grid = VolumeGrid((size, size, size), 256.0 / size)
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(views),
        source_to_axis_mm=1000.0,
        source_to_detector_mm=1500.0,
        detector_shape=(size, size),
        pixel_mm=512.0 / size,
    )
    points = grid.points()
    volume = torch.zeros(grid.shape)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        centre = 120.0 * torch.rand(3, generator=generator) - 60.0
        width = 8.0 + 20.0 * float(torch.rand((), generator=generator))
        volume += torch.exp(-0.5 * (points - centre).square().sum(-1) / width**2)
    return Setting(grid, scan, volume, project(volume, grid, scan))


def ours(case: Setting, rounds: int, reference_rounds: int) -> dict[str, list[Contender]]:
    """The operations of this package."""
    grid, scan, volume, projections = case
    normalisation = normalise(grid, scan, projections)

    def on(operator: Callable[..., torch.Tensor], array: torch.Tensor, backend: str, count: int):
        return Contender(
            backend, lambda: operator(array, grid, scan, backend), torch.Tensor.numpy, count
        )

    return {
        "forward": [
            on(project, volume, "separable", rounds),
            on(project, volume, "rays", rounds),
            on(project, volume, "reference", reference_rounds),
        ],
        "adjoint": [
            on(backproject, projections, "separable", rounds),
            on(backproject, projections, "rays", rounds),
            on(backproject, projections, "reference", reference_rounds),
        ],
        "FDK backprojection": [
            on(weighted_backproject, projections, "separable", rounds),
            on(weighted_backproject, projections, "reference", reference_rounds),
        ],
        "FDK": [
            Contender(
                "separable",
                lambda: analytic(projections, grid, scan, filter="ram_lak"),
                torch.Tensor.numpy,
                rounds,
            )
        ],
        "SIRT iteration": [
            Contender(
                "separable",
                lambda: sirt(projections, grid, scan, iterations=1, normalisation=normalisation),
                torch.Tensor.numpy,
                rounds,
            )
        ],
    }


def rtk_contenders(case: Setting, rounds: int, threads: int) -> dict[str, Contender]:
    """The same operations in RTK, whose rotation axis is y: its (x, y, z) are our (y, z, x)."""
    import itk
    from itk import RTK as rtk  # noqa: N811

    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(threads)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    grid, scan, volume, projections = case
    orbit = scan.orbit
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    for angle in np.rad2deg(orbit.angles_rad):
        geometry.AddProjection(
            orbit.source_to_axis_mm, orbit.source_to_detector_mm, float(angle), 0.0, 0.0
        )
    rows, columns = scan.detector_shape
    edge = grid.voxel_mm[0]

    def image(array: np.ndarray, spacing: list[float], origin: list[float]) -> Any:
        made = itk.image_from_array(np.ascontiguousarray(array, dtype=np.float32))
        made.SetSpacing(spacing)
        made.SetOrigin(origin)
        return made

    box = ([edge] * 3, [-0.5 * (n - 1) * edge for n in grid.shape])
    pitch_v, pitch_u = orbit.pixel_mm
    plane = (
        [pitch_u, pitch_v, 1.0],
        [-0.5 * (columns - 1) * pitch_u, -0.5 * (rows - 1) * pitch_v, 0.0],
    )
    object_ = image(volume.numpy().transpose(2, 0, 1), *box)
    measured = image(projections.numpy()[:, ::-1], *plane)
    empty_box = image(np.zeros(volume.numpy().transpose(2, 0, 1).shape), *box)
    empty_plane = image(np.zeros(projections.shape), *plane)

    def contender(filter_: Any, first: Any, second: Any, is_volume: bool) -> Contender:
        filter_.SetInput(0, first)
        filter_.SetInput(1, second)
        filter_.SetGeometry(geometry)
        if hasattr(filter_, "SetInPlace"):
            filter_.SetInPlace(False)  # or the inputs are gone after the first round

        def run() -> Any:
            filter_.Modified()
            filter_.Update()
            return filter_.GetOutput()

        def read(output: Any) -> np.ndarray:
            array = itk.array_from_image(output)
            return array.transpose(1, 2, 0) if is_volume else array[:, ::-1]

        return Contender("RTK", run, read, rounds)

    kind = itk.Image[itk.F, 3]
    forward = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
    back = rtk.JosephBackProjectionImageFilter[kind, kind].New()
    weighted = rtk.FDKBackProjectionImageFilter[kind, kind].New()
    whole = rtk.FDKConeBeamReconstructionFilter[kind].New()
    return {
        "forward": contender(forward, empty_plane, object_, False),
        "adjoint": contender(back, empty_box, measured, True),
        "FDK backprojection": contender(weighted, empty_box, measured, True),
        "FDK": contender(whole, empty_box, measured, True),
    }


def race(contenders: list[Contender]) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Return the seconds of every contender's rounds, and what it computed."""
    seconds: dict[str, list[float]] = {c.name: [] for c in contenders}
    results = {}
    for contender in contenders:
        if contender.rounds > 1:
            contender.run()
    for turn in range(max(c.rounds for c in contenders)):
        shift = turn % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            if turn >= contender.rounds:
                continue
            start = time.perf_counter()
            output = contender.run()
            seconds[contender.name].append(time.perf_counter() - start)
            results[contender.name] = contender.read(output)
    return seconds, results


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = models[0] if models else name
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "name": f"{name}, {os.cpu_count()} cores",
        "system": platform.platform(terse=True),
        "threads": threads,
        "load_before": load,
        "torch": torch.__version__,
        "numba": numba.__version__,
    }


def main() -> None:
    """Run the races, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="voxels and pixels along an edge")
    parser.add_argument("--views", type=int, default=36)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--reference-rounds", type=int, default=1, help="0 leaves it out")
    parser.add_argument("--threads", type=int, default=numba.config.NUMBA_NUM_THREADS)
    options = parser.parse_args()
    numba.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    console = Console()
    about = machine(options.threads)
    start = time.perf_counter()
    warmup()
    about["warmup_s"] = round(time.perf_counter() - start, 2)
    case = setting(options.size, options.views)
    operations = ours(case, options.rounds, options.reference_rounds)
    try:
        for name, contender in rtk_contenders(case, options.rounds, options.threads).items():
            operations[name].append(contender)
    except ImportError as problem:
        console.print(f"RTK is left out: {problem}. Install it with diffnr-lightning[bench].")

    table = Table(
        title=f"{options.size}^3, {options.views} views of {options.size}^2, "
        f"{options.threads} threads, {about['name']}"
    )
    for heading in ("operation", "contender", "median s", "min s", "times ours", "difference"):
        table.add_column(
            heading, justify="left" if heading in ("operation", "contender") else "right"
        )
    rows = []
    for operation, contenders in operations.items():
        racing = [c for c in contenders if c.rounds > 0]
        seconds, results = race(racing)
        first = racing[0].name
        for contender in racing:
            median = float(np.median(seconds[contender.name]))
            expected, actual = results[first], results[contender.name]
            row = {
                "operation": operation,
                "contender": contender.name,
                "median_s": median,
                "min_s": min(seconds[contender.name]),
                "rounds": len(seconds[contender.name]),
                "times_ours": median / float(np.median(seconds[first])),
                "relative_difference": float(
                    np.linalg.norm(actual - expected) / np.linalg.norm(expected)
                ),
            }
            rows.append(row)
            table.add_row(
                operation,
                contender.name,
                f"{median:.4f}",
                f"{row['min_s']:.4f}",
                f"{row['times_ours']:.2f}",
                f"{row['relative_difference']:.1e}",
            )
    console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[f"{options.size}^3 x {options.views} views"] = {"machine": about, "rows": rows}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
    console.print(f"written to {RESULTS.name} in {RESULTS.parent.name}")


if __name__ == "__main__":
    main()
