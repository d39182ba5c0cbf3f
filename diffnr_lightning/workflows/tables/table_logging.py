"""The table of a sweep or a paper as a run of its own, in the logger and the group of the runs that it is of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.command_line.settings import Settings, configured
from diffnr_lightning.workflows.runs.environment import environment
from diffnr_lightning.workflows.runs.run_logger import log_table, logged_run

Logger = deferred("lightning.pytorch.loggers.logger.Logger")


def group_of(settings: Settings, folder: Path) -> dict[str, str]:
    """Return what puts a run into the group of a folder, where its logger has groups and its config names none.

    `WANDB_RUN_GROUP` goes before the folder.

    Args:
        settings: of a command that has `curves`.
        folder: of the sweep.
    """
    options = (settings.resolved.get("curves") or {}).get("init_args", {})
    if "group" not in options or options["group"] is not None:
        return {}
    return {"curves.init_args.group": os.environ.get("WANDB_RUN_GROUP", str(folder))}


def check_logger(curves: str, folder: Path) -> None:
    """Make the logger of a table, so that what is wrong with it is known before its runs are made.

    Args:
        curves: config files of the logger, joined by `+`.
        folder: of the runs that the table is of.

    Raises:
        FileNotFoundError: a config that is not there.
        ValueError: a config that gives no logger.
        ImportError: a package of the logger that is not installed.
    """
    configured(_logger, [curves], {"out": str(folder)}).arguments  # noqa: B018 - builds it


def log_tables(
    curves: str,
    folder: Path,
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]],
    settings: dict[str, Any],
) -> None:
    """Log tables as a run called like the folder.

    Args:
        curves: config files of the logger, joined by `+`.
        folder: of the runs that the tables are of.
        tables: heads of the columns and rows of cells by the table's name.
        settings: of the command that made them.
    """
    given = {"out": str(folder)}
    read = configured(_logger, [curves], given)
    logger = configured(_logger, [curves], given | group_of(read, folder)).arguments["curves"]
    told = {**settings, "environment": environment()}
    with logged_run(logger, told, folder, "table", [folder.name], alone=True):
        for name, (heads, rows) in tables.items():
            log_table(logger, name, heads, rows)


def _logger(out: Path, curves: Logger) -> None:
    """Name what a config of a logger may hold.

    Args:
        out: folder of the run.
        curves: Lightning logger.
    """
