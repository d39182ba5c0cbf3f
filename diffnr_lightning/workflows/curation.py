"""Make pairs of degraded and clean volumes, from which a SliceFixer learns."""

from __future__ import annotations

import glob
import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from diffnr_lightning.callbacks import PseudoReference, Snapshots
from diffnr_lightning.data import (
    Case,
    LoadedVolume,
    Noise,
    Scanner,
    chest,
    load_volume,
    simulate_case,
)
from diffnr_lightning.data.slice_pairs import write_pairs
from diffnr_lightning.priors import biplanar_conditioning
from diffnr_lightning.workflows.methods import Problem, Scene
from diffnr_lightning.workflows.progress import progress_bar

logger = logging.getLogger("diffnr")

PHANTOM = "phantom:"


def curate(
    volumes: list[str],
    out: Path,
    methods: list[Scene],
    exclude: list[str] | None = None,
    runs: int = 1,
    size: int = 128,
    fit: Literal["volume", "body"] = "body",
    zooms: tuple[float, float] = (1.0, 1.0),
    views: tuple[int, ...] = (12, 16, 24, 36, 48),
    layouts: tuple[Literal["uniform", "random"], ...] = ("uniform", "random"),
    window_hu: tuple[float, float] = (-1000.0, 1024.0),
    scanner: Scanner = Scanner(),
    noise: Noise = Noise(),
    fractions: tuple[float, ...] = (0.25, 0.375, 0.5),
    repair: PseudoReference | None = None,
    seed: int = 0,
    shard: str = "0/1",
    device: str = "cpu",
) -> Path:
    """Scan volumes, stop reconstructions early, and keep what they look like beside the truth.

    Every run is drawn from its name: a curation that was interrupted goes on where it stopped, and shards on several
    machines make the same files as one machine would.

    Args:
        volumes: files, glob patterns, or generated chests `phantom:SEED` and `phantom:FIRST-LAST`.
        out: folder of pairs: one safetensors file a run, and `manifest.json`.
        methods: reconstructions that are stopped early; runs take them in turn, so that each makes an equal share.
        exclude: names of volumes that must not be learned from, such as those of a test set.
        runs: scans of each volume.
        size: voxels of the reconstructed cube along each edge.
        fit: what the cube is fitted to.
        zooms: smallest and largest share of the volume's edges that is scanned; less than 1 cuts out a box.
        views: numbers of views that are drawn from.
        layouts: view layouts that are drawn from.
        window_hu: HU that become 0 and 1.
        scanner: distances and detector.
        noise: photons and read-out noise.
        fractions: shares of a method's iterations after which the volume is kept.
        repair: a prior whose repairs of those volumes are kept as well, so that the next prior learns what a volume
            looks like that was repaired already.
        seed: with the name of the run, seeds all that is drawn.
        shard: `K/N` makes every Nth run, beginning with run K.
        device: where to compute.

    Source: data curation of DiffNR: random view subsets, uniform and not, reconstructions stopped at 25-50 % of their
    iterations, representations in equal shares.

    Raises:
        ValueError: no volume, no method, or a shard that does not exist.
    """
    sources = _sources(volumes, exclude or [])
    if not methods:
        raise ValueError("methods is empty; at least one reconstruction to stop early is expected.")
    part, parts = shard_of(shard)
    jobs = [(source, run) for source in sources for run in range(runs)]
    mine = list(enumerate(jobs))[part::parts]
    with progress_bar("curating") as progress:
        for done, (index, (source, run)) in enumerate(mine):
            name = f"{_source_name(source)}_{run}"
            progress(done, len(mine), name)
            if (out / f"{name}.safetensors").exists():
                continue
            method = methods[index % len(methods)]
            generator = np.random.default_rng([seed, _hash(name)])
            loaded = _zoomed(_load(source, size), generator.uniform(*zooms), generator)
            case = simulate_case(
                loaded,
                size=size,
                num_views=int(generator.choice(views)),
                layout=str(generator.choice(layouts)),
                start_deg=float(generator.uniform(0, 360)),
                fit=fit,
                window_hu=window_hu,
                scanner=scanner,
                noise=noise,
                test_views=0,
                name=name,
                seed=int(generator.integers(2**31)),
            )
            _curate_case(case, method, fractions, repair, out, device)
        progress(len(mine), len(mine), "done")
    return out


def _curate_case(
    case: Case,
    method: Scene,
    fractions: tuple[float, ...],
    repair: PseudoReference | None,
    out: Path,
    device: str,
) -> None:
    """Run one method on one case up to its last fraction and write the pairs."""
    at = sorted({max(1, round(fraction * method.iterations)) for fraction in fractions})
    snapshots = Snapshots(at)
    projections = case.projections.to(device)
    problem = Problem(projections, case.scan, case.grid, case.seed, callbacks=(snapshots,))
    module = method.fit(problem, stop_at=at[-1])
    kept: list[tuple[int, bool, torch.Tensor]] = [
        (k, False, v) for k, v in snapshots.volumes.items()
    ]
    if repair is not None:
        for iteration, volume in snapshots.volumes.items():
            repaired = repair.repair(volume.to(device), projections, case.grid, case.scan)
            kept.append((iteration, True, repaired.cpu()))
    directions = torch.tensor(case.scan.direction, dtype=torch.float32)
    info: dict[str, Any] = {
        "case": case.name,
        "source": Path(case.source).name,
        "views": len(case.scan),
        "layout": case.provenance["views"]["layout"],
        "iterations": [iteration for iteration, _, _ in kept],
        "repaired": [again for _, again, _ in kept],
        "representation": type(module.representation).__name__,
        "parameters": sum(p.numel() for p in module.representation.parameters()),
        "seed": case.seed,
    }
    write_pairs(
        out,
        case.name,
        degraded=torch.stack([volume for _, _, volume in kept]),
        clean=case.volume,
        biplanar=biplanar_conditioning(case.projections, directions).biplanar[0],
        info=info,
    )


def _sources(volumes: list[str], exclude: list[str]) -> list[str]:
    """Expand patterns and ranges, leave out what is excluded."""
    sources: list[str] = []
    for entry in volumes:
        if entry.startswith(PHANTOM):
            first, _, last = entry.removeprefix(PHANTOM).partition("-")
            sources += [f"{PHANTOM}{seed}" for seed in range(int(first), int(last or first) + 1)]
        elif glob.has_magic(entry):
            sources += sorted(glob.glob(entry))
        else:
            sources.append(entry)
    kept = [source for source in sources if _source_name(source) not in exclude]
    if not kept:
        raise ValueError(f"volumes {volumes} name nothing that can be scanned; check the paths.")
    return kept


def _source_name(source: str) -> str:
    return (
        source.replace(":", "_") if source.startswith(PHANTOM) else Path(source).name.split(".")[0]
    )


def _load(source: str, size: int) -> LoadedVolume:
    if source.startswith(PHANTOM):
        return chest(int(source.removeprefix(PHANTOM)), size=size)
    return load_volume(source)


def _zoomed(loaded: LoadedVolume, zoom: float, generator: np.random.Generator) -> LoadedVolume:
    """Cut a random box out of a volume whose edges are `zoom` of the volume's."""
    if zoom >= 1:
        return loaded
    shape = np.array(loaded.array.shape)
    kept = np.maximum((shape * zoom).astype(int), 16)
    # Near the middle, where the object is.
    start = ((shape - kept) * generator.uniform(0.3, 0.7, 3)).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, kept, strict=True))
    return replace(loaded, array=np.ascontiguousarray(loaded.array[box]))


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


def shard_of(shard: str) -> tuple[int, int]:
    """Return part and number of parts of a shard `K/N`; ValueError where there is none such."""
    part, _, parts = shard.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise ValueError(f"shard is {shard!r}; K/N with K < N is expected, such as 3/25.")
    return int(part), int(parts)
