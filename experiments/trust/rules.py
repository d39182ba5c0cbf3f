"""Apply rules of trust to the repaired volumes of starts.py, and print how each rule does."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from starts import fitted_views
from torch import Tensor

from diffnr_lightning.consistency import (
    agree,
    align,
    misfit,
    relative_weights,
    unexplained,
    with_unseen_of,
)
from diffnr_lightning.data import Case
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.metrics import evaluate_volume
from diffnr_lightning.projectors import project

COLUMNS = ("case", "start", "rule", "psnr", "ssim", "unseen_views", "chi_square")


class Repair(NamedTuple):
    """What a rule is given: a scan, a fit to it, its repair; and, where known, both without some views."""

    case: Case
    start: Tensor
    repaired: Tensor
    fewer: dict[str, Tensor] | None

    @property
    def scan(self) -> tuple:
        """What functions of projections take after a volume."""
        return self.case.projections, self.case.grid, self.case.scan

    @property
    def noise(self) -> dict:
        """What they take of the noise."""
        return {"photons": self.case.photons, "weights": self.case.photons.weights()}


def best_share(
    volume: Tensor,
    changed: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None = None,
) -> float:
    """Return the share of a change at which the projections are explained best.

    A change that the projections support, or that they do not see, is taken whole; of one that
    invents or removes things, only a part explains more than it contradicts.

    Args:
        volume: (Z, Y, X), such as a fit to the projections.
        changed: (Z, Y, X), such as a repair of it.
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volumes.
        scan: geometry of the projections.
        weights: as in `misfit`.

    Returns:
        s in [0, 1] that minimises the mean square of the residual of
        ``volume + s (changed - volume)``; 1 for a change that the projections do not see.
    """
    residual = (projections - project(volume, grid, scan)).double()
    change = project(changed - volume, grid, scan).double()
    weighted = change if weights is None else change * relative_weights(weights, scan, change)
    along, across = float((residual * weighted).sum()), float((change * weighted).sum())
    return min(max(along / across, 0.0), 1.0) if across > 0 else 1.0


def former_rule(given: Repair) -> Tensor:
    """Return the rule of commit ece3793 in one pass: tolerance 0.02, half of the best share of what is contradicted."""
    aligned = align(given.repaired, *given.scan)
    if misfit(aligned, *given.scan) <= 1.02 * misfit(given.start, *given.scan):
        return aligned
    return torch.lerp(given.start, aligned, 0.5 * best_share(given.start, aligned, *given.scan))


def share_of_left_out_views(given: Repair) -> float:
    """Return the share of a repair without some views that explains these views best."""
    left_out = ~fitted_views(len(given.case.scan))
    return best_share(
        given.fewer["start"],
        given.fewer["repaired"],
        given.case.projections[left_out],
        given.case.grid,
        given.case.scan[left_out],
        given.noise["weights"][left_out],
    )


def agreement(given: Repair, **options: float) -> Tensor:
    """Return the nearest volume that agrees with the projections."""
    return agree(given.repaired, *given.scan, **given.noise, **options).volume


def as_the_start(given: Repair) -> Tensor:
    """Return the nearest volume that explains the projections as well as the start does."""
    return agreement(given, level=unexplained(given.start, *given.scan, **given.noise))


def null_space(given: Repair) -> Tensor:
    """Return the start with what the projections do not see of the repair."""
    unseen = with_unseen_of(given.start, given.repaired, *given.scan[1:], given.noise["weights"])
    return unseen.clamp(min=0)


def by_left_out_views(given: Repair) -> Tensor:
    """Return the share of the repair that left-out views explain best."""
    return torch.lerp(given.start, given.repaired, share_of_left_out_views(given))


def yes_or_no(given: Repair) -> Tensor:
    """Return the repair or the start, whichever explains left-out views better."""
    return given.repaired if share_of_left_out_views(given) > 0.5 else given.start


RULES: dict[str, Callable[[Repair], Tensor]] = {
    "start": lambda given: given.start,
    "none": lambda given: given.repaired,
    "former": former_rule,
    "align": lambda given: align(given.repaired, *given.scan),
    "null space": null_space,
    "agreement": agreement,
    "agreement, noise alone": lambda given: agreement(given, resolution=False),
    "agreement, not smoothed": lambda given: agreement(given, smoothing=0.0),
    "agreement, air moves too": lambda given: agreement(given, support=-1.0),
    "agreement, as the start": as_the_start,
    "left-out views: share": by_left_out_views,
    "left-out views: yes or no": yes_or_no,
    "left-out views: share, agreement": lambda given: agreement(
        given._replace(repaired=by_left_out_views(given))
    ),
}


def judged(volume: Tensor, case: Case) -> dict[str, float]:
    """Return the numbers of a volume."""
    shown = project(volume, case.grid, case.test_scan)
    fitted = project(volume, case.grid, case.scan)
    return evaluate_volume(volume.numpy(), case.volume.numpy())["r2"] | {
        "unseen_views": float(
            (shown - case.test_projections).norm() / case.test_projections.norm()
        ),
        "chi_square": float(case.photons.chi_square(fitted).mean()),
    }


def main() -> None:
    """Write a CSV file with a row for every case and rule, and print means over cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="that starts.py has filled")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument("--only", default="", help="part of the names of cases")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    options = parser.parse_args()
    rows = []
    for file in sorted(options.folder.glob(f"*{options.only}*/*-all.pt")):
        case = torch.load(file.parent / "case.pt", weights_only=False)
        fewer = file.with_name(file.name.replace("-all", "-fewer"))
        given = Repair(
            case, **torch.load(file), fewer=torch.load(fewer) if fewer.exists() else None
        )
        for rule in options.rules:
            if given.fewer is None and rule.startswith("left-out"):
                continue
            numbers = judged(RULES[rule](given), case)
            row = {"case": file.parent.name, "start": file.stem[:-4], "rule": rule} | numbers
            rows.append({key: row[key] for key in COLUMNS})
            print(
                *(f"{v:.4f}" if isinstance(v, float) else v for v in rows[-1].values()), flush=True
            )
    with options.out.open("w", newline="") as table:
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plain = {(r["case"], r["start"]): r for r in rows if r["rule"] == "none"}
    for rule in options.rules:
        mine = [r for r in rows if r["rule"] == rule]
        if mine:
            psnr, ssim = (
                [r[key] - plain[r["case"], r["start"]][key] for r in mine]
                for key in ("psnr", "ssim")
            )
            print(
                f"{rule}: {mean(psnr):+.2f} dB (least {min(psnr):+.2f}), {mean(ssim):+.4f} SSIM "
                f"(least {min(ssim):+.4f}) over no rule, {len(mine)} cases"
            )


if __name__ == "__main__":
    main()
