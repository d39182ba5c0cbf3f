"""One table of runs under all metric protocols: means over cases with intervals, and every case."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from diffnr_lightning.metrics import PROTOCOLS
from diffnr_lightning.reports.earlier_table import EarlierTable
from diffnr_lightning.reports.paired_difference import bootstrap_interval, paired_difference
from diffnr_lightning.reports.published import UNSTATED, PublishedNumber, read_published
from diffnr_lightning.reports.runs import RunSummary, ScanSetting
from diffnr_lightning.reports.table_rows import COLUMNS, OF_A_UNIT, Row, ScoreTable, counted
from diffnr_lightning.reports.told_apart import averaged_in_spite, patients, told_apart

BASELINE_COLUMNS = ("r2_psnr", "r2_ssim")


def score_table(
    runs: Sequence[RunSummary],
    *,
    baseline: str | None = None,
    paper: str | Path | None = None,
    earlier: EarlierTable | None = None,
    seed: int = 0,
) -> ScoreTable:
    """Gather the numbers of runs.

    Args:
        runs: finished runs. Those of one method on one case, and scans of one volume, are told apart by their folders;
            where they cannot be, they count as one case in the mean and its interval, and a note says so.
        baseline: method with which every other one is compared case by case, in columns and notes. One that is told
            apart by the folders of sweeps, each with a copy of the cases, is compared within each sweep.
        paper: CSV file of published numbers, see `read_published`; they are shown below ours of the same number of
            views, with the difference where they are of one set of data, or by themselves where we have no run of that
            method.
        earlier: table made before, whose rows stand beside those of the runs, which take the places of rows of the same
            method, case and scan.
        seed: of the bootstrap intervals.

    Returns:
        Settings and in them methods in the order in which they appear in `earlier` and `runs`; runs of other
        numbers of views, noise or size are never averaged.

    Raises:
        ValueError: no runs, a baseline without a run or with several on one case, or a paper file with other columns.
        FileNotFoundError: a paper file that does not exist.
    """
    if not runs:
        raise ValueError("there are no runs to put into a table; name at least one finished run.")
    untold, runs = runs, told_apart(runs, () if earlier is None else earlier.rows)
    cases, kept = tuple(map(_case_row, runs, patients(runs))), ()
    former = [_case_row(run) for run in untold]
    if earlier is not None:
        cases, kept = earlier.beside(cases, former)
    called = {run.method: first.method for run, first in zip(runs, untold, strict=True)}
    cases = tuple(replace(row, untold=called.get(row.method, "")) for row in cases)
    methods = list(dict.fromkeys(row.method for row in cases))
    compared = cases if baseline is None else _with_baseline(cases, baseline)
    numbers = () if paper is None else read_published(paper)
    published, remarks = _published_rows(numbers, [row.setting for row in cases])
    means = _means(cases, methods, published, seed)
    if baseline is not None:
        others = {row.method for row in compared} - {baseline}
        means = [
            _over_baseline(row, compared, baseline, seed)
            if row.method in others and not row.published
            else row
            for row in means
        ]
    known = {key for row in (*cases, *means) for key in row.values}
    differing = tuple(
        name for name in ScanSetting._fields if len({getattr(r.setting, name) for r in cases}) > 1
    )
    return ScoreTable(
        tuple(column for column in COLUMNS if column.key in known),
        tuple(means),
        cases,
        tuple(
            [
                *_in_common(cases[0].setting, differing),
                *_notes(cases, [row for row in means if not row.published]),
                *_comparisons(compared, baseline, differing, seed),
                *averaged_in_spite(runs),
                *_of_before(kept, former),
                *remarks,
            ]
        ),
        differing,
        kept,
    )


def _with_baseline(cases: Sequence[Row], baseline: str) -> tuple[Row, ...]:
    """Return rows in which what the baseline was told apart into has its name again.

    Raises:
        ValueError: no such row, or several on one case, of which none is known to be meant.
    """
    methods = list(dict.fromkeys(row.method for row in cases))
    if baseline in methods:
        return tuple(cases)
    told = [row for row in cases if row.untold == baseline]
    if not (baseline and told):
        raise ValueError(
            f"the baseline '{baseline}' has no run; one of {', '.join(methods)} is expected."
        )
    runs = {(row.method, row.setting, row.case, row.case_folder) for row in told}
    if len({(setting, case, folder) for _, setting, case, folder in runs}) < len(runs):
        raise ValueError(
            f"the baseline '{baseline}' has several runs on one case; one of {', '.join(methods)} is expected."
        )
    return tuple(replace(row, method=baseline) if row.untold == baseline else row for row in cases)


def _of_before(kept: Sequence[Row], former: Sequence[Row]) -> list[str]:
    """Say which rows are of a table made before, and which of them runs of other folders might have replaced."""
    methods = ", ".join(dict.fromkeys(row.method for row in kept))
    said = [f"Of a table made before: {counted(len(kept), 'case')} of {methods}."] if kept else []
    places = {(row.method, row.case, row.setting) for row in former}
    named = [row.method for row in kept if (row.method, row.case, row.setting) in places]
    if named:
        said.append(
            f"New runs of {', '.join(dict.fromkeys(named))} lie in other folders than those of before may have, and "
            "replace none of them."
        )
    return said


def _case_row(run: RunSummary, patient: tuple[str, Hashable] | None = None) -> Row:
    return Row(
        run.method,
        run.case,
        1,
        _numbers(run),
        {},
        setting=run.setting,
        kind=run.kind,
        case_folder=run.case_folder and run.case_folder.resolve(),
        patient=patient,
        unit=run.downstream.get("regions", {}).get("unit"),
    )


def _published_rows(
    numbers: Sequence[PublishedNumber], settings: Sequence[ScanSetting]
) -> tuple[list[Row], list[str]]:
    """Return a row for each method, data set and number of views that any scan has, and what is to be said of them."""
    groups: dict[tuple[str, str, int | None], dict[str, float]] = {}
    left_out = 0
    for number in numbers:
        if any(_has_views(number.views, setting) for setting in settings):
            key = (number.method, number.data, number.views)
            groups.setdefault(key, {})[number.column] = number.value
        else:
            left_out += 1
    rows = [
        Row(method, None, 0, values, {}, True, ScanSetting(views=views), data=data)
        for (method, data, views), values in groups.items()
    ]
    remarks = []
    if left_out:
        remarks.append(f"{left_out} published numbers are of other numbers of views.")
    if any(not n.protocol and n.metric in ("psnr", "ssim") for n in numbers):
        remarks.append(
            f"Published PSNR and SSIM stand under {UNSTATED} where their paper states no protocol."
        )
    return rows, remarks


def _has_views(views: int | None, setting: ScanSetting) -> bool:
    return views is None or setting.views in (None, views)


def _is_of(published: Row, mean: Row) -> bool:
    """Whether a published row is of the method and the views of one of ours."""
    named = published.method in (mean.method, mean.untold)
    return named and _has_views(published.setting.views, mean.setting)


def _means(
    cases: Sequence[Row], methods: Sequence[str], published: Sequence[Row], seed: int
) -> list[Row]:
    """Return a row for each setting and method; a published one follows the last that it can be compared with."""
    groups: dict[tuple[ScanSetting, str], list[Row]] = {
        (setting, method): []
        for setting in dict.fromkeys(row.setting for row in cases)
        for method in methods
    }
    for row in cases:
        groups[row.setting, row.method].append(row)
    ours = [_mean(method, rows, seed) for (_, method), rows in groups.items() if rows]
    below: dict[int | None, list[Row]] = {}
    for row in published:
        positions = [position for position, mean in enumerate(ours) if _is_of(row, mean)]
        below.setdefault(max(positions, default=None), []).append(row)
    means = [
        row
        for position, mean in enumerate(ours)
        for row in (_over_paper(mean, published), *below.get(position, ()))
    ]
    return means + below.get(None, [])


def _over_paper(mean: Row, published: Sequence[Row]) -> Row:
    """Add by how much a mean is above the one published row that it can be compared with."""
    # Numbers of all sets or views first, so that those of one of them take their places.
    rows = sorted(
        (row for row in published if _is_of(row, mean)),
        key=lambda row: (bool(row.data), row.setting.views is not None),
    )
    if len({row.data for row in rows} - {""}) > 1:
        return mean
    numbers = {key: value for row in rows for key, value in row.values.items()}
    keys = {column.key for column in COLUMNS}
    over = {
        f"{key}_over_paper": mean.values[key] - value
        for key, value in numbers.items()
        if key in mean.values and f"{key}_over_paper" in keys
    }
    return replace(mean, values={**mean.values, **over})


def _over_baseline(mean: Row, cases: Sequence[Row], baseline: str, seed: int) -> Row:
    """Add by how much a method is above the baseline on the cases that both have, with intervals."""
    values, intervals = {}, {}
    for key in BASELINE_COLUMNS:
        scans = [row for row in cases if row.setting == mean.setting]
        pairs = _paired(scans, mean.method, baseline, key)
        if pairs:
            gain = paired_difference(*zip(*pairs, strict=True), seed=seed)
            values[f"{key}_over_baseline"] = gain.mean
            if gain.count > 1:
                intervals[f"{key}_over_baseline"] = (gain.low, gain.high)
    return replace(
        mean, values={**mean.values, **values}, intervals={**mean.intervals, **intervals}
    )


def _in_common(setting: ScanSetting, differing: Sequence[str]) -> list[str]:
    """Say what all scans have in common."""
    said = _in_words(setting, [name for name in setting._fields if name not in differing])
    return [f"All scans: {said}."] if said else []


def _in_words(setting: ScanSetting, names: Sequence[str]) -> str:
    """Return some fields of a setting with what they count, as far as they are known."""
    words = {
        "views": "{} views",
        "noise": "noise {}",
        "size": "{} voxels along the edges",
        "scan": "scan {}",
    }
    known = [(name, getattr(setting, name)) for name in names]
    return ", ".join(words[name].format(value) for name, value in known if value is not None)


def _numbers(run: RunSummary) -> dict[str, float]:
    values: dict[str, float | None] = {
        f"{name}_{key}": run.protocols.get(name, {}).get(key)
        for name in PROTOCOLS
        for key in ("psnr", "ssim")
    }
    values.update({f"views_{key}": value for key, value in run.projections.items()})
    values.update({f"chi_{key}": value for key, value in run.chi_square.items()})
    values.update(prior_unseen=run.prior.get("unseen"))
    lungs = run.downstream.get("lungs", {})
    values.update(lungs_dice_percent=lungs.get("dice_percent"))
    values.update(lungs_surface_distance=lungs.get("surface_distance_mm"))
    regions = run.downstream.get("regions", {}).get("summary", {})
    values.update({f"regions_{key}": value for key, value in regions.items()})
    values.update(evaluations=run.evaluations)
    values.update(seconds=run.seconds, peak_memory_mb=run.peak_memory_mb)
    columns = {column.key for column in COLUMNS}
    return {k: float(v) for k, v in values.items() if v is not None and k in columns}


def _mean(method: str, rows: Sequence[Row], seed: int) -> Row:
    values, intervals = {}, {}
    several_units = len(_units(rows)) > 1
    for column in COLUMNS:
        if several_units and column.key in OF_A_UNIT:
            continue
        numbers = [row.values[column.key] for row in rows if column.key in row.values]
        # A mean over those cases alone that happen to have the number would be another mean.
        if len(numbers) < len(rows):
            continue
        each = [fmean(found) for found in _by_patient(rows, numbers)]
        values[column.key] = fmean(each)
        if len(each) > 1:
            intervals[column.key] = bootstrap_interval(each, seed)
    names = tuple(sorted(found[0].case or "" for found in _by_patient(rows, rows)))
    first = rows[0]
    mean = Row(method, None, len(rows), values, intervals, setting=first.setting)
    return replace(mean, averaged=names, untold=first.untold)


def _units(rows: Sequence[Row]) -> list[str]:
    """Return the units in which the regions of cases are known to have been compared."""
    return list(dict.fromkeys(row.unit for row in rows if row.unit is not None))


def _by_patient(rows: Sequence[Row], things: Sequence[Any]) -> list[list[Any]]:
    """Return things, one for each row, by patients: what was run again says nothing of further ones."""
    found: dict[Hashable, list[Any]] = {}
    for position, (row, thing) in enumerate(zip(rows, things, strict=True)):
        found.setdefault(position if row.patient is None else row.patient, []).append(thing)
    return list(found.values())


def _notes(cases: Sequence[Row], means: Sequence[Row]) -> list[str]:
    notes = []
    units = _units(cases)
    if len(units) > 1:
        notes.append(
            f"Regions are in {' and '.join(units)} units; errors and deviations have no mean over both."
        )
    groups: dict[str, list[tuple[str, str]]] = {}
    for row in means:
        groups.setdefault(row.method, []).extend((n, repr(row.setting)) for n in row.averaged)
    counts = {(row.method, row.setting): row.count for row in means}
    if max(counts.values()) > 1:
        said = ", ".join(f"{method}: {count}" for (method, _), count in counts.items())
        if len(set(counts.values())) == 1:
            said = str(next(iter(counts.values())))
        notes.append(
            f"Means over cases ({said}); intervals: 95 %, bootstrap of the mean over cases."
        )
    if len({tuple(sorted(group)) for group in groups.values()}) > 1:
        notes.append("The methods were not run on the same cases, so their means do not compare.")
    return notes


def _comparisons(
    cases: Sequence[Row], baseline: str | None, differing: Sequence[str], seed: int
) -> list[str]:
    """Compare each method with the baseline, where there is one."""
    methods = dict.fromkeys(row.method for row in cases if baseline not in (None, row.method))
    return [
        note for method in methods for note in _comparison(cases, method, baseline, differing, seed)
    ]


def _comparison(
    cases: Sequence[Row], method: str, baseline: str, differing: Sequence[str], seed: int
) -> list[str]:
    """Compare a method with the baseline case by case, in each setting by itself."""
    settings = list(dict.fromkeys(row.setting for row in cases))
    notes = []
    for setting in settings:
        pairs = _paired([row for row in cases if row.setting == setting], method, baseline)
        if not pairs:
            continue
        gain = paired_difference(*zip(*pairs, strict=True), seed=seed)
        interval = "" if math.isnan(gain.low) else f" [{gain.low:+.2f}, {gain.high:+.2f}]"
        said = _in_words(setting, differing)
        where = f" ({said})" if said else ""
        notes.append(
            f"{method} against {baseline}{where}: {gain.mean:+.2f} dB{interval} (r2 PSNR), higher in "
            f"{gain.wins} of {gain.count} cases."
        )
    return notes or [f"{method} and {baseline} share no case with a known truth."]


def _paired(
    cases: Sequence[Row], first: str, second: str, key: str = "r2_psnr"
) -> list[tuple[float, float]]:
    """Return a number of two methods on the patients that both have, of a volume scanned several times on the scans."""
    rows = [row for row in cases if row.method in (first, second) and key in row.values]
    counts = Counter((row.method, row.case) for row in rows)

    def scan_of(row: Row) -> tuple[str | None, Path | None]:
        several = max(counts[first, row.case], counts[second, row.case]) > 1
        return row.case, row.case_folder if several else None

    scores: dict[str, dict[Any, list[Row]]] = {first: {}, second: {}}
    for row in rows:
        scores[row.method].setdefault(scan_of(row), []).append(row)
    shared = [scan for scan in scores[first] if scan in scores[second]]
    pairs = [
        tuple(fmean(row.values[key] for row in scores[name][scan]) for name in (first, second))
        for scan in shared
    ]
    found = _by_patient([scores[first][scan][0] for scan in shared], pairs)
    return [
        (fmean(one), fmean(other)) for one, other in (zip(*each, strict=True) for each in found)
    ]
