"""Tasks on finished runs, whose results lie beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from diffnr_lightning.lazy import deferred

RunSummary = deferred("diffnr_lightning.reports.runs.RunSummary")

logger = logging.getLogger("diffnr")

Task = Literal["lungs"]
LungSegmenter = Literal["auto", "embedded", "lungmask"]


def score_lungs(runs: Sequence[RunSummary], segmenter: LungSegmenter = "auto") -> None:
    """Write `downstream.json` into the folder of each run: its lungs against those of the true volume.

    What the same segmenter has written before stays. Runs without a true volume in HU, or without lungs in it, are
    named and left out.

    Args:
        runs: finished ones.
        segmenter: see `downstream.lung_segmenter`.

    Raises:
        ImportError: lungmask is not installed.
        ValueError: a volume that is damaged.
    """
    from diffnr_lightning.downstream import compare_lungs, lung_segmenter
    from diffnr_lightning.files import write_json
    from diffnr_lightning.reports.runs import DOWNSTREAM_FILE, read_truth, read_volume

    name, segment = lung_segmenter(segmenter)
    references = {}
    for run in runs:
        if run.downstream.get("lungs", {}).get("segmenter") == name:
            continue
        volume = read_volume(run)
        key = (run.case_folder, volume.values.shape)
        if key not in references:
            truth = read_truth(run, volume) if volume.unit == "HU" else None
            references[key] = None if truth is None else segment(truth.values, truth.voxel_mm)
        reference = references[key]
        if reference is None or not reference.any():
            logger.warning("%s: no lungs in a true volume in HU; left out.", run.folder)
            continue
        found = segment(volume.values, volume.voxel_mm)
        score = compare_lungs(found, reference, volume.voxel_mm)
        logger.info("%s: lungs %.1f %%", run.folder, score.dice_percent)
        result = {"lungs": {"segmenter": name, **score._asdict()}}
        write_json(Path(run.folder) / DOWNSTREAM_FILE, result)
