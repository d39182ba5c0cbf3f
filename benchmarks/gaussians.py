"""Time rendering and voxelising of 3D Gaussians against plain torch, interleaved in one process.

    python benchmarks/gaussians.py [--counts 10000 50000] [--size 128] [--rounds 9] [--threads N]

Contenders: the numba kernels; torch with a window of pixels per Gaussian, which is how one would
write it without kernels; and the torch reference of the tests, which asks every Gaussian about
every pixel (few Gaussians only). Each runs once per round, in an order that turns from round to
round, so that a machine that slows down or is shared slows all of them; ratios are between medians.
The Gaussians are those of `GaussianCloud.initialise` on blobs. The result goes to
``benchmarks/results/gaussians.json``.
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
from torch import Tensor  # noqa: E402

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles  # noqa: E402
from diffnr_lightning.projectors import project  # noqa: E402
from diffnr_lightning.representations import (  # noqa: E402
    GaussianCloud,
    render_gaussians,
    voxelise_gaussians,
)
from diffnr_lightning.representations.gaussians.render import (  # noqa: E402
    CUT,
    footprints,
    rotation_matrices,
)
from diffnr_lightning.representations.gaussians.shape import kept_mass  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "gaussians.json"
WINDOW_ELEMENTS = 2**21
SUB_VOLUME = 32
# The reference takes seconds for these and minutes for more.
MOST_FOR_REFERENCE = 10_000

Gaussians = tuple[Tensor, Tensor, Tensor, Tensor]


class Contender(NamedTuple):
    """A way to do an operation: called once per round, at most ``rounds`` times."""

    name: str
    run: Callable[[], list[Tensor]]
    rounds: int


def scene(size: int, count: int) -> tuple[VolumeGrid, ScanGeometry, Gaussians]:
    """A cube of 256 mm, one cone-beam view of it, and Gaussians that begin as blobs in it."""
    grid = VolumeGrid((size, size, size), 256.0 / size)
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(6, 360, 40),
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
    cloud = GaussianCloud(grid, num_gaussians=count)
    cloud.initialise(volume, project(volume, grid, scan), scan, seed=0)
    gaussians = tuple(t.detach().requires_grad_() for t in cloud.activated())
    return grid, scan[0], gaussians


def sum_windows(
    centres: Tensor,  # (N, D) pixels
    precisions: Tensor,  # (N, D, D)
    reaches: Tensor,  # (N,) pixels
    heights: Tensor,  # (N,)
    shape: tuple[int, ...],  # in the order of the coordinates
) -> Tensor:
    """Sum Gaussians into an array, each in a cube of pixels around it; torch, differentiable."""
    order = reaches.argsort()
    result = torch.zeros(int(np.prod(shape)))
    sizes = torch.tensor(shape)
    strides = torch.tensor([int(np.prod(shape[d + 1 :])) for d in range(len(shape))])
    done = 0
    while done < len(order):
        # Neighbours in the order have windows of nearly the same size.
        side = 2 * int(reaches[order[done]].ceil()) + 1
        part = order[done : done + max(1, WINDOW_ELEMENTS // side ** len(shape))]
        half = int(reaches[part].max().ceil())
        axis = torch.arange(-half, half + 1)
        window = torch.cartesian_prod(*[axis] * len(shape))  # (P, D)
        pixels = centres[part].detach().round().long()[:, None] + window  # (n, P, D)
        offset = pixels - centres[part][:, None]
        distance2 = torch.einsum("npi,nij,npj->np", offset, precisions[part], offset)
        inside = ((pixels >= 0) & (pixels < sizes)).all(-1) & (distance2 <= CUT**2)
        values = torch.where(inside, heights[part][:, None] * torch.exp(-0.5 * distance2), 0.0)
        places = torch.where(inside, (pixels * strides).sum(-1), 0)
        result = result.index_add(0, places.flatten(), values.flatten())
        done += len(part)
    return result.reshape(shape)


def render_windows(gaussians: Gaussians, scan: ScanGeometry) -> Tensor:
    """One view (H, W) by windows."""
    centres, covariances, heights, seen = footprints(*gaussians, scan)
    centres, covariances, heights = centres[seen], covariances[seen], heights[seen]
    reaches = CUT * covariances.detach().diagonal(dim1=1, dim2=2).amax(1).sqrt()
    rows, columns = scan.detector_shape
    precisions = torch.linalg.inv(covariances)
    return sum_windows(centres, precisions, reaches, heights, (columns, rows)).T


def voxelise_windows(gaussians: Gaussians, grid: VolumeGrid) -> Tensor:
    """A volume (Z, Y, X) by windows."""
    positions, scales, rotations, densities = gaussians
    edges = torch.tensor(grid.voxel_mm[::-1])
    centres = (positions - torch.tensor(grid.origin_mm)) / edges
    reaches = (CUT * scales.amax(1) / edges.min()).detach()
    near = (centres > -reaches[:, None]).all(1)
    near &= (centres < torch.tensor(grid.shape[::-1]) + reaches[:, None]).all(1)
    axes = edges[:, None] * rotation_matrices(rotations[near]) / scales[near][:, None, :]
    precisions = axes @ axes.transpose(1, 2)
    heights = densities[near] / kept_mass(CUT, 3)
    volume = sum_windows(centres[near], precisions, reaches[near], heights, grid.shape[::-1])
    return volume.permute(2, 1, 0)


def operations(size: int, count: int, rounds: int, slow: int) -> dict[str, list[Contender]]:
    """What is timed, and by whom."""
    grid, scan, gaussians = scene(size, count)
    sub = grid.crop(((size - SUB_VOLUME) // 2,) * 3, (SUB_VOLUME,) * 3)
    generator = torch.Generator().manual_seed(1)

    def contenders(
        ours: Callable[[str], Tensor], windows: Callable[[], Tensor], reference: bool
    ) -> tuple[list[Contender], list[Contender]]:
        weights = torch.rand(ours("numba").shape, generator=generator)

        def forward(function: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
            def run() -> list[Tensor]:
                with torch.no_grad():
                    return [function()]

            return run

        def both(function: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
            return lambda: list(torch.autograd.grad(function(), gaussians, weights))

        ways = [("numba", lambda: ours("numba"), rounds), ("torch windows", windows, slow)]
        if reference and count <= MOST_FOR_REFERENCE:
            ways.append(("torch reference", lambda: ours("reference"), min(slow, 1)))
        return (
            [Contender(name, forward(function), turns) for name, function, turns in ways],
            # The reference would keep gigabytes for its way back.
            [Contender(name, both(function), turns) for name, function, turns in ways[:2]],
        )

    render = contenders(
        lambda backend: render_gaussians(*gaussians, scan, backend=backend),
        lambda: render_windows(gaussians, scan)[None],
        reference=True,
    )
    whole = contenders(
        lambda backend: voxelise_gaussians(*gaussians, grid, backend=backend),
        lambda: voxelise_windows(gaussians, grid),
        reference=False,
    )
    part = contenders(
        lambda backend: voxelise_gaussians(*gaussians, sub, backend=backend),
        lambda: voxelise_windows(gaussians, sub),
        reference=True,
    )
    return {
        f"render {size}^2": render[0],
        f"render {size}^2 and gradient": render[1],
        f"voxelise {size}^3": whole[0],
        f"voxelise {size}^3 and gradient": whole[1],
        f"voxelise {SUB_VOLUME}^3 of it": part[0],
        f"voxelise {SUB_VOLUME}^3 of it and gradient": part[1],
    }


def race(contenders: list[Contender]) -> dict[str, tuple[list[float], list[float], list[Tensor]]]:
    """Return each contender's wall and processor seconds, and what it computed."""
    measured: dict[str, tuple[list[float], list[float], list[Tensor]]] = {}
    for contender in contenders:
        if contender.rounds > 1:
            contender.run()
        measured[contender.name] = ([], [], [])
    for turn in range(max(c.rounds for c in contenders)):
        shift = turn % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            if turn >= contender.rounds:
                continue
            wall, processor = time.perf_counter(), time.process_time()
            results = contender.run()
            measured[contender.name][0].append(time.perf_counter() - wall)
            measured[contender.name][1].append(time.process_time() - processor)
            measured[contender.name][2][:] = results
    return measured


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
    return {
        "name": f"{name}, {os.cpu_count()} cores",
        "system": platform.platform(terse=True),
        "threads": threads,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "numba": numba.__version__,
    }


def main() -> None:
    """Run the races, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--size", type=int, default=128, help="voxels and pixels along an edge")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slow-rounds", type=int, default=2, help="of torch; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=numba.config.NUMBA_NUM_THREADS)
    options = parser.parse_args()
    numba.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    console = Console()
    about = machine(options.threads)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for count in options.counts:
        setting = f"{count} Gaussians, {options.size}^3, {options.threads} threads"
        table = Table(title=f"{setting}, {about['name']}")
        for heading in ("operation", "contender"):
            table.add_column(heading)
        for heading in ("median s", "min s", "processor s", "times ours", "difference"):
            table.add_column(heading, justify="right")
        rows = []
        timed = operations(options.size, count, options.rounds, options.slow_rounds)
        for operation, contenders in timed.items():
            measured = race([c for c in contenders if c.rounds > 0])
            ours, _, expected = measured["numba"]
            for name, (wall, processor, results) in measured.items():
                # All gradients together: those of the rotations of spheres are rounding alone.
                # tests/test_benchmarks.py compares each on turned ellipsoids.
                found, wanted = (torch.cat([t.flatten() for t in r]) for r in (results, expected))
                difference = float((found - wanted).norm() / wanted.norm())
                row = {
                    "operation": operation,
                    "contender": name,
                    "median_s": float(np.median(wall)),
                    "min_s": min(wall),
                    "processor_s": min(processor),
                    "rounds": len(wall),
                    "times_ours": float(np.median(wall) / np.median(ours)),
                    "relative_difference": difference,
                }
                rows.append(row)
                table.add_row(
                    operation,
                    name,
                    f"{row['median_s']:.4f}",
                    f"{row['min_s']:.4f}",
                    f"{row['processor_s']:.4f}",
                    f"{row['times_ours']:.2f}",
                    f"{difference:.1e}",
                )
        console.print(table)
        kept[setting] = {"machine": about, "rows": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
    console.print(f"written to {RESULTS.name} in {RESULTS.parent.name}")


if __name__ == "__main__":
    main()
