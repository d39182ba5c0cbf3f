"""The forms of a score table: lines on a terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffnr_lightning.files import write_bytes
from diffnr_lightning.metrics import PROTOCOLS
from diffnr_lightning.reports.earlier_table import EarlierTable
from diffnr_lightning.reports.provenance import write_provenance
from diffnr_lightning.reports.runs import RunSummary
from diffnr_lightning.reports.table_rows import (
    PATIENT,
    Column,
    Row,
    ScoreTable,
    best_rows,
    format_cell,
    have_namesakes,
    markdown_row,
    row_label,
    scan_fields,
    setting_cells,
)
from diffnr_lightning.reports.tables import score_table
from diffnr_lightning.reports.terminal import Terminal

NARROW_COLUMNS = {
    **{f"{name}\ndB / SSIM": (f"{name}_psnr", f"{name}_ssim") for name in PROTOCOLS},
    "Δbaseline\ndB / SSIM": ("r2_psnr_over_baseline", "r2_ssim_over_baseline"),
    "Δpaper\ndB / SSIM": ("r2_psnr_over_paper", "r2_ssim_over_paper"),
    "lungs\nDice % / mm": ("lungs_dice_percent", "lungs_surface_distance"),
    "regions\nerror / dev.": ("regions_error", "regions_deviation"),
    "contrast\n%": ("regions_contrast_percent",),
    "views\ndB": ("views_psnr",),
    "\ns": ("seconds",),
}
SHORT_COLUMNS = {
    **NARROW_COLUMNS,
    "views\nrel. L2": ("views_relative_l2",),
    "\nMB": ("peak_memory_mb",),
}
WIDE_TERMINAL = 110
ASKED_FOR = ("r2_psnr_over_baseline", "r2_psnr_over_paper", "lungs_dice_percent", "regions_error")
"""Beside what there is less room for protocols on a narrow terminal: differences and downstream tasks."""
OTHER_PROTOCOLS = {f"{name}_psnr" for name in PROTOCOLS if name != "r2"}
"""What gives way to them."""


def print_table(
    runs: Sequence[RunSummary],
    *,
    baseline: str | None = None,
    paper: str | Path | None = None,
    earlier: EarlierTable | None = None,
    console: Console | None = None,
) -> None:
    """Print means, and every case where there are several, to a terminal.

    Args:
        runs: finished runs.
        baseline: see `score_table`.
        paper: see `score_table`.
        earlier: see `score_table`.
        console: where to; standard output by default.

    Raises:
        ValueError: see `score_table`.
    """
    table = score_table(runs, baseline=baseline, paper=paper, earlier=earlier)
    console = console or Terminal()
    parts = [("Mean over cases", table.means)] if _several(table) or not table.cases else []
    for case in dict.fromkeys(row.case for row in table.cases):
        parts.append((case or "", tuple(row for row in table.cases if row.case == case)))
    if not _several(table):
        parts = [(parts[0][0], table.means)]
    for title, rows in parts:
        console.print(_rich_table(title, rows, table, console.width))
    hidden = _hidden_protocols(table, console.width)
    room = f"{' and '.join(hidden)}: in a terminal of {WIDE_TERMINAL} characters, or in the files of --out."
    for note in [*table.notes, *([room] if hidden else [])]:
        console.print(note, highlight=False, markup=False)


def _hidden_protocols(table: ScoreTable, width: int) -> list[str]:
    """Return the protocols that find no room, as names of methods need it where there is more to be said."""
    known = {column.key for column in table.columns}
    if width >= WIDE_TERMINAL or not (table.settings or known & set(ASKED_FOR)):
        return []
    return [key.removesuffix("_psnr") for key in sorted(known & OTHER_PROTOCOLS)]


def _several(table: ScoreTable) -> bool:
    return len({row.case for row in table.cases}) > 1 or any(row.count > 1 for row in table.means)


def _rich_table(title: str, rows: Sequence[Row], table: ScoreTable, width: int) -> Table:
    shown = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    shown.add_column("method", overflow="fold")
    for name in table.settings:
        shown.add_column(name, justify="right")
    known = {column.key: column for column in table.columns}
    # PSNR and SSIM share a cell, so that all protocols fit into a terminal of 80 characters.
    short = SHORT_COLUMNS if width >= WIDE_TERMINAL else NARROW_COLUMNS
    hidden = {f"{name}_psnr" for name in _hidden_protocols(table, width)}
    short = {head: keys for head, keys in short.items() if not set(keys) & hidden}
    cells = {head: [known[key] for key in keys if key in known] for head, keys in short.items()}
    cells = {head: group for head, group in cells.items() if group}
    for head in cells:
        shown.add_column(head, justify="right", no_wrap=True)
    best = {key: best_rows(rows, column) for key, column in known.items()}
    for position, row in enumerate(rows):
        shown.add_row(
            Text(row_label(row)),
            *setting_cells(row, table.settings),
            *(_short_cell(row, group, position, best) for group in cells.values()),
            style="dim" if row.published else None,
        )
    return shown


def _short_cell(
    row: Row, pair: Sequence[Column], position: int, best: Mapping[str, set[int]]
) -> Text:
    cell = Text()
    for column in pair:
        mark = "bold green" if position in best.get(column.key, ()) else ""
        cell.append(" / " if cell else "").append(format_cell(row, column, interval=False), mark)
    return cell


def to_markdown(table: ScoreTable) -> str:
    """Return the table as Markdown: means with intervals, then every case, then the notes."""
    names = list(table.settings)
    means = [(_labels(row, names), row) for row in table.means]
    lines = _markdown_rows(["method", *names], means, table.columns)
    if _several(table):
        cases = [([row.case or "", *_labels(row, names)], row) for row in table.cases]
        lines += ["", *_markdown_rows(["case", "method", *names], cases, table.columns)]
    if table.notes:
        lines += ["", *(f"{note}  " for note in table.notes)]
    return "\n".join(lines) + "\n"


def _labels(row: Row, names: Sequence[str]) -> list[str]:
    return [row_label(row), *setting_cells(row, names)]


def _markdown_rows(
    heads: Sequence[str], rows: Sequence[tuple[Sequence[str], Row]], columns: Sequence[Column]
) -> list[str]:
    return [
        markdown_row([*heads, *(column.title for column in columns)]),
        markdown_row(["---"] * len(heads) + ["---:"] * len(columns)),
        *(
            markdown_row([*labels, *(format_cell(row, column) for column in columns)])
            for labels, row in rows
        ),
    ]


def plain_rows(
    table: ScoreTable, rows: Sequence[Row]
) -> tuple[list[str], list[list[str | float | None]]]:
    """Return heads and cells of rows in full precision, as services take tables.

    Args:
        table: that they are of.
        rows: its means or its cases.
    """
    scan = scan_fields(table.cases)
    heads = ["method", "case", *scan, "cases", *(column.key for column in table.columns)]
    cells = [
        [
            row_label(row),
            row.case or "mean",
            *(getattr(row.setting, name) for name in scan),
            row.count,
            *(row.values.get(column.key) for column in table.columns),
        ]
        for row in rows
    ]
    return heads, cells


def write_tables(
    runs: Sequence[RunSummary],
    folder: str | Path,
    *,
    baseline: str | None = None,
    paper: str | Path | None = None,
    earlier: EarlierTable | None = None,
) -> tuple[Path, Path]:
    """Write the table as ``table.md`` and ``table.csv``, and where it comes from as ``table.provenance.json``.

    Args:
        runs: finished runs.
        folder: where to; made where it is missing.
        baseline: see `score_table`.
        paper: see `score_table`.
        earlier: see `score_table`.

    Returns:
        The first two paths.

    Raises:
        ValueError: see `score_table`, or a folder that cannot be written.
    """
    table = score_table(runs, baseline=baseline, paper=paper, earlier=earlier)
    markdown = write_bytes(Path(folder) / "table.md", to_markdown(table).encode())
    written = write_csv(table, Path(folder) / "table.csv")
    before = earlier.provenance if earlier is not None else {}
    write_provenance(runs, written, table.kept, before)
    return markdown, written


def write_csv(table: ScoreTable, path: str | Path) -> Path:
    """Write every case and the means as CSV with full precision, whole or not at all.

    Args:
        table: what to write.
        path: the file; its folder is made where it is missing.

    Returns:
        The path.

    Raises:
        ValueError: a path that cannot be written.
    """
    keys = [column.key for column in table.columns]
    ends = ("", "_low", "_high")
    scan = scan_fields(table.cases)
    namesakes = have_namesakes(table.cases)
    fields = ["method", "case", "kind", *scan, *([PATIENT] if namesakes else []), "cases"]
    fields += [f"{key}{end}" for key in keys for end in ends]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for row in (*table.cases, *table.means):
        line: dict[str, object] = {"method": row_label(row) if row.published else row.method}
        line["case"] = row.case if row.case is not None else ("paper" if row.published else "mean")
        line["kind"] = row.kind or ""
        line |= {name: value for name, value in row.setting._asdict().items() if value is not None}
        if namesakes and row.patient:
            line[PATIENT] = row.patient[1]
        line["cases"] = row.count
        for key, value in row.values.items():
            line[key] = repr(value)
        for key, (low, high) in row.intervals.items():
            line[f"{key}_low"], line[f"{key}_high"] = repr(low), repr(high)
        writer.writerow(line)
    return write_bytes(Path(path), text.getvalue().encode())
