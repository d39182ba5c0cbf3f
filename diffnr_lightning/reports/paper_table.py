"""Published numbers and ours, line by line: what `diffnr table` prints and writes."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffnr_lightning.files import write_bytes
from diffnr_lightning.reports.paired_difference import bootstrap_interval
from diffnr_lightning.reports.published import PublishedNumber
from diffnr_lightning.reports.runs import RunSummary
from diffnr_lightning.reports.table_rows import COLUMNS, Column, Row, markdown_row
from diffnr_lightning.reports.tables import score_table
from diffnr_lightning.reports.terminal import Terminal
from diffnr_lightning.reports.told_apart import patients

ALL = "all"
SHOWN = (
    "r2_psnr",
    "r2_ssim",
    "lungs_dice_percent",
    "lungs_surface_distance",
    "regions_error",
    "regions_deviation",
    "regions_contrast_percent",
    "regions_profile_error",
)
"""Columns of ours that are shown whether or not a paper has them."""

_COLUMNS = {column.key: column for column in COLUMNS}


class RowRuns(NamedTuple):
    """Hold the runs of one row of a table.

    Attributes:
        name: of the method, as the paper calls it.
        runs: finished ones, by set of data.
        remark: what is to be said of the row, such as why it was not run.
    """

    name: str
    runs: Mapping[str, Sequence[RunSummary]]
    remark: str = ""


class PaperLine(NamedTuple):
    """Hold one number of a table, as published and as found here.

    Attributes:
        method: of the paper.
        data: set of volumes; `ALL` for numbers that are of all sets.
        views: projections, None for numbers that are of all.
        noise: of our scans, in words.
        protocol: of the metric.
        metric: title.
        published: by the paper, None where it has none.
        ours: mean over cases, None where there is none.
        interval: of that mean, bootstrap over cases; None for less than two.
        cases: in that mean.
        seconds: mean wall time of the runs behind it.
        decimals: that are shown.
        remark: see `RowRuns`.
        comparable: whether ours is of such volumes that the two may be subtracted.
        size: of our scans, in voxels along the edges.
        scan: see `ScanSetting`.
    """

    method: str
    data: str
    views: int | None
    noise: str | None
    protocol: str
    metric: str
    published: float | None
    ours: float | None
    interval: tuple[float, float] | None
    cases: int
    seconds: float | None
    decimals: int
    remark: str
    comparable: bool = True
    size: str | None = None
    scan: str | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the published number, None where one of them is missing or they do not compare."""
        if self.ours is None or self.published is None or not self.comparable:
            return None
        return self.ours - self.published


def paper_lines(
    rows: Sequence[RowRuns],
    published: Sequence[PublishedNumber],
    seed: int = 0,
    views: Sequence[int] | None = None,
) -> list[PaperLine]:
    """Set published numbers and ours side by side.

    Args:
        rows: of the table, in its order.
        published: numbers of the paper, matched by method, data and views.
        seed: of the bootstrap intervals.
        views: numbers of views that are shown alone, where the runs are of some of a table; None is all. Numbers that
            are of all views are shown without a difference then.

    Returns:
        A line for each number that is published or found, row by row; what no row is called comes last.
    """
    if views is not None:
        published = [number for number in published if number.views in (None, *views)]
    lines: list[PaperLine] = []
    for row in rows:
        numbers = [number for number in published if number.method == row.name]
        used: set[PublishedNumber] = set()
        for data, runs in row.runs.items():
            means = score_table(runs, seed=seed).means if runs else ()
            for mean in means:
                lines += _found(row, data, mean, numbers, used, views is None)
        costs = [number for number in numbers if number.metric == "seconds"]
        lines += [_cost(row, n, seed, views is None or n.views is not None) for n in costs]
        left = [n for n in numbers if n not in used and n.metric != "seconds"]
        lines += [_not_found(n, row.remark) for n in left]
    named = {row.name for row in rows}
    lines += [_not_found(n, "no row of this table") for n in published if n.method not in named]
    return lines


def _found(
    row: RowRuns,
    data: str,
    mean: Row,
    numbers: Sequence[PublishedNumber],
    used: set[PublishedNumber],
    of_all: bool,
) -> list[PaperLine]:
    """Return the lines of one mean of ours, and add what is published of it to `used`.

    `of_all` says whether numbers of all views may be subtracted.
    """
    matching = {
        n.column: n
        for n in numbers
        if n.metric != "seconds" and n.data in ("", data) and n.views in (None, mean.setting.views)
    }
    used.update(matching.values())
    keys = [key for key in _COLUMNS if key in matching or (key in SHOWN and key in mean.values)]
    return [
        PaperLine(
            row.name,
            data,
            mean.setting.views,
            mean.setting.noise,
            _protocol(key, matching.get(key)),
            _metric(_COLUMNS[key]),
            matching[key].value if key in matching else None,
            mean.values.get(key),
            mean.intervals.get(key),
            mean.count,
            mean.values.get("seconds"),
            _COLUMNS[key].decimals,
            row.remark,
            comparable=of_all or key not in matching or matching[key].views is not None,
            size=mean.setting.size,
            scan=mean.setting.scan,
        )
        for key in keys
    ]


def _cost(row: RowRuns, number: PublishedNumber, seed: int, comparable: bool) -> PaperLine:
    """Return the line of a published time, beside the mean over cases of the runs that it is of."""
    seconds: dict[Hashable, list[float]] = {}
    for data, runs in row.runs.items():
        for run, patient in zip(runs, patients(runs), strict=True):
            of_number = number.data in ("", data) and number.views in (None, run.setting.views)
            if of_number and run.seconds is not None:
                seconds.setdefault((data, patient), []).append(run.seconds)
    # Runs of one volume with several numbers of views say nothing of further volumes.
    each = [fmean(found) for found in seconds.values()]
    mean = fmean(each) if each else None
    interval = bootstrap_interval(each, seed) if len(each) > 1 else None
    return _not_found(number, row.remark)._replace(
        ours=mean, interval=interval, cases=len(each), seconds=mean, comparable=comparable
    )


def _not_found(number: PublishedNumber, remark: str) -> PaperLine:
    column = _COLUMNS[number.column]
    return PaperLine(
        number.method,
        number.data or ALL,
        number.views,
        None,
        _protocol(number.column, number),
        _metric(column),
        number.value,
        None,
        None,
        0,
        None,
        column.decimals,
        remark,
    )


def _protocol(key: str, number: PublishedNumber | None) -> str:
    if key == "seconds":
        return ""
    protocol = key.partition("_")[0]
    stated = number is None or number.protocol
    return protocol if stated else f"{protocol}, not stated"


def _metric(column: Column) -> str:
    return column.title if " " not in column.title else column.title.partition(" ")[2]


HEADS = ("method", "data", "views", "noise", "size", "scan", "protocol", "metric")
TELLING = ("size", "scan")
"""What is shown only where it tells lines apart."""
NARROW = ("noise", "protocol", "95 % interval", "cases", "seconds")
"""What a terminal of less than `WIDE` characters has no room for."""
WIDE = 110
FIGURES = ("published", "ours", "difference", "95 % interval", "cases", "seconds")


def _heads(lines: Sequence[PaperLine]) -> list[str]:
    """Return the columns before the figures."""
    return [head for head in HEADS if head not in TELLING or _tells_apart(head, lines)]


def _tells_apart(name: str, lines: Sequence[PaperLine]) -> bool:
    """Whether our scans differ in a field; costs, which are of no protocol, are of several scans and have none."""
    found = {getattr(line, name) for line in lines if line.ours is not None and line.protocol}
    return len(found) > 1


def _cells(line: PaperLine, heads: Sequence[str]) -> list[str]:
    def shown(value: float | None, sign: str = "") -> str:
        return "–" if value is None else f"{value:{sign}.{line.decimals}f}"

    said = [str(getattr(line, head) or (ALL if head == "views" else "–")) for head in heads]
    interval = "–" if line.interval is None else " to ".join(map(shown, line.interval))
    seconds = "–" if line.seconds is None else f"{line.seconds:.1f}"
    return [
        *said,
        *(shown(line.published), shown(line.ours), shown(line.difference, "+")),
        *(interval, str(line.cases), seconds),
    ]


def print_paper_table(
    title: str, lines: Sequence[PaperLine], notes: Sequence[str], console: Console | None = None
) -> None:
    """Print the table to a terminal, a method once above its numbers, and what is to be said of rows once.

    Args:
        title: of the table.
        lines: see `paper_lines`.
        notes: sentences under the table.
        console: where to; standard output by default.
    """
    console = console or Terminal()
    shown = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    names = _heads(lines)
    heads = (*names, *FIGURES)
    left_out = {"method", *(("noise", "95 % interval") if console.width >= WIDE else NARROW)}
    if _tells_apart("noise", lines):
        left_out.discard("noise")  # which would be all that tells some lines apart
    kept = [position for position, head in enumerate(heads) if head not in left_out]
    for position in kept:
        figure = position >= len(names)
        justify = "right" if figure else "left"
        shown.add_column(heads[position], justify=justify, no_wrap=figure, overflow="fold")
    above = None
    for line in lines:
        if line.method != above:
            shown.add_row(Text(line.method, style="bold"), *[""] * (len(kept) - 1))
            above = line.method
        cells = _cells(line, names)
        shown.add_row(*(Text(cells[position]) for position in kept))
    console.print(shown)
    for note in [*notes, *_remarks(lines)]:
        console.print(note, highlight=False, markup=False)


def _remarks(lines: Sequence[PaperLine]) -> list[str]:
    return list(dict.fromkeys(f"{line.method}: {line.remark}." for line in lines if line.remark))


def remarks_without_lines(rows: Sequence[RowRuns], lines: Sequence[PaperLine]) -> list[str]:
    """Return what is to be said of rows without a line, as of one that failed and that no paper has, as notes.

    Args:
        rows: of the table.
        lines: of them, see `paper_lines`.
    """
    shown = {line.method for line in lines}
    return [f"{row.name}: {row.remark}." for row in rows if row.remark and row.name not in shown]


def write_paper_table(
    folder: str | Path, title: str, lines: Sequence[PaperLine], notes: Sequence[str]
) -> Path:
    """Write ``table.md``, ``table.csv`` (full precision) and ``table.html``.

    Args:
        folder: made where it is missing.
        title: of the table.
        lines: see `paper_lines`.
        notes: sentences under the table.

    Returns:
        The page.

    Raises:
        ValueError: a folder that cannot be written.
    """
    said = [*notes, *_remarks(lines)]
    write_bytes(Path(folder) / "table.md", _markdown(title, lines, said).encode())
    write_bytes(Path(folder) / "table.csv", _csv(lines).encode())
    return write_bytes(Path(folder) / "table.html", _page(title, lines, said).encode())


def plain_lines(lines: Sequence[PaperLine]) -> tuple[list[str], list[list[str | float | None]]]:
    """Return heads and cells in full precision, as services take tables.

    Args:
        lines: see `paper_lines`.
    """
    names = _heads(lines)
    heads = [*names, *FIGURES[:3], "low", "high", "cases", "seconds", "remark"]
    cells = [
        [
            *(getattr(line, name) for name in names),
            *(line.published, line.ours, line.difference),
            *(line.interval or (None, None)),
            *(line.cases, line.seconds, line.remark),
        ]
        for line in lines
    ]
    return heads, cells


def _markdown(title: str, lines: Sequence[PaperLine], notes: Sequence[str]) -> str:
    names = _heads(lines)
    rule = ["---"] * len(names) + ["---:"] * len(FIGURES)
    rows = [(*names, *FIGURES), rule, *(_cells(line, names) for line in lines)]
    table = [markdown_row(row) for row in rows]
    return "\n".join([f"# {title}", "", *table, "", *(f"{note}  " for note in notes)]) + "\n"


def _csv(lines: Sequence[PaperLine]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads, rows = plain_lines(lines)
    writer.writerow(heads)
    for row in rows:
        writer.writerow("" if cell is None else cell for cell in row)
    return text.getvalue()


def _page(title: str, lines: Sequence[PaperLine], notes: Sequence[str]) -> str:
    style = resources.files("diffnr_lightning.reports").joinpath("page.css").read_text("utf-8")
    heads = _heads(lines)
    top = [
        *(f'<th class="name">{head}</th>' for head in heads),
        *(f"<th>{f}</th>" for f in FIGURES),
    ]
    body = []
    for line in lines:
        cells = [html.escape(cell) for cell in _cells(line, heads)]
        names = [f'<td class="name">{cell}</td>' for cell in cells[: len(heads)]]
        figures = [f"<td>{cell}</td>" for cell in cells[len(heads) :]]
        body.append(f"<tr>{''.join(names + figures)}</tr>")
    said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{style}</style></head>\n<body><header><h1>{html.escape(title)}</h1></header>\n<main>\n"
        f'<div class="scroll"><table><thead><tr>{"".join(top)}</tr></thead>\n<tbody>'
        + "\n".join(body)
        + f'</tbody></table></div>\n<ul class="notes">{said}</ul>\n</main></body></html>\n'
    )
