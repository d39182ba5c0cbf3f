"""Scan volumes, reconstruct them without a prior, and let the prior repair the results once.

What is written for every scan and start is all that a rule of trust is given, and the truth. Files that are there
already are left alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from diffnr_lightning.data import (
    Case,
    Noise,
    ScanRecipe,
    generate,
    is_generated,
    load_volume,
    simulate_case,
)
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.priors import Repairer
from diffnr_lightning.representations import GaussianCloud
from diffnr_lightning.workflows import Problem, Scene, Solver

NOISES = {
    "tigre_1e4": Noise("tigre", 1e4),
    "physical_1e5": Noise("physical", 1e5),
    "physical_1e4.5": Noise("physical", 10**4.5),
}
LEFT_OUT = 3
REPAIRER = {"planes": ("axial", "coronal", "sagittal")}


def gaussians(problem: Problem) -> Tensor:
    """Return the volume of plain Gaussians, at the settings of configs/reconstruct/r2gaussian.yaml."""
    scene = Scene(
        iterations=1000,
        start=Solver("sirt", {"iterations": 10}),
        representation=lambda grid: GaussianCloud(grid, num_gaussians=10_000),
        optimisation=lambda *given: SceneOptimization(
            *given, lambda_ssim=0, rate_scale=8, rate_iterations=1000, reference_size=64
        ),
    )
    return scene.reconstruct(problem)


STARTS = {
    "gaussians": gaussians,
    "asd_pocs": Solver("asd_pocs").reconstruct,
    "sirt": Solver("sirt", {"iterations": 40}).reconstruct,
    "weighted_tv": Solver("weighted_tv").reconstruct,
}


def scanned(source: str, noise: Noise, size: int, views: int) -> Case:
    """Return the case of a volume or a generated object."""
    loaded = generate(source, max(size, 128)) if is_generated(source) else load_volume(source)
    fit = "volume" if source.startswith("specimen") else "body"  # some are foams without a body
    recipe = ScanRecipe(size=size, num_views=views, fit=fit, noise=noise, test_views=16)
    return simulate_case(loaded, recipe)


def fitted_views(count: int) -> Tensor:
    """Return which views remain where some, evenly spaced, are left out, as `Trial` does."""
    remain = torch.ones(count, dtype=torch.bool)
    remain[((torch.arange(LEFT_OUT) + 0.5) * count / LEFT_OUT).long()] = False
    return remain


def main() -> None:
    """Write one file a scan, and one a start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "volumes", nargs="+", help="files, or generated objects such as phantom:200"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--noises", nargs="+", default=list(NOISES), choices=NOISES)
    parser.add_argument(
        "--weights",
        type=Path,
        help="of the prior, in the place of those that come with the package",
    )
    parser.add_argument(
        "--whole", action="store_true", help="leave the reconstructions without some views out"
    )
    options = parser.parse_args()
    repairer = Repairer(options.weights, **REPAIRER)
    for source in options.volumes:
        for noise in options.noises:
            name = f"{Path(source).name.split('.')[0].replace(':', '_')}-{noise}"
            folder = options.out / f"{options.size}_{options.views}" / name
            folder.mkdir(parents=True, exist_ok=True)
            case = scanned(source, NOISES[noise], options.size, options.views)
            torch.save(case, folder / "case.pt")
            remain = fitted_views(options.views)
            problem = Problem(
                case.projections,
                case.scan,
                case.grid,
                case.seed % 2**31,
                photons=case.photons,
                weights=case.photons.weights(),
            )
            for start in options.starts:
                fewer = {} if options.whole else {"fewer": of_views(problem, remain)}
                for views, given in ({"all": problem} | fewer).items():
                    file = folder / f"{start}-{views}.pt"
                    if file.exists():
                        continue
                    volume = STARTS[start](given)
                    measured = (given.projections, given.grid, given.scan)
                    repaired = repairer.repair(volume, *measured, weights=given.weights)
                    torch.save({"start": volume, "repaired": repaired.volume}, file)
                    print(name, start, views, flush=True)


def of_views(problem: Problem, kept: Tensor) -> Problem:
    """Return what is given with some of the views."""
    return problem._replace(
        projections=problem.projections[kept],
        scan=problem.scan[kept],
        photons=problem.photons.of_views(kept),
        weights=problem.weights[kept],
    )


if __name__ == "__main__":
    main()
