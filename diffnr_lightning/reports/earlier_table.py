"""A table that was made before: its rows stay beside those of new runs, though its own runs may be gone."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffnr_lightning.files import table_text
from diffnr_lightning.metrics import PROTOCOLS
from diffnr_lightning.reports.provenance import read_provenance
from diffnr_lightning.reports.runs import ScanSetting
from diffnr_lightning.reports.table_rows import COLUMNS, PATIENT, Row, scan_fields

_SCORES = tuple(f"{protocol}_{score}" for protocol in PROTOCOLS for score in ("psnr", "ssim"))


@dataclass(frozen=True)
class EarlierTable:
    """Hold the cases of a table and what is known of their origin.

    Attributes:
        rows: one per case and method; means and published numbers are left out, since they are made anew.
        provenance: as `provenance` returned it for the table; empty where nothing was recorded.
    """

    rows: tuple[Row, ...]
    provenance: Mapping[str, Any]

    def beside(
        self, new: Sequence[Row], untold: Sequence[Row]
    ) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """Join its rows with new ones, which take the places of those of the same method, case and scan.

        Args:
            new: rows of cases; what the table did not have follows at the end.
            untold: the same before anything told them apart. What has their places goes too where one of them is known
                to be of its folder or of its numbers, see `_is_run_again` and `_has_numbers`.

        Returns:
            All rows, and which of them are its own.
        """
        replacing: dict[Hashable, list[Row]] = {}
        for row in new:
            replacing.setdefault(_place(row), []).append(row)
        before: dict[Hashable, list[Row]] = {}
        for row in self.rows:
            before.setdefault(_place(row), []).append(row)
        told: dict[Hashable, list[Row]] = {}
        for row, former in zip(new, untold, strict=True):
            told.setdefault(_place(former), []).append(row)
        replaced = set(replacing)
        replaced |= {
            place
            for place, rows in told.items()
            if _is_run_again(rows, before) or _has_numbers(rows, before, place)
        }
        joined: list[Row] = []
        for row in self.rows:
            place = _place(row)
            joined += replacing.pop(place, []) if place in replaced else [row]
        joined += (row for rows in replacing.values() for row in rows)
        return tuple(joined), tuple(row for row in self.rows if _place(row) not in replaced)


def read_earlier(path: str | Path) -> EarlierTable:
    """Read a table that `write_csv` wrote, with the provenance beside it.

    Args:
        path: CSV file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a field that is no number, or a provenance of another content of the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the earlier table {path} does not exist.")
    reader = csv.DictReader(table_text(path))
    expected = {"method", "case", "kind", *scan_fields(()), "cases"}
    missing = expected - set(reader.fieldnames or ())
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(sorted(missing))}; a CSV file that 'diffnr evaluate' wrote is expected."
        )
    rows = tuple(
        _row(line, f"line {reader.line_num} of {path}")
        for line in reader
        if line["case"] not in ("mean", "paper")
    )
    return EarlierTable(rows, read_provenance(path))


def _place(row: Row) -> Hashable:
    return row.method, row.case, row.setting


def _is_run_again(told: Sequence[Row], before: Collection[Hashable]) -> bool:
    """Whether one of the rows that one place was divided into is of the config of that place, as far as folders say.

    Overlays are named `CONFIG+OVERLAY`, so that it is the one with which the names of all others begin. One that has a
    place of its own in the table of before is no such row.
    """
    names = {_place(row): _folder_told(row) for row in told}
    return any(
        place not in before and all(f"{other}+".startswith(f"{name}+") for other in names.values())
        for place, name in names.items()
    )


def _has_numbers(
    told: Sequence[Row], before: Mapping[Hashable, Sequence[Row]], place: Hashable
) -> bool:
    """Whether what had a place before has the scores of rows that the place was divided into: it is of their runs.

    Rows that have places of their own in the table of before are none of them.
    """
    found = [row.values.items() for row in told if _place(row) not in before]
    former = [
        {key: row.values[key] for key in _SCORES if key in row.values}
        for row in before.get(place, ())
    ]
    return bool(former) and all(
        scores and any(scores.items() <= values for values in found) for scores in former
    )


def _folder_told(row: Row) -> str:
    """Return the last of the folders by which a row is told apart."""
    return (row.setting.scan or row.method[:-1].rpartition(" (")[2]).rpartition("/")[2]


def _row(line: Mapping[str, str], where: str) -> Row:
    setting = ScanSetting(
        views=int(_number(line["views"], where)) if line["views"] else None,
        noise=line["noise"] or None,
        size=line["size"] or None,
        scan=line.get("scan") or None,
    )
    values = {
        column.key: _number(line[column.key], where) for column in COLUMNS if line.get(column.key)
    }
    kind = line["kind"] or None
    # Rows of one name are of one patient, as `told_apart.patients` has it, unless the table numbers patients.
    patient = (line["case"], line.get(PATIENT) or None)
    return Row(
        line["method"], line["case"], 1, values, {}, setting=setting, kind=kind, patient=patient
    )


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where} has '{text}'; a finite number is expected.")
    return number
