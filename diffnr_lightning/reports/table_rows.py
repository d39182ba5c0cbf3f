"""What a score table consists of, and how its cells are written."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffnr_lightning.metrics import PROTOCOLS
from diffnr_lightning.reports.runs import ScanSetting


@dataclass(frozen=True)
class Column:
    """Describe a number of the table.

    Attributes:
        key: column name in CSV files, for example ``r2_psnr``.
        title: what people read.
        decimals: digits printed after the point.
        better: 1 where a higher number is better, -1 where a lower one is, 0 for costs and differences.
        signed: whether a plus is printed.
    """

    key: str
    title: str
    decimals: int
    better: int
    signed: bool = False


@dataclass(frozen=True)
class Row:
    """Hold one line of the table.

    Attributes:
        method: whose.
        case: which, None for a mean over cases.
        count: cases in a mean; 1 for one case, 0 for published numbers.
        values: number by column key; a key is missing where the number is not known.
        intervals: (low, high) by column key, for means over several cases.
        published: whether the numbers come from a paper.
        setting: views, noise and size of its scans, the same for all cases of a mean.
        kind: of object, of a case that a split lists.
        data: set of volumes of published numbers; empty where it is not stated.
        case_folder: of the scan of one case, None where it is not known.
        averaged: names of the cases in a mean, sorted; empty for others.
        patient: whose scan one case is, its name and a number that tells patients of one name apart, as
            `told_apart.patients` says; None where each row is of another one.
        untold: name of the method before anything told its runs apart, by which papers call it; empty where not known.
        unit: of the regions of one case, where they were compared; None where it is not known.
    """

    method: str
    case: str | None
    count: int
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    published: bool = False
    setting: ScanSetting = ScanSetting()
    kind: str | None = None
    data: str = ""
    case_folder: Path | None = None
    averaged: tuple[str, ...] = ()
    patient: tuple[str, Hashable] | None = None
    untold: str = ""
    unit: str | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Hold the whole table.

    Attributes:
        columns: the numbers that at least one run has.
        means: one row per setting and method (and published rows below ours).
        cases: one row per run, or per row of a table made before.
        notes: sentences that belong under the table.
        settings: what of the scans differs between the rows: fields of `ScanSetting`, to be shown as
            columns. What all have in common is in the notes.
        kept: those of `cases` that are of a table made before.
    """

    columns: tuple[Column, ...]
    means: tuple[Row, ...]
    cases: tuple[Row, ...]
    notes: tuple[str, ...]
    settings: tuple[str, ...] = ()
    kept: tuple[Row, ...] = ()


COLUMNS = (
    *(
        column
        for name in PROTOCOLS
        for column in (
            Column(f"{name}_psnr", f"{name} PSNR", 2, 1),
            Column(f"{name}_ssim", f"{name} SSIM", 3, 1),
        )
    ),
    Column("r2_psnr_over_baseline", "Δbaseline r2 PSNR", 2, 0, True),
    Column("r2_ssim_over_baseline", "Δbaseline r2 SSIM", 3, 0, True),
    *(
        column
        for name in PROTOCOLS
        for column in (
            Column(f"{name}_psnr_over_paper", f"Δpaper {name} PSNR", 2, 0, True),
            Column(f"{name}_ssim_over_paper", f"Δpaper {name} SSIM", 3, 0, True),
        )
    ),
    Column("views_psnr", "views PSNR", 2, 1),
    Column("views_ssim", "views SSIM", 3, 1),
    Column("views_relative_l2", "views rel. L2", 4, -1),
    Column("chi_fitted", "chi² fitted", 2, 0),
    Column("chi_left_out", "chi² left out", 2, 0),
    Column("chi_resolved", "chi² resolved", 2, 0),
    Column("prior_unseen", "prior unseen", 2, 0),
    Column("lungs_dice_percent", "lungs Dice %", 2, 1),
    Column("lungs_surface_distance", "lungs ASD mm", 2, -1),
    Column("regions_error", "regions mean error", 2, -1),
    Column("regions_deviation", "regions deviation", 2, -1),
    Column("regions_contrast_percent", "regions contrast %", 1, 0),
    Column("regions_profile_error", "regions profile error", 2, -1),
    Column("evaluations", "evaluations", 0, 0),
    Column("seconds", "seconds", 1, 0),
    Column("peak_memory_mb", "memory MB", 0, 0),
)

PATIENT = "patient"
"""Column of CSV files with the number of `Row.patient`, where patients have one name."""

OF_A_UNIT = ("regions_error", "regions_deviation", "regions_profile_error")
"""Columns in the unit of a case: HU, or one of its own."""


def counted(count: int, noun: str) -> str:
    """Return a number of things in words, such as `1 run` and `2 runs`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def format_cell(row: Row, column: Column, interval: bool = True) -> str:
    """Return a number as text: "31.20 [30.1, 32.4]", or "–" where it is not known."""
    if column.key not in row.values:
        return "–"
    form = f"{'+' if column.signed else ''}.{column.decimals}f"
    text = f"{row.values[column.key]:{form}}"
    if interval and column.key in row.intervals:
        low, high = row.intervals[column.key]
        text += f" [{low:{form}}, {high:{form}}]"
    return text


def row_label(row: Row) -> str:
    """Return the name of a row: the method, marked where the numbers are published ones."""
    if not row.published:
        return row.method
    return f"{row.method} ({', '.join(filter(None, ('paper', row.data)))})"


def scan_fields(rows: Sequence[Row]) -> list[str]:
    """Return the columns that say of which scans rows are; `scan` is one where it tells any of them apart."""
    told = any(row.setting.scan for row in rows)
    return [name for name in ScanSetting._fields if told or name != "scan"]


def have_namesakes(rows: Sequence[Row]) -> bool:
    """Whether rows of one name, method and setting are of several patients."""
    known = {(row.method, row.setting, row.patient) for row in rows if row.patient}
    return len({(method, setting, name) for method, setting, (name, _) in known}) < len(known)


def setting_cells(row: Row, names: Sequence[str]) -> list[str]:
    """Return fields of a row's setting as text, "–" where they are not known."""
    values = [getattr(row.setting, name) for name in names]
    return ["–" if value is None else str(value) for value in values]


def markdown_row(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table; bars and tags in names of cases and methods are text."""
    shown = (cell.replace("|", "\\|").replace("<", "\\<") for cell in cells)
    return f"| {' | '.join(shown)} |"


def best_rows(rows: Sequence[Row], column: Column) -> set[int]:
    """Return the positions of the rows of ours that are best in a column, as they are printed.

    Rows of different settings do not compete, nor do means over different cases.
    """
    printed: dict[tuple[ScanSetting, tuple[str, ...]], dict[int, float]] = {}
    for position, row in enumerate(rows):
        if column.key in row.values and not row.published:
            shown = round(column.better * row.values[column.key], column.decimals)
            printed.setdefault((row.setting, row.averaged), {})[position] = shown
    if column.better == 0:
        return set()
    return {
        position
        for group in printed.values()
        if len(group) > 1
        for position, value in group.items()
        if value == max(group.values())
    }
