"""Print what DiffNR gains over the best other method of each case, by kind of object and noise, as Markdown.

    python experiments/main_job/over_best_other.py runs/main/table/table.csv
    python experiments/main_job/over_best_other.py --by kind noise views -- table.csv another.csv
    python experiments/main_job/over_best_other.py --kinds head chest -- table.csv

The tables are those of `diffnr evaluate --out`. The best other method is looked for in each case and each number by
itself, so that a gain in SSIM is over the method of highest SSIM.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from diffnr_lightning.data.splits import read_split, split_names

OURS = "3D Gaussians + DiffNR + data consistency"
# Other methods with a prior, which are variants of ours and no competitors.
WITH_PRIOR = ("diffnr", "repair")
LIKE_TRAINING = ("head", "chest", "abdomen", "limb")
BOUND_DB = -0.1
GROUPS = {True: "like the training", False: "unlike the training"}


class Scan(NamedTuple):
    """What a case is told by; the fields but the first are words of the table, empty where it has none."""

    case: str
    kind: str
    noise: str
    views: str
    size: str


@dataclass(frozen=True)
class Gain:
    """What a method gains over the best other one in a case, in dB and SSIM."""

    scan: Scan
    psnr: float
    ssim: float

    @property
    def like(self) -> bool:
        """Whether the training knows such objects."""
        return self.scan.kind in LIKE_TRAINING


Scores = dict[Scan, dict[str, tuple[float, float]]]


def read_scores(tables: Sequence[Path], protocol: str = "r2") -> Scores:
    """Read the cases of tables; means and cases without both numbers are left out.

    Args:
        tables: CSV files of `evaluate`.
        protocol: of the numbers: r2, naf, strict, or views for the views that were left out.

    Returns:
        Scan -> method -> (PSNR in dB, SSIM).

    Raises:
        ValueError: two different results of one method on one scan.
    """
    kinds = {volume.name: volume.kind for name in split_names() for volume in read_split(name)}
    scores: Scores = {}
    for table in tables:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                case, numbers = row["case"], [row[f"{protocol}_{key}"] for key in ("psnr", "ssim")]
                if case in ("mean", "paper") or not all(numbers):
                    continue
                kind = row.get("kind") or kinds.get(case, "not listed")
                scan = Scan(case, kind, *(row.get(key) or "" for key in Scan._fields[2:]))
                found = (float(numbers[0]), float(numbers[1]))
                if scores.setdefault(scan, {}).setdefault(row["method"], found) != found:
                    raise ValueError(
                        f"{table} has another result of {row['method']} on {' '.join(scan)} than the lines before; "
                        "one is expected."
                    )
    return scores


def gains_of(scores: Scores, ours: str = OURS) -> list[Gain]:
    """Return the gains in all cases that our method and another one have."""
    gains = []
    for scan, by_method in scores.items():
        others = [
            numbers
            for method, numbers in by_method.items()
            if method != ours and not _has_prior(method)
        ]
        if ours in by_method and others:
            best = [max(numbers) for numbers in zip(*others, strict=True)]
            psnr, ssim = by_method[ours]
            gains.append(Gain(scan, psnr - best[0], ssim - best[1]))
    return gains


def markdown(gains: Sequence[Gain], by: Sequence[str] = ("kind", "noise")) -> str:
    """Return a table with a line for each group, objects like and unlike the training apart.

    Args:
        gains: of the cases.
        by: fields of `Scan` that make a group; without the kind, a line is of all objects that are alike in this sense.
    """
    rest = [name for name in by if name != "kind"]
    lines = [
        f"| objects | {''.join(f'{name} | ' for name in rest)}cases | PSNR | worst | SSIM | worst | "
        f"below {BOUND_DB:+.1f} dB |",
        f"| --- |{' --- |' * len(rest)}" + " ---: |" * 6,
    ]
    for like, title in GROUPS.items():
        side = [gain for gain in gains if gain.like == like]
        if "kind" in by:
            lines += _lines(side, lambda gain: gain.scan.kind, rest)
        lines += _lines(side, lambda gain, title=title: f"**{title}**", rest)
    return "\n".join(lines) + "\n"


def _has_prior(method: str) -> bool:
    return any(word in method.lower() for word in WITH_PRIOR)


def _lines(gains: Sequence[Gain], label: Callable[[Gain], str], rest: Sequence[str]) -> list[str]:
    groups: dict[tuple[str, ...], list[Gain]] = {}
    for gain in gains:
        key = (label(gain), *(getattr(gain.scan, name) or "–" for name in rest))
        groups.setdefault(key, []).append(gain)
    return [f"| {' | '.join(key)} | {_numbers(groups[key])} |" for key in groups]


def _numbers(gains: Sequence[Gain]) -> str:
    worst = min(gains, key=lambda gain: gain.psnr)
    below = sum(gain.psnr < BOUND_DB for gain in gains)
    psnr, ssim = mean(g.psnr for g in gains), mean(g.ssim for g in gains)
    where = " ".join(filter(None, (worst.scan.case, worst.scan.views)))
    return (
        f"{len(gains)} | {psnr:+.2f} dB | {worst.psnr:+.2f} dB ({where}) | {ssim:+.3f} | "
        f"{min(g.ssim for g in gains):+.3f} | {below}"
    )


def notes(scores: Scores, ours: str = OURS) -> list[str]:
    """Say which cases lack a method that others have, since the best of fewer is easier to beat."""
    everything = {method for by_method in scores.values() for method in by_method}
    said = []
    for method in sorted(everything):
        lacking = [scan for scan, by_method in scores.items() if method not in by_method]
        if lacking and (method == ours or not _has_prior(method)):
            said.append(f"{method} is missing in {len(lacking)} of {len(scores)} cases.")
    return said


def main(argv: Sequence[str] | None = None) -> None:
    """Read the tables and print gains and notes."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    # One of each set of volumes: results_settled.csv has some of the development set's runs again.
    stored = [here.parent / "development" / "results.csv", here / "results_test.csv"]
    parser.add_argument("tables", type=Path, nargs="*", default=stored)
    parser.add_argument("--ours", default=OURS, help="the method whose gains are wanted")
    parser.add_argument("--protocol", default="r2", help="r2, naf, strict, or views (left out)")
    parser.add_argument(
        "--by", nargs="*", default=["kind", "noise"], choices=["kind", "noise", "views", "size"]
    )
    parser.add_argument("--kinds", nargs="*", help="kinds of objects that are taken alone")
    options = parser.parse_args(argv)
    scores = read_scores(options.tables, options.protocol)
    if options.kinds is not None:
        scores = {scan: found for scan, found in scores.items() if scan.kind in options.kinds}
    gains = gains_of(scores, options.ours)
    if not gains:
        sys.exit(f"no case has {options.ours} and another method; name the method by --ours.")
    print(markdown(gains, options.by))
    print(*notes(scores, options.ours), sep="\n")


if __name__ == "__main__":
    main()
