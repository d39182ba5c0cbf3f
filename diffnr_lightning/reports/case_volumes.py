"""The volumes of one case on one grid, ready to be shown beside each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from diffnr_lightning.reports.figures import run_labels
from diffnr_lightning.reports.runs import (
    RunSummary,
    ShownVolume,
    of_one_volume,
    read_truth,
    read_volume,
)

log = logging.getLogger("diffnr")


@dataclass(frozen=True, eq=False)
class CaseVolumes:
    """Hold what is shown of a case.

    Attributes:
        name: of the case.
        volumes: on one grid, by the labels of their runs.
        truth: of all of them, None where it is not known.
        runs: that made them, by their labels.
    """

    name: str
    volumes: dict[str, ShownVolume]
    truth: ShownVolume | None
    runs: dict[str, RunSummary]


def case_volumes(name: str, runs: Sequence[RunSummary]) -> CaseVolumes:
    """Read the volumes of a case; those on another grid or of another truth than the first cannot be shown with it.

    Args:
        name: of the case.
        runs: finished ones of it that have their volumes.
    """
    volumes: dict[str, ShownVolume] = {}
    shown: dict[str, RunSummary] = {}
    truth: ShownVolume | None = None
    for run, label in zip(runs, run_labels(runs), strict=True):
        volume = read_volume(run)
        shape = volume.values.shape
        first = next(iter(volumes.values()), volume)
        if shape != first.values.shape or volume.unit != first.unit:
            log.warning(
                "run %s has shape %s in %s, the first run of its case %s in %s; it is in the table "
                "only.",
                run.folder,
                shape,
                volume.unit,
                first.values.shape,
                first.unit,
            )
            continue
        own = read_truth(run, volume)
        if own is not None and own.values.shape != shape:
            log.warning(
                "the truth of case %s has shape %s, its runs %s; they are shown without it.",
                name,
                own.values.shape,
                shape,
            )
            own = None
        if own and truth and not of_one_volume(own, truth):
            log.warning(
                "run %s is of another volume than the first run of its case %s; it is in the table only.",
                run.folder,
                name,
            )
            continue
        truth = truth or own
        volumes[label], shown[label] = volume, run
    return CaseVolumes(name, volumes, truth, shown)
