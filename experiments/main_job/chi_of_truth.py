"""Print chi-square of the true volumes of cases, below which no volume on the same voxels need stay, as Markdown.

    python experiments/main_job/chi_of_truth.py runs/main/body+photons_1e5/24_views/*/case

As a reconstruction does, it takes away what lies around the grid, and counts what voxels do not resolve as noise.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffnr_lightning.data import load_case
from diffnr_lightning.workflows.methods.posed_problem import problem_of
from diffnr_lightning.workflows.runs.evidence import chi_squares


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", type=Path, nargs="+")
    options = parser.parse_args(argv)
    print("| case | noise alone | with what voxels do not resolve |")
    print("| --- | ---: | ---: |")
    for folder in options.cases:
        case = load_case(folder)
        if case.volume is None or case.photons is None:
            continue
        problem, scale = problem_of(case, case.grid, "cpu")
        mean = chi_squares(case.volume / scale, problem, case, scale)["mean"]
        print(f"| {case.name} | {mean['fitted']:.2f} | {mean['resolved']:.2f} |")


if __name__ == "__main__":
    main()
