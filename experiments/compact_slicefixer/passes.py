"""Tell what each pass of a repair makes of weighted TV: PSNR of the volume, held to its projections, against the truth.

    python experiments/compact_slicefixer/passes.py CASE ... [--passes 5] [--weights FILE] [--then FILE]

The first pass takes `--weights`, those of the package unless told, the others `--then`, the same unless told.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from diffnr_lightning.data import load_case
from diffnr_lightning.metrics import r2_protocol
from diffnr_lightning.priors import Prior, Repairer
from diffnr_lightning.solvers import weighted_tv
from diffnr_lightning.workflows import Problem
from diffnr_lightning.workflows.methods.posed_problem import problem_of


def after_passes(problem: Problem, repairer: Repairer, then: Prior) -> Iterator[Tensor]:
    """Yield weighted TV and what each pass makes of it, (Z, Y, X) each; `then` is the prior of all but the first."""
    measured = (problem.projections, problem.grid, problem.scan)
    rays = {"weights": problem.weights, "photons": problem.photons}
    start = weighted_tv(*measured, weights=problem.weights)
    yield start
    for repaired in repairer.each_pass(start, *measured, **rays):
        yield repaired.volume
        repairer.prior = then


def main() -> None:
    """Read the cases, repair, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, nargs="+", metavar="CASE")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--then", type=Path)
    options = parser.parse_args()
    kept = {"planes": ("axial", "coronal", "sagittal"), "consistency": "agreement"}
    for path in options.cases:
        case = load_case(path)
        repairer = Repairer(options.weights, passes=options.passes, **kept)
        then = Repairer(options.then).prior if options.then else repairer.prior
        problem, _ = problem_of(case, case.grid, "cpu")
        volumes = after_passes(problem.without_surroundings(), repairer, then)
        scores = (r2_protocol(volume.numpy(), case.volume.numpy())["psnr"] for volume in volumes)
        print(case.name, *(f"{score:.2f}" for score in scores), flush=True)


if __name__ == "__main__":
    main()
