"""Time the hash encoding, NAF's network and a whole NAF iteration against plain torch, in one process.

    python benchmarks/neural_fields.py [--rays 1024] [--samples 192] [--rounds 7] [--threads N]

Contenders: the numba kernels, and the torch reference of the tests, which is how one would write it
without kernels. Each runs once per round, in an order that turns from round to round, so that a
machine that slows down or is shared slows both; ratios are between medians. An iteration is a
rendering of rays spread over one view, an L1 loss, the way back and a fused step of Adam; in the
last race the first reconstruction is a generated chest, and the kernels leave out its air, which is
why their loss differs. The result goes to ``benchmarks/results/neural_fields.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numba  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles  # noqa: E402
from diffnr_lightning.phantoms import chest  # noqa: E402
from diffnr_lightning.representations import HashEncoding, NeuralField  # noqa: E402
from diffnr_lightning.representations.fields.neural_field import (  # noqa: E402
    _Network,
    network_reference,
)

RESULTS = Path(__file__).parent / "results" / "neural_fields.json"
EDGE_MM = 256.0

Run = Callable[[], Any]


def scene(rays: int) -> tuple[VolumeGrid, ScanGeometry]:
    """A cube of 256 mm and a cone-beam view of it with so many rays."""
    side = round(rays**0.5)
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(1),
        source_to_axis_mm=1000.0,
        source_to_detector_mm=1500.0,
        detector_shape=(side, -(-rays // side)),
        pixel_mm=384.0 / side,
    )
    return VolumeGrid((128, 128, 128), EDGE_MM / 128), scan


def operations(rays: int, samples: int) -> dict[str, dict[str, Run]]:
    """What is timed, and by whom; each returns tensors or numbers to compare."""
    grid, scan = scene(rays)
    field = NeuralField(grid, samples=samples)
    field.initialise(torch.full(grid.shape, 0.2), None, scan, seed=0)
    lines = {}

    def watch(points: torch.Tensor) -> torch.Tensor:
        lines["points"] = points.reshape(-1, 3).clone()
        return points[..., 0]

    # The points are those of real rays: neighbours share cells and caches.
    field.field, ours = watch, field.field
    with torch.no_grad():
        field.chunk = rays * samples
        field.render(scan)
    field.field = ours
    points = lines["points"]
    encodings = {"numba": HashEncoding(), "torch": HashEncoding(backend="reference")}
    encodings["torch"].load_state_dict(encodings["numba"].state_dict())
    weights = torch.randn(32, len(points), generator=torch.Generator().manual_seed(0))
    parameters = [p for layer in field.layers for p in (layer.weight, layer.bias)]
    networks = {"numba": _Network.apply, "torch": network_reference}
    features = weights.clone().requires_grad_()

    def encode(name: str, backwards: bool) -> Run:
        def run() -> list[torch.Tensor]:
            encoded = encodings[name].rows(points)
            if not backwards:
                return [encoded.detach()]
            return list(torch.autograd.grad((encoded * weights).sum(), encodings[name].table))

        return run

    def network(name: str) -> Run:
        def run() -> list[torch.Tensor]:
            out = networks[name](features, *parameters)
            return [out.detach(), *torch.autograd.grad(out.sum(), [features, *parameters])]

        return run

    return {
        "encode": {name: encode(name, False) for name in encodings},
        "encode and gradient": {name: encode(name, True) for name in encodings},
        "network and gradient": {name: network(name) for name in networks},
        "iteration": {
            "numba": iteration(grid, scan, samples, "auto"),
            "torch": iteration(grid, scan, samples, "reference"),
        },
        "iteration on a chest": {
            "numba": iteration(grid, scan, samples, "auto", patient(), empty=0.03),
            "torch": iteration(grid, scan, samples, "reference", patient()),
        },
    }


def patient() -> torch.Tensor:
    """A generated chest (128, 128, 128), normalised."""
    return torch.from_numpy((chest(1, 128).array + 1000) / 2024).clamp(0, 1)


def iteration(
    grid: VolumeGrid,
    scan: ScanGeometry,
    samples: int,
    backend: str,
    first: torch.Tensor | None = None,
    empty: float | None = None,
) -> Run:
    """A step of NAF with the paper's network, begun from a first reconstruction (Z, Y, X)."""
    field = NeuralField(grid, samples=samples, backend=backend, empty=empty)
    field.initialise(torch.full(grid.shape, 0.2) if first is None else first, None, scan, seed=0)
    optimizer = torch.optim.Adam(field.parameter_groups(), eps=1e-15, fused=True)

    def run() -> list[torch.Tensor]:
        optimizer.zero_grad()
        loss = (field.render(scan) / EDGE_MM - 0.1).abs().mean()
        loss.backward()
        optimizer.step()
        return [loss.detach()]

    return run


def race(contenders: dict[str, Run], rounds: int) -> dict[str, dict[str, Any]]:
    """Return each contender's seconds, wall and processor, and its distance from the other's result."""
    names = list(contenders)
    results = {name: contenders[name]() for name in names}  # compiles
    wall: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % 2 :] + names[: turn % 2]:
            started = time.perf_counter(), time.process_time()
            contenders[name]()
            wall[name].append(time.perf_counter() - started[0])
            processor[name].append(time.process_time() - started[1])
    difference = max(
        float((a - b).norm() / b.norm().clamp(min=1e-30))
        for a, b in zip(results["numba"], results["torch"], strict=True)
    )
    return {
        name: {
            "median_s": float(np.median(wall[name])),
            "min_s": min(wall[name]),
            "processor_s": min(processor[name]),
            "times_ours": float(np.median(wall[name]) / np.median(wall["numba"])),
            "relative_difference": difference if name == "torch" else 0.0,
        }
        for name in names
    }


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "name": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "system": platform.platform(terse=True),
        "threads": threads,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "numba": numba.__version__,
    }


def main() -> None:
    """Run the races, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rays", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=numba.config.NUMBA_NUM_THREADS)
    options = parser.parse_args()
    numba.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    about = machine(options.threads)
    setting = f"{options.rays} rays x {options.samples} samples, {options.threads} threads"
    table = Table(title=f"{setting}, {about['name']}")
    for heading in ("operation", "contender"):
        table.add_column(heading)
    for heading in ("median s", "min s", "processor s", "times ours", "difference"):
        table.add_column(heading, justify="right")
    rows = []
    for operation, contenders in operations(options.rays, options.samples).items():
        for name, row in race(contenders, options.rounds).items():
            rows.append({"operation": operation, "contender": name, **row})
            table.add_row(
                operation,
                name,
                f"{row['median_s']:.4f}",
                f"{row['min_s']:.4f}",
                f"{row['processor_s']:.4f}",
                f"{row['times_ours']:.2f}",
                f"{row['relative_difference']:.1e}",
            )
    Console().print(table)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[setting] = {"machine": about, "rows": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
