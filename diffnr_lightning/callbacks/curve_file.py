"""Curves in a CSV file that an interrupted run goes on with."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffnr_lightning.files import write_text


class CurveFile(Logger):
    """Write one row for each call, as Lightning's CSVLogger does, and keep what was there.

    Rows at or after the step of the first call are replaced: a run that goes on from a checkpoint
    makes them again. Every row is in the file when the call returns.

    Args:
        path: the CSV file; its folder is made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """There are no versions: a run has one file."""
        return ""

    @property
    def log_dir(self) -> str:
        """Folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row.

        Args:
            metrics: number by name.
            step: batches done.

        Raises:
            ValueError: what the file held before is damaged.
        """
        row = {name: float(value) for name, value in metrics.items()} | {"step": step}
        if self._columns is None:
            self._rewrite(self._rows_before(step), row)
        elif not row.keys() <= set(self._columns):
            self._rewrite(self._rows_before(None), row)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines(self._columns, [row]))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the run folder holds the settings."""

    def _rows_before(self, step: int | None) -> list[dict[str, str]]:
        """Return the rows of the file up to a step; None is all of them."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]  # a kill may have left half a line
        try:
            rows = list(csv.DictReader(io.StringIO(whole), strict=True))
            if any(None in row or None in row.values() for row in rows):
                raise ValueError("rows of several lengths")
            return rows if step is None else [row for row in rows if int(row["step"]) < step]
        except (ValueError, KeyError, csv.Error) as error:
            raise ValueError(
                f"the curves {self.path} are damaged; remove them, and the run goes on with new ones."
            ) from error

    def _rewrite(self, rows: list[dict[str, Any]], new: Mapping[str, Any]) -> None:
        """Write header and rows, with columns for what is in them and in a new row."""
        self._columns = sorted(set(new).union(*rows))
        header = _lines(self._columns, [dict(zip(self._columns, self._columns, strict=True))])
        write_text(self.path, header + _lines(self._columns, rows))


def _lines(columns: list[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
