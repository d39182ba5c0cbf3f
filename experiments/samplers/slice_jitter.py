"""Print how much volumes vary along z, y and x, over what their truths do, as Markdown: slices that jitter are above 1.

    python experiments/samplers/slice_jitter.py runs/samplers

Source: total variation between slices, as in Table 4 of DiffusionBlend; ours is that of all three axes, so that
noise, which varies alike along all of them, is told from jitter.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffnr_lightning.reports.runs import read_runs, read_truth, read_volume


def variations(volume: np.ndarray) -> np.ndarray:
    """Return the mean absolute step of a volume (Z, Y, X) along each axis, (3,)."""
    return np.array([np.abs(np.diff(volume, axis=axis)).mean() for axis in range(3)])


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args(argv)
    print("| case | noise | method | along z | along y | along x |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    for run in read_runs(options.runs):
        volume = read_volume(run)
        truth = read_truth(run, volume)
        if truth is None:
            continue
        shares = variations(volume.values) / variations(truth.values)
        cells = " | ".join(f"{share:.2f}" for share in shares)
        print(f"| {run.case} | {run.setting.noise} | {run.method} | {cells} |")


if __name__ == "__main__":
    main()
