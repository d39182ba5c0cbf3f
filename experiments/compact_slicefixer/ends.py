"""Tell what repairs along each plane make of the axial slices in which a body ends, of weighted TV.

    python experiments/compact_slicefixer/ends.py CASE ... [--weights FILE]

For the first and the last slice of the truth that hold something, and the ones before and behind them: mean (of the
truth too), mean squared error times 1e5, and share of the squared error of the whole volume. Repairs are not held to
the projections.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from diffnr_lightning.data import load_case
from diffnr_lightning.planes import PLANE_NAMES
from diffnr_lightning.priors import Repairer
from diffnr_lightning.priors.volume_repair import EMPTY
from diffnr_lightning.solvers import weighted_tv
from diffnr_lightning.workflows.methods.posed_problem import problem_of


def described(volume: Tensor, truth: Tensor, ends: list[int]) -> str:
    """Return mean, error and share of slices of a volume (Z, Y, X) in words."""
    error = (volume.clamp(0, 1) - truth).square().mean(dim=(1, 2))
    parts = [
        f"{z}: {volume[z].mean():.3f} {1e5 * error[z]:.1f} ({100 * error[z] / error.sum():.0f} %)"
        for z in ends
    ]
    return f"{1e5 * error.mean():6.2f} | " + " | ".join(parts)


def main() -> None:
    """Read the cases, repair along each plane, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, nargs="+", metavar="CASE")
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    for path in options.cases:
        case = load_case(path)
        problem = problem_of(case, case.grid, "cpu")[0].without_surroundings()
        measured = (problem.projections, problem.grid, problem.scan)
        rays = {"weights": problem.weights, "photons": problem.photons}
        start = weighted_tv(*measured, weights=problem.weights)
        filled = torch.nonzero(case.volume.amax(dim=(1, 2)) >= EMPTY).flatten().tolist()
        ends = [
            max(filled[0] - 1, 0),
            filled[0],
            filled[-1],
            min(filled[-1] + 1, len(case.volume) - 1),
        ]
        print(case.name, " ".join(f"{z}: {case.volume[z].mean():.3f}" for z in ends))
        print("weighted TV", described(start, case.volume, ends), flush=True)
        for plane in PLANE_NAMES:
            repaired = Repairer(options.weights, planes=(plane,)).repair(start, *measured, **rays)
            print(f"{plane:11s}", described(repaired.volume, case.volume, ends), flush=True)


if __name__ == "__main__":
    main()
