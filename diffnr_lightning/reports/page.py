"""One self-contained HTML page in which runs can be looked through and compared.

The volumes travel inside the page as compressed 12-bit values; slicing, windows and error maps
happen in the browser, so that every plane, window and pair of methods can be had from one copy.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffnr_lightning.files import write_bytes
from diffnr_lightning.reports.case_volumes import CaseVolumes, case_volumes
from diffnr_lightning.reports.figures import (
    PRIOR_PICTURE,
    display_window,
    full_window,
    run_labels,
    score_caption,
)
from diffnr_lightning.reports.runs import RunSummary, having_volumes
from diffnr_lightning.reports.table_rows import (
    Column,
    Row,
    ScoreTable,
    best_rows,
    format_cell,
    row_label,
    setting_cells,
)
from diffnr_lightning.reports.tables import score_table

log = logging.getLogger("diffnr")

LEVELS = 4096
# Values this share of the window beyond its ends are still distinguished; those further out are
# clipped.
MARGIN = 0.1
TRUTH_LABEL = "truth"
CURVE_COLOURS = ("#1f8fc0", "#e07a2f", "#3f9e5a", "#b04a8e", "#7a6ad8", "#9a8f2c", "#c44545")

PROTOCOL_NOTES = {
    "r2": "peak 1, not clipped, whole volume; SSIM of 2D slices, three axes, empty slices skipped",
    "naf": "peak 1, not clipped; 3D SSIM, uniform 7³ window, data range 2 (inflated)",
    "strict": "clipped to 0–1, inside the field of view, range of the truth; 3D Gaussian SSIM",
}
COLUMN_NOTES = {
    **{f"{name}_": f"{name}: {text}." for name, text in PROTOCOL_NOTES.items()},
    "views_": "views: projections that were held out, divided by each view's maximum.",
    "chi_": (
        "chi²: squared differences from the photons counted, in standard deviations, mean over rays. Noise alone gives "
        "1; what voxels do not resolve adds to it, behind many photons by far the most, and is allowed for in "
        "\u2018resolved\u2019."
    ),
    "lungs_": (
        "lungs: Dice, and mean distance of the surfaces (ASD), of the lungs that one segmenter finds in the "
        "reconstruction and in the true volume."
    ),
    "prior_unseen": "prior unseen: share of what the prior changed (its energy) that the projections cannot confirm.",
    "evaluations": (
        "evaluations: how often a denoiser of several steps was asked for the whole volume; what overlaps counts as "
        "often as it is seen."
    ),
}
"""What is said below a table that has a column whose key begins so."""


def write_page(
    runs: Sequence[RunSummary],
    out: str | Path,
    *,
    title: str = "Sparse-view reconstructions",
    max_edge: int = 160,
    max_cases: int = 3,
    baseline: str | None = None,
    paper: str | Path | None = None,
) -> Path:
    """Write the page.

    Args:
        runs: finished runs, of one or several cases. Those whose volumes were removed are in the table only.
        out: HTML file, which appears whole or not at all.
        title: heading.
        max_edge: volumes with a longer edge are averaged over blocks of voxels until they fit; the
            page says so.
        max_cases: cases whose volumes are embedded, the first ones; the table always holds all.
        baseline: method with which the others are compared under the table.
        paper: CSV file of published numbers, see `score_table`.

    Returns:
        The path.

    Raises:
        ValueError: no runs, a damaged volume, or a path that cannot be written.
        FileNotFoundError: a paper file that does not exist.
    """
    if max_edge < 1 or max_cases < 0:
        raise ValueError(
            f"max_edge is {max_edge} and max_cases {max_cases}; at least 1 and 0 are expected."
        )
    table = score_table(runs, baseline=baseline, paper=paper)
    shown = having_volumes(runs)
    names = list(dict.fromkeys(run.case for run in shown))
    embedded = names[:max_cases]
    if len(names) > max_cases:
        log.info("the page shows the volumes of %s; its table holds all cases.", embedded)
    cases, blocks = [], []
    for name in embedded:
        description, volumes = _embed(
            case_volumes(name, [run for run in shown if run.case == name]), max_edge, len(blocks)
        )
        cases.append(description)
        blocks.extend(volumes)
    left_out = [name for name in dict.fromkeys(run.case for run in runs) if name not in embedded]
    content = {
        "TITLE": html.escape(title),
        "STYLE": _asset("page.css"),
        "TABLES": _tables(table),
        "PRIORS": _prior_pictures(
            [[run for run in shown if run.case == name] for name in embedded]
        ),
        "LEFT_OUT": _left_out(left_out),
        "DATA": _json({"cases": cases, "levels": LEVELS}),
        "VOLUMES": "\n".join(blocks),
        "SCRIPT": _asset("page.js"),
    }
    # In one pass, so that nothing is looked for inside of what was filled in.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: content[match[1]], _asset("page.html"))
    return write_bytes(Path(out), page.encode())


def _asset(name: str) -> str:
    return resources.files("diffnr_lightning.reports").joinpath(name).read_text(encoding="utf-8")


def _json(content: Any) -> str:
    # A case may be called "</script>"; the escape is the same string to a JSON parser.
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def _embed(case: CaseVolumes, max_edge: int, first: int) -> tuple[dict[str, Any], list[str]]:
    """Return what the script needs to know of a case, and its volumes as elements of the page."""
    low, high = full_window(case.volumes, case.truth)
    margin = MARGIN * (high - low)
    limits = (low - margin, high + margin)
    reference = next(iter(case.volumes.values()))
    factor = math.ceil(max(reference.values.shape) / max_edge)
    everything = {**case.volumes, **({TRUTH_LABEL: case.truth} if case.truth is not None else {})}
    entries, blocks = [], []
    shape: tuple[int, ...] = ()
    for label, volume in everything.items():
        values = block_mean(volume.values, factor)
        shape = values.shape
        identity = f"volume{first + len(blocks)}"
        is_truth = volume is case.truth
        entries.append(
            {
                "label": label,
                "element": identity,
                "truth": is_truth,
                "caption": "" if is_truth else score_caption(case.runs[label]),
                "colour": _curve_colour(len(entries)),
                "history": {} if is_truth else _history(case.runs[label]),
            }
        )
        blocks.append(
            f'<script type="text/plain" id="{identity}">{pack_volume(values, limits)}</script>'
        )
    description = {
        "name": case.name,
        "shape": list(shape),
        # Along an axis shorter than a block the whole axis is one.
        "voxel_mm": [
            edge * min(factor, count)
            for edge, count in zip(reference.voxel_mm, reference.values.shape, strict=True)
        ],
        "unit": reference.unit,
        "limits": list(limits),
        "window": [low, high],
        "first_window": list(display_window(case.volumes, case.truth)),
        "factor": factor,
        "volumes": entries,
    }
    return description, blocks


def block_mean(volume: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average cubes of `factor` voxels.

    Voxels that fill no whole cube at the upper ends are dropped.

    Args:
        volume: (Z, Y, X).
        factor: edge of the cubes; along an axis shorter than this the whole axis is one block.

    Returns:
        (Z // factor, Y // factor, X // factor).
    """
    if factor == 1:
        return volume
    for axis in range(3):
        edge = min(factor, volume.shape[axis])
        count = volume.shape[axis] // edge
        kept = np.take(volume, range(count * edge), axis=axis)
        shape = (*kept.shape[:axis], count, edge, *kept.shape[axis + 1 :])
        volume = kept.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return volume


def pack_volume(volume: NDArray[np.float32], limits: tuple[float, float]) -> str:
    """Quantise a volume to 12 bits between two limits and compress it.

    Differences along x become small unsigned numbers (0, -1, 1, -2, ... to 0, 1, 2, 3, ...), whose
    low and high bytes are compressed one after the other. The page's script undoes it.

    Args:
        volume: (Z, Y, X); values beyond the limits are clipped.
        limits: values of the lowest and the highest level.

    Returns:
        Base64 text.
    """
    low, high = limits
    scaled = (volume.astype(np.float64) - low) * ((LEVELS - 1) / (high - low))
    levels = np.rint(np.clip(scaled, 0, LEVELS - 1)).astype(np.int32).ravel()
    steps = np.diff(levels, prepend=np.int32(0))
    folded = np.where(steps < 0, -2 * steps - 1, 2 * steps).astype(np.uint16)
    planes = (folded & 255).astype(np.uint8).tobytes() + (folded >> 8).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(planes, 6)).decode("ascii")


def _curve_colour(number: int) -> str:
    """Return the colour of the curves of a volume; no two are alike, however many there are."""
    if number < len(CURVE_COLOURS):
        return CURVE_COLOURS[number]
    # Turns by the golden angle come close to no hue before.
    return f"hsl({137.508 * number % 360:.1f} 60% {40 + 15 * (number % 2)}%)"


def _history(run: RunSummary) -> dict[str, list[float | None]]:
    """Return the series of a run with NaN, infinity and what is not known as gaps."""
    return {
        name: [None if value is None or not math.isfinite(value) else value for value in series]
        for name, series in run.history.items()
    }


def _prior_pictures(cases: Sequence[Sequence[RunSummary]]) -> str:
    """Return the pictures of what priors added to the runs of cases, as drawn by them; nothing where none took part."""
    figures = []
    for run, label in (pair for runs in cases for pair in zip(runs, run_labels(runs), strict=True)):
        picture = run.folder / PRIOR_PICTURE
        if not picture.is_file():
            continue
        title = html.escape(f"{run.case}: {label}")
        content = base64.b64encode(picture.read_bytes()).decode("ascii")
        figures.append(
            f'<figure><img alt="{title}" src="data:image/png;base64,{content}">'
            f"<figcaption>{title}</figcaption></figure>"
        )
    if not figures:
        return ""
    return (
        "<section><h2>What the prior added</h2>"
        '<p class="note">Bright is what the projections cannot confirm.</p>'
        f'<div class="pictures">{"".join(figures)}</div></section>'
    )


def _left_out(names: Sequence[str]) -> str:
    if not names:
        return ""
    return (
        '<p class="note">Volumes of these cases are not embedded: '
        f"{html.escape(', '.join(names))}.</p>"
    )


def _tables(table: ScoreTable) -> str:
    several = len({row.case for row in table.cases}) > 1
    parts = [_table(table.means, table, with_case=False)]
    if several or len(table.cases) > len([row for row in table.means if not row.published]):
        parts.append(
            f"<details><summary>Every case ({len(table.cases)} runs)</summary>"
            f"{_table(table.cases, table, with_case=True)}</details>"
        )
    notes = [
        *table.notes,
        *(
            text
            for prefix, text in COLUMN_NOTES.items()
            if any(column.key.startswith(prefix) for column in table.columns)
        ),
    ]
    parts.append(
        f'<ul class="notes">{"".join(f"<li>{html.escape(note)}</li>" for note in notes)}</ul>'
    )
    return "\n".join(parts)


def _groups(columns: Sequence[Column]) -> Mapping[str, list[Column]]:
    groups: dict[str, list[Column]] = {}
    for column in columns:
        head = column.title.split(" ", 1)[0] if " " in column.title else "cost"
        groups.setdefault("cost" if column.key == "peak_memory_mb" else head, []).append(column)
    return groups


def _table(rows: Sequence[Row], table: ScoreTable, with_case: bool) -> str:
    groups = _groups(table.columns)
    ordered = [column for group in groups.values() for column in group]
    best = {} if with_case else {column.key: best_rows(rows, column) for column in ordered}
    heads = [*(["case"] if with_case else []), "method", *table.settings]
    names = "".join(f'<th rowspan="2" class="name">{head}</th>' for head in heads)
    top = "".join(
        f'<th colspan="{len(group)}" class="group">{html.escape(head)}</th>'
        for head, group in groups.items()
    )
    second = "".join(
        f'<th class="{"first" if column is group[0] else ""}">'
        f"{html.escape(column.title.removeprefix(f'{head} '))}</th>"
        for head, group in groups.items()
        for column in group
    )
    body = []
    for position, row in enumerate(rows):
        labels = [*([row.case or ""] if with_case else []), row_label(row)]
        labels += setting_cells(row, table.settings)
        cells = [f'<td class="name">{html.escape(label)}</td>' for label in labels]
        for group in groups.values():
            for column in group:
                marks = ["first"] if column is group[0] else []
                marks += ["best"] if position in best.get(column.key, ()) else []
                cells.append(f'<td class="{" ".join(marks)}">{_cell(row, column)}</td>')
        kind = ' class="published"' if row.published else ""
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{names}'
        f"{top}</tr><tr>{second}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(row: Row, column: Column) -> str:
    text = html.escape(format_cell(row, column, interval=False))
    if column.key not in row.intervals:
        return text
    low, high = row.intervals[column.key]
    return f"{text}<small>{low:.{column.decimals}f} to {high:.{column.decimals}f}</small>"
