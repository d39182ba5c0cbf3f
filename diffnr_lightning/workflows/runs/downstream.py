"""Tasks on finished runs, whose results lie beside them."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from diffnr_lightning.lazy import deferred

RunSummary = deferred("diffnr_lightning.reports.runs.RunSummary")
ShownVolume = deferred("diffnr_lightning.reports.runs.ShownVolume")
RegionComparison = deferred("diffnr_lightning.downstream.RegionComparison")
RegionPlan = deferred("diffnr_lightning.downstream.RegionPlan")

logger = logging.getLogger("diffnr")

Task = Literal["lungs", "regions"]
LungSegmenter = Literal["auto", "embedded", "lungmask"]

AUTOMATIC = "flat regions of the true volume"
PROFILE_STEM = "profiles"


def score_task(
    task: Task,
    runs: Sequence[RunSummary],
    segmenter: LungSegmenter = "auto",
    regions: Path | None = None,
) -> None:
    """Do a task on finished runs, see `score_lungs` and `score_regions`.

    Raises:
        ImportError: lungmask is not installed.
        ValueError: a volume that is damaged, or regions that do not fit.
    """
    if task == "lungs":
        score_lungs(runs, segmenter)
    else:
        score_regions(runs, regions)


def score_lungs(runs: Sequence[RunSummary], segmenter: LungSegmenter = "auto") -> None:
    """Write `downstream.json` into the folder of each run: its lungs against those of the true volume.

    What the same segmenter has written before stays. Runs without their volume, without a true one in HU, or
    without lungs in it, are named and left out.

    Args:
        runs: finished ones.
        segmenter: see `downstream.lung_segmenter`.

    Raises:
        ImportError: lungmask is not installed.
        ValueError: a volume that is damaged.
    """
    from diffnr_lightning.downstream import compare_lungs, lung_segmenter
    from diffnr_lightning.reports.runs import having_volumes, read_volume

    name, segment = lung_segmenter(segmenter)
    references = {}
    left = [run for run in runs if run.downstream.get("lungs", {}).get("segmenter") != name]
    for run in having_volumes(left):
        volume = read_volume(run)
        key = (run.case_folder, volume.values.shape)
        if volume.unit != "HU":
            logger.warning(
                "%s: the volume is not in HU, so that lungs are unknown; left out.", run.folder
            )
            continue
        truth = _truth(run, volume)
        if truth is None:
            logger.warning("%s: no true volume; left out.", run.folder)
            continue
        if key not in references:
            references[key] = segment(truth.values, truth.voxel_mm)
        reference = references[key]
        if not reference.any():
            logger.warning("%s: no lungs in the true volume; left out.", run.folder)
            continue
        found = segment(volume.values, volume.voxel_mm)
        score = compare_lungs(found, reference, volume.voxel_mm)
        logger.info("%s: lungs %.1f %%", run.folder, score.dice_percent)
        _keep(run, "lungs", {"segmenter": name, **score._asdict()})


def score_regions(runs: Sequence[RunSummary], regions: Path | None = None) -> None:
    """Write into the folder of each run how its regions compare with those of the true volume.

    `downstream.json` has means, deviations, contrasts and PSNR of crops, `profiles.csv` and `profiles.png` the values
    along lines, where there are some. What was found in automatic regions before stays. Runs without their volume or
    a true one, or whose truth has no flat regions, are named and left out.

    Args:
        runs: finished ones.
        regions: YAML file of regions, or a folder of `CASE.yaml`; None takes flat regions of the true volume.

    Raises:
        FileNotFoundError: no file for a case.
        ValueError: a volume that is damaged, or regions that do not fit.
    """
    from diffnr_lightning.downstream import compare_regions
    from diffnr_lightning.reports.runs import having_volumes, read_volume

    plans: dict[Any, RegionPlan | None] = {}
    left = [run for run in runs if regions is not None or not _has_automatic(run)]
    for run in having_volumes(left):
        volume = read_volume(run)
        truth = _truth(run, volume)
        if truth is None:
            logger.warning("%s: no true volume; left out.", run.folder)
            continue
        key = (run.case_folder, volume.values.shape)
        if key not in plans:
            plans[key] = _plan(run, truth, regions)
        plan = plans[key]
        if plan is None:
            logger.warning("%s: no flat regions in the true volume; left out.", run.folder)
            continue
        peak = None if volume.window is None else volume.window[1] - volume.window[0]
        found = compare_regions(volume.values, truth.values, plan, volume.voxel_mm, peak)
        _keep(run, "regions", _regions_in_words(found, volume, regions))
        _write_profiles(run, found, volume.unit)
        logger.info("%s: %d regions", run.folder, len(found.regions))


def _has_automatic(run: RunSummary) -> bool:
    return bool(run.downstream.get("regions", {}).get("regions_from") == AUTOMATIC)


def _truth(run: RunSummary, volume: ShownVolume) -> ShownVolume | None:
    """Return the true volume of a run; None where there is none, or one of another size by now."""
    from diffnr_lightning.reports.runs import read_truth

    truth = read_truth(run, volume)
    if truth is None or truth.values.shape == volume.values.shape:
        return truth
    logger.warning(
        "case %s has a true volume of shape %s, run %s one of %s; the case was written anew.",
        *(run.case_folder, truth.values.shape, run.folder, volume.values.shape),
    )
    return None


def _plan(run: RunSummary, truth: ShownVolume, regions: Path | None) -> RegionPlan | None:
    """Return where the runs of a case are looked at; None, with a sentence in the log, where nothing is flat."""
    from diffnr_lightning.downstream import flat_plan, read_regions

    if regions is not None:
        file = regions / f"{run.case}.yaml" if regions.is_dir() else regions
        return read_regions(file, truth.values.shape, truth.voxel_mm, _placed(run))
    try:
        return flat_plan(truth.values, voxel_mm=truth.voxel_mm)
    except ValueError as error:
        logger.warning("case %s: %s", run.case_folder, error)
        return None


def _placed(run: RunSummary) -> Path | None:
    """Return the file of a run's volume where it lies in the world of the case's source, else None."""
    from diffnr_lightning.reports.case_folders import case_metadata
    from diffnr_lightning.reports.runs import VOLUME_FILE

    provenance = case_metadata(run.case_folder).get("provenance") if run.case_folder else None
    known = isinstance(provenance, dict) and provenance.get("frame_origin_mm") is not None
    return run.folder / VOLUME_FILE if known else None


def _regions_in_words(
    found: RegionComparison, volume: ShownVolume, regions: Path | None
) -> dict[str, Any]:
    return {
        "regions_from": AUTOMATIC if regions is None else str(regions),
        "unit": volume.unit,
        "summary": found.summary(),
        "regions": {name: score._asdict() for name, score in found.regions.items()},
        "contrasts": {name: score._asdict() for name, score in found.contrasts.items()},
        "profile_errors": {name: profile.error for name, profile in found.profiles.items()},
        "crops_psnr": dict(found.crops),
    }


def _write_profiles(run: RunSummary, found: RegionComparison, unit: str) -> None:
    from diffnr_lightning.files import write_text
    from diffnr_lightning.reports import profile_curves

    curves, picture = (Path(run.folder) / f"{PROFILE_STEM}.{ending}" for ending in ("csv", "png"))
    if not found.profiles:
        # Those of other regions would be taken for these.
        for file in (curves, picture):
            file.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["line", "distance_mm", "reconstruction", "truth"])
    for name, profile in found.profiles.items():
        for point in zip(*profile, strict=True):
            writer.writerow([name, *(f"{number:.6g}" for number in point)])
    write_text(curves, text.getvalue())
    profile_curves(dict(found.profiles), picture, unit)


def _keep(run: RunSummary, task: str, result: dict[str, Any]) -> None:
    """Put a result beside the run, and leave those of other tasks there."""
    from diffnr_lightning.files import write_json
    from diffnr_lightning.reports.runs import DOWNSTREAM_FILE

    write_json(Path(run.folder) / DOWNSTREAM_FILE, {**run.downstream, task: result})
