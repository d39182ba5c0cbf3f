"""Numbers that papers published, from CSV files such as `experiments/diffnr/1/paper.csv`."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from diffnr_lightning.files import table_text

METRICS = ("psnr", "ssim", "dice_percent", "surface_distance", "seconds")
UNSTATED = "r2"
"""The protocol under which a number stands whose paper names none."""

_LUNGS = "lungs"
_ON_GREY_VALUES = ("r2", "naf", "strict")
_PROTOCOLS = {
    "psnr": _ON_GREY_VALUES,
    "ssim": _ON_GREY_VALUES,
    "dice_percent": (_LUNGS,),
    "surface_distance": (_LUNGS,),
    "seconds": (*_ON_GREY_VALUES, _LUNGS),
}
"""By which each metric is measured. A time has none, but stands beside numbers that have one."""
_DESCRIPTIONS = ("table", "method", "data", "views", "protocol", "source")


class PublishedNumber(NamedTuple):
    """Hold one number of a paper.

    Attributes:
        table: of the paper, in the paper's words; empty where there is one.
        method: whose number it is.
        data: set of volumes; empty for a number that is of all sets.
        views: projections; None for a number that is of all numbers of views.
        protocol: how it was measured, as `metrics.PROTOCOLS` or `lungs`; empty where that is not stated.
        metric: one of `METRICS`.
        value: as published: dB, an index, %, mm (voxels?) or seconds.
        source: paper and table.
    """

    table: str
    method: str
    data: str
    views: int | None
    protocol: str
    metric: str
    value: float
    source: str

    @property
    def column(self) -> str:
        """Key of the column of our tables that measures the same."""
        if self.metric == "seconds":
            return "seconds"
        only = _LUNGS if _PROTOCOLS[self.metric] == (_LUNGS,) else UNSTATED
        return f"{self.protocol or only}_{self.metric}"


def read_published(path: str | Path) -> tuple[PublishedNumber, ...]:
    """Read published numbers.

    Args:
        path: CSV file with the column `method`; `metric` and `value`, a line for each number, or a column for each
            metric (psnr, ssim, ...); and, where they tell numbers apart, table, data, views, protocol, source.

    Returns:
        One entry per number, in the order of the file; empty cells are no numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: other columns or fields, an unknown metric, a protocol that is not one of its metric, or a value or
            number of views that is no number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the file of published numbers {path} does not exist.")
    reader = csv.DictReader(table_text(path))
    columns = set(reader.fieldnames or ())
    one_each = {"metric", "value"} <= columns
    measured = ("metric", "value") if one_each else tuple(m for m in METRICS if m in columns)
    if "method" not in columns or not measured or columns - {*_DESCRIPTIONS, *measured}:
        raise ValueError(
            f"{path} has the columns {', '.join(sorted(columns))}; method with metric and value, or with any of "
            f"{', '.join(METRICS)}, and none but {', '.join(_DESCRIPTIONS)} besides are expected."
        )
    numbers = []
    for line in reader:
        where = f"line {reader.line_num} of {path}"
        if None in line:
            raise ValueError(
                f"{where} has more fields than the {len(columns)} columns; points in numbers, and quotes around text "
                "with commas, are expected."
            )
        cells = {line["metric"]: line["value"]} if one_each else {m: line[m] for m in measured}
        numbers += [_number(line, m, cell, where) for m, cell in cells.items() if cell]
    return tuple(numbers)


def _number(line: Mapping[str, str], metric: str, value: str, where: str) -> PublishedNumber:
    said = {name: (line.get(name) or "").strip() for name in _DESCRIPTIONS}
    if metric not in METRICS:
        raise ValueError(
            f"{where} names the metric '{metric}'; one of {', '.join(METRICS)} is expected."
        )
    if said["protocol"] not in ("", *_PROTOCOLS[metric]):
        raise ValueError(
            f"{where} names the protocol '{said['protocol']}' for {metric}; {' or '.join(_PROTOCOLS[metric])}, or "
            "none, is expected."
        )
    try:
        views = int(said["views"]) if said["views"] else None
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"{where} has value '{value}' and views '{said['views']}'; numbers are expected."
        )
    return PublishedNumber(
        said["table"],
        said["method"],
        said["data"],
        views,
        said["protocol"],
        metric,
        number,
        said["source"],
    )
