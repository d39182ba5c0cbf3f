"""What is wrong with a table's commands and trained networks, known before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffnr_lightning.workflows.command_line.config_files import config_files, joined
from diffnr_lightning.workflows.command_line.settings import configured, parse
from diffnr_lightning.workflows.curation import curate
from diffnr_lightning.workflows.denoiser_training import train_denoiser
from diffnr_lightning.workflows.finetuning import finetune
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.runs.run_folder import (
    CONFIG,
    FREE_KEYS,
    FREE_WHEN_FINISHED,
    difference,
)
from diffnr_lightning.workflows.scanning import simulate
from diffnr_lightning.workflows.tables.experiment import Experiment, ExperimentRow, Training

logger = logging.getLogger("diffnr")

# Pairs lie in the folder of the table, which may have moved.
_PAIRS = ("data.folders", "data.init_args.folders")


def training_command(words: Sequence[str]) -> Callable[..., Path]:
    """Return the workflow of a training's command, given without `diffnr`."""
    return finetune if words[0] == "finetune" else train_denoiser


def check_scans(experiment: Experiment, folder: Path) -> None:
    """Read the configs of all scans.

    Raises:
        FileNotFoundError: a config that is not there.
        ValueError: a config that `simulate` cannot take.
    """
    for part in experiment.parts:
        for scan in part.scans:
            given = {"volume": "phantom:0", "num_views": part.views[0], "out": folder}
            configured(simulate, [scan], given)


def check_method(row: ExperimentRow, folder: Path) -> None:
    """Read the configs of a row's method, with those of the networks that it learns, which are written by now.

    Raises:
        FileNotFoundError: a config that is not there.
        ValueError: a config that `reconstruct` cannot take.
    """
    configured(reconstruct, [row.entry(folder)], {"case": folder, "out": folder})


def check_training(training: Training, words: Sequence[str], curation: Sequence[str]) -> None:
    """Read the commands of a training that is to be run, or compare one that is finished with its configs.

    Args:
        training: of a row.
        words: its command where it is run, without `diffnr`.
        curation: the command that makes its pairs, if it learns from such, likewise.

    Raises:
        FileNotFoundError: a config or file that is not there.
        ValueError: configs that the commands cannot take, or a network that was trained by others.
    """
    if training.finished:
        _refuse_other_settings(training)
        return
    if training.pairs:
        parse(curate, curation[1:], build=False)
    parse(training_command(words), words[1:], build=False)


def refuse_what_cannot_be_submitted(
    cluster: str,
    rows: Sequence[ExperimentRow],
    runnable: Sequence[ExperimentRow],
    failed: Mapping[str, str],
    folder: Path,
) -> None:
    """Refuse to hand rows over to a cluster that has nothing to run of them, or that learn a network first.

    Args:
        cluster: that is asked for.
        rows: that are wanted.
        runnable: those of them that have a method and passed their checks.
        failed: why others did not, by their names.
        folder: of the table.

    Raises:
        ValueError: no row that can be run, or untrained networks.
    """
    if not runnable:
        reasons = [f"{row.name}: {failed.get(row.name) or row.reason}" for row in rows]
        raise ValueError(
            f"submit is {cluster!r}, but no row can be run ({'; '.join(reasons)}); other rows are expected."
        )
    untrained = [
        row.name
        for row in runnable
        if not all(training.finished for training in row.trainings(folder))
    ]
    if untrained:
        raise ValueError(
            f"submit is {cluster!r}, but {', '.join(untrained)} have networks to be trained first; without --submit "
            "the same command trains them, and --plan true shows how."
        )


def warn_of_other_settings(rows: Sequence[ExperimentRow], folder: Path) -> None:
    """Warn of finished networks that a table would refuse if it were to run anything.

    Args:
        rows: of the table.
        folder: of the table.
    """
    for row in rows:
        for training in row.trainings(folder):
            try:
                if training.finished:
                    _refuse_other_settings(training)
            except (ImportError, OSError, TypeError, ValueError) as error:
                logger.warning("%s: %s", row.name, error)


def _refuse_other_settings(training: Training) -> None:
    record = training.folder / CONFIG
    if not record.is_file():
        return  # a network that was put there
    before = yaml.safe_load(record.read_text(encoding="utf-8"))
    if "out" not in before:
        logger.warning(
            "%s holds a network that was trained from Python; whether by the settings of its config is not known",
            training.folder,
        )
        return
    config = training.words[training.words.index("--config") + 1]
    pairs = {"data.folders": []} if training.pairs else {}
    command = training_command(training.words)
    now = configured(command, [config], {"out": training.folder, **pairs}).resolved
    free = (*FREE_KEYS, *FREE_WHEN_FINISHED, *_PAIRS)
    if changed := difference(before, _comparable(now, before, _content(config)), free):
        raise ValueError(
            f"{training.folder} holds a network that was trained with {changed}; give another --out, or remove that "
            "folder to train it again."
        )


def _comparable(now: Any, before: Any, given: Any) -> Any:
    """Leave out what neither a record nor a config says: defaults of options that are newer than the record."""
    if not (isinstance(now, dict) and isinstance(before, dict)):
        return now
    given = given if isinstance(given, dict) else {}
    return {
        key: _comparable(value, before.get(key), given.get(key))
        for key, value in now.items()
        if key in before or key in given
    }


def _content(config: str) -> dict[str, Any]:
    """Return what config files say together, nested as they nest it."""
    merged: dict[str, Any] = {}
    for path in config_files(config):
        merged = joined(merged, yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    return merged
