"""Print whether less noise ever makes a method worse: the same scan at rising photons, then without noise, as Markdown.

    python experiments/main_job/less_noise.py runs/less_noise/table/table.csv

The tables are those of `diffnr evaluate --out`; noise of the TIGRE toolbox's rule is no number of photons and left out.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from over_best_other import OURS, Scan, Scores, read_scores


def photons_of(noise: str) -> float | None:
    """Return the photons of `physical 10000±10`, infinity of `none`, and None of other noise."""
    if noise == "none":
        return math.inf
    found = re.match(r"physical ([\d.e+]+)", noise)
    return float(found[1]) if found else None


def series_of(scores: Scores, method: str) -> dict[Scan, dict[float, tuple[float, float]]]:
    """Return (PSNR in dB, SSIM) by rising photons of each scan whose noise is the only difference."""
    series: dict[Scan, dict[float, tuple[float, float]]] = {}
    for scan, by_method in scores.items():
        photons = photons_of(scan.noise)
        if photons is not None and method in by_method:
            series.setdefault(scan._replace(noise=""), {})[photons] = by_method[method]
    return {scan: dict(sorted(found.items())) for scan, found in series.items() if len(found) > 1}


def largest_drop(values: Sequence[float]) -> float:
    """Return how far a number falls below the best one at more noise, 0 where it never does."""
    return max(max(values[: i + 1]) - value for i, value in enumerate(values))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each scan and how many are monotone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--method", default=OURS)
    parser.add_argument("--protocol", default="r2")
    parser.add_argument("--slack_db", type=float, default=0.0, help="drop that is none yet")
    options = parser.parse_args(argv)
    series = series_of(read_scores(options.tables, options.protocol), options.method)
    if not series:
        sys.exit(f"no scan has {options.method} at several photons; name the method by --method.")
    levels = sorted({photons for found in series.values() for photons in found})
    heads = ["none" if level == math.inf else f"{level:g} photons" for level in levels]
    print(f"| case | views | {' | '.join(heads)} | largest drop | monotone |")
    print(f"| --- | ---: |{' ---: |' * len(levels)} ---: | --- |")
    monotone = 0
    for scan, found in series.items():
        drop = largest_drop([psnr for psnr, _ in found.values()])
        monotone += drop <= options.slack_db
        cells = [
            f"{found[level][0]:.2f} dB / {found[level][1]:.3f}" if level in found else "–"
            for level in levels
        ]
        answer = "yes" if drop <= options.slack_db else "**no**"
        print(f"| {scan.case} | {scan.views} | {' | '.join(cells)} | {drop:.2f} dB | {answer} |")
    print(f"\n{monotone} of {len(series)} scans are monotone in PSNR.")


if __name__ == "__main__":
    main()
