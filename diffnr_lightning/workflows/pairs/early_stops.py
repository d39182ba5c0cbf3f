"""Reconstructions that are stopped early: what a prior learns to repair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.methods.problem import Problem

Case = deferred("diffnr_lightning.data.cases.Case")
Method = deferred("diffnr_lightning.workflows.methods.problem.Method")
Repairer = deferred("diffnr_lightning.priors.repairer.Repairer")
Scene = deferred("diffnr_lightning.workflows.methods.scene.Scene")
Solver = deferred("diffnr_lightning.workflows.methods.solver.Solver")
Tensor = deferred("torch.Tensor")

MOST_DB = 120.0
# Share of the iterations, their number, and the volume (Z, Y, X) after them.
Kept = tuple[float, int, Any]


def refuse_what_cannot_stop(methods: Sequence[Method]) -> None:
    """Refuse methods that `stopped_early` cannot run.

    Raises:
        ValueError: one that is neither an optimisation nor a solver.
    """
    from diffnr_lightning.workflows.methods.solver import Solver

    for number, method in enumerate(methods, 1):
        if isinstance(method, Solver):
            continue
        # Solvers alone load no Lightning.
        from diffnr_lightning.workflows.methods.scene import Scene

        if not isinstance(method, Scene):
            raise ValueError(
                f"methods, number {number}, is a {type(method).__name__}, which has no volumes on its way that could "
                "be kept; a Scene or a Solver is expected."
            )


def stopped_early(
    case: Case,
    problem: Problem,
    method: Method,
    fractions: tuple[float, ...],
    repair: Repairer | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run a method up to its last fraction.

    Args:
        case: with the true volume.
        problem: the same as a method is given it.
        method: that `refuse_what_cannot_stop` takes.
        fractions: of its iterations, after which the volume is kept.
        repair: repairs the last of these volumes, of which each pass is kept too; None repairs none.

    Returns:
        degraded (S, Z, Y, X) and clean (Z, Y, X), and how they were made, as JSON holds it.
    """
    import torch

    from diffnr_lightning.workflows.methods.solver import Solver

    run = _solved if isinstance(method, Solver) else _fitted
    kept, described = run(method, problem, fractions)
    repaired = [False] * len(kept)
    if repair is not None:
        fraction, iterations, last = kept[-1]
        passes = repair.each_pass(
            last.to(problem.projections.device),
            problem.projections,
            case.grid,
            case.scan,
            weights=problem.weights,
            photons=problem.photons,
        )
        kept += [(fraction, iterations, step.volume.cpu()) for step in passes]
        repaired += [True] * (len(kept) - len(repaired))
    degraded = torch.stack([volume for _, _, volume in kept])
    info = {
        "case": case.name,
        "source": Path(case.source).name,
        "views": len(case.scan),
        "layout": case.provenance["views"]["layout"],
        "angles_deg": np.rad2deg(case.scan.orbit.angles_rad).round(6).tolist(),
        "voxel_mm": list(case.grid.voxel_mm),
        "scan": case.provenance,
        "iterations": [iterations for _, iterations, _ in kept],
        "fractions": [fraction for fraction, _, _ in kept],
        "repaired": repaired,
        "psnr": [_quality(volume, case.volume) for volume in degraded],
        **described,
        "seed": case.seed,
    }
    return {"degraded": degraded, "clean": case.volume}, info


def _fitted(
    scene: Scene, problem: Problem, fractions: tuple[float, ...]
) -> tuple[list[Kept], dict[str, Any]]:
    """Volumes of an optimisation on its way, and what is optimised."""
    from diffnr_lightning.callbacks import Snapshots

    at = _stops(scene.iterations, fractions)
    snapshots = Snapshots(at)
    module = scene.fit(problem._replace(callbacks=(snapshots,)), stop_at=at[-1])
    kept = [
        (round(iteration / scene.iterations, 4), iteration, volume)
        for iteration, volume in snapshots.volumes.items()
    ]
    return kept, {
        "representation": type(module.representation).__name__,
        "parameters": sum(p.numel() for p in module.representation.parameters()),
    }


def _solved(
    solver: Solver, problem: Problem, fractions: tuple[float, ...]
) -> tuple[list[Kept], dict[str, Any]]:
    """Volumes of a solver after fractions of its iterations, and its name."""
    from diffnr_lightning.workflows.methods.solver import Solver

    whole = solver.options.get("iterations")
    if whole is None:
        return [(1.0, 0, solver.reconstruct(problem).cpu())], {"representation": solver.name}
    kept = []
    for iterations in _stops(whole, fractions):
        shorter = Solver(solver.path, {**solver.options, "iterations": iterations})
        kept.append((round(iterations / whole, 4), iterations, shorter.reconstruct(problem).cpu()))
    return kept, {"representation": solver.name}


def _stops(whole: int, fractions: tuple[float, ...]) -> list[int]:
    """Return after how many iterations a volume is kept, each number once, in order."""
    return sorted({max(1, round(fraction * whole)) for fraction in fractions})


def _quality(degraded: Tensor, clean: Tensor) -> float:
    """PSNR in dB of a volume clipped to [0, 1]; JSON has no infinity."""
    from diffnr_lightning.metrics import psnr

    error = (degraded.clamp(0, 1) - clean).double().square().mean().item()
    return round(psnr(error, most=MOST_DB), 2)
