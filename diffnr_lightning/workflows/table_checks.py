"""What is wrong with a table's commands, known before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from diffnr_lightning.workflows.curation import curate
from diffnr_lightning.workflows.denoiser_training import train_denoiser
from diffnr_lightning.workflows.experiment import Experiment, ExperimentRow, Training
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.scanning import simulate
from diffnr_lightning.workflows.settings import configured, parse
from diffnr_lightning.workflows.finetuning import finetune


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
    """Read the commands of a training that is to be run.

    Args:
        training: of a row.
        words: its command where it is run, without `diffnr`.
        curation: the command that makes its pairs, if it learns from such, likewise.

    Raises:
        FileNotFoundError: a config or file that is not there.
        ValueError: configs that the commands cannot take.
    """
    if training.finished:
        return
    if training.pairs:
        parse(curate, curation[1:], build=False)
    parse(training_command(words), words[1:], build=False)
