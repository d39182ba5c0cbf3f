"""Runs that one name would lump together: overlays of one method, and other scans of one volume."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from diffnr_lightning.files import same_content
from diffnr_lightning.reports.case_folders import CASE_FILE, case_metadata
from diffnr_lightning.reports.machines import environment_of
from diffnr_lightning.reports.runs import RunSummary
from diffnr_lightning.reports.table_rows import Row


def told_apart(runs: Sequence[RunSummary], before: Sequence[Row] = ()) -> list[RunSummary]:
    """Return runs whose methods and settings tell apart what must not be averaged.

    Scans of one volume that differ in their geometry get the parts of their case folders in which these differ as
    `ScanSetting.scan`. Methods of one name on one case, or on copies of it as two sweeps have, get those of their run
    folders behind the name, as overlays without `variant` do. Both are done only where volumes share these parts, as in
    the folders of a sweep: parts that name the volume too would split every mean. Runs of which neither is known to
    repeat are left as they are, unless a table made before told apart what lies in folders of these names.

    Args:
        runs: finished runs.
        before: rows of that table.
    """
    named = _with_scans(runs)
    places: dict[str, set[int]] = defaultdict(set)
    for alike in _groups(named, lambda run: (run.case, run.setting, run.method)):
        for same in _joined(alike, _of_one_scan) if len(alike) > 1 else ():
            places[same[0].method] |= _differing([run.folder for run in same])
    repeated = [run for run in named if places[run.method]]
    for same in _groups(repeated, lambda run: run.method):
        if not _volumes_share((run, _parts(run.folder, places[run.method])) for run in same):
            places[same[0].method] = set()
    return [_as_before(_with_folder(run, places[run.method]), before) for run in named]


def patients(runs: Sequence[RunSummary]) -> list[tuple[str, Hashable]]:
    """Return for each run what is the same for repeated runs of a mean, and another for patients of one name.

    Args:
        runs: as `told_apart` returned them.
    """
    alike = _groups(runs, lambda run: (run.case, run.method, run.setting))
    volumes = _volumes(run for group in alike if len(group) > 1 for run in group)
    folders = [run.case_folder and run.case_folder.resolve() for run in runs]
    return [(run.case, volumes.get(at)) for run, at in zip(runs, folders, strict=True)]


def averaged_in_spite(runs: Sequence[RunSummary]) -> list[str]:
    """Return a sentence for each method and case whose runs a table does not tell apart and therefore averages.

    Args:
        runs: as `told_apart` returned them.
    """
    alike = _groups(runs, lambda run: (run.case, run.method, run.setting))
    return [
        f"Several runs of {group[0].method} on {group[0].case} are not told apart and count as one in the "
        f"mean: {', '.join(str(run.folder) for run in group)}."
        for group in alike
        if len(group) > 1 and not _of_different_volumes(group)
    ]


def places_of(runs: Sequence[RunSummary]) -> list[str]:
    """Return by which parts of its folder each run differs from the others, and by which of its case's."""
    of_runs = _differing([run.folder for run in runs])
    of_cases = _differing([run.case_folder for run in runs if run.case_folder])
    named = []
    for run in runs:
        parts = _parts(run.folder, of_runs).split("/")
        scan = _parts(run.case_folder, of_cases).split("/")
        named.append(
            "/".join(filter(None, (*parts, *(part for part in scan if part not in parts))))
        )
    return named


def _with_scans(runs: Sequence[RunSummary]) -> list[RunSummary]:
    places: set[int] = set()
    for alike in _groups(runs, lambda run: (run.case, run.setting)):
        folders = list({run.case_folder.resolve() for run in alike if run.case_folder})
        cases = {folder: _case(folder) for folder in folders} if len(folders) > 1 else {}
        for one in _by_volume(cases):
            if len({_geometry(cases[folder]) for folder in one}) > 1:
                places |= _differing(one)
    scans = [(run, _parts(run.case_folder, places)) for run in runs if run.case_folder and places]
    if not scans or not _volumes_share(scans):
        return list(runs)
    return [
        replace(run, setting=run.setting._replace(scan=_parts(run.case_folder, places) or None))
        for run in runs
    ]


def _with_folder(run: RunSummary, places: set[int]) -> RunSummary:
    parts = _parts(run.folder, places)
    return replace(run, method=f"{run.method} ({parts})") if parts else run


def _as_before(run: RunSummary, before: Sequence[Row]) -> RunSummary:
    """Return a run under the method and the scan that a table made before gave to one in folders of these names."""
    methods = {row.method for row in before}
    start = f"{run.method} ("
    parts = [name[len(start) : -1] for name in methods if name.startswith(start)]
    if found := _lies_in(run.folder, parts):
        run = replace(run, method=f"{start}{found})")
    scans = {row.setting.scan for row in before} - {None}
    if run.case_folder and not run.setting.scan and (found := _lies_in(run.case_folder, scans)):
        run = replace(run, setting=run.setting._replace(scan=found))
    return run


def _lies_in(folder: Path, named: Iterable[str]) -> str | None:
    """Return which parts of folders, as `_parts` joins them, a path has in their order; None for none or several."""
    found = []
    for name in named:
        left = iter(folder.resolve().parts)
        if all(part in left for part in name.split("/")):
            found.append(name)
    return found[0] if len(found) == 1 else None


def _volumes_share(named: Iterable[tuple[RunSummary, str]]) -> bool:
    """Whether each volume has a name in common with another one, or there is one volume alone.

    Args:
        named: runs with the parts of their folders that are to tell them apart.
    """
    named = list(named)
    volumes = _volumes([run for run, _ in named])
    names: dict[Hashable, set[str]] = defaultdict(set)
    for run, name in named:
        volume = volumes.get(run.case_folder.resolve()) if run.case_folder else None
        names[run.case, volume].add(name)
    volumes_of = Counter(name for found in names.values() for name in found)
    return len(names) == 1 or all(
        any(volumes_of[name] > 1 for name in found) for found in names.values()
    )


def _of_different_volumes(runs: Sequence[RunSummary]) -> bool:
    """Whether each run is known to be of a volume of its own; that two patients have one name is no repetition."""
    return len(set(_volumes(runs).values())) == len(runs)


def _volumes(runs: Iterable[RunSummary]) -> dict[Path, int]:
    """Return a number of the volume of each case folder; those that do not say of what they are have none."""
    folders = dict.fromkeys(run.case_folder.resolve() for run in runs if run.case_folder)
    cases = {folder: case for folder in folders if any(_volume_of(case := _case(folder)))}
    return {folder: number for number, one in enumerate(_by_volume(cases)) for folder in one}


def _by_volume(cases: Mapping[Path, Mapping[str, Any]]) -> list[list[Path]]:
    """Return case folders by the volumes of their meta data."""
    return _joined(cases, lambda one, other: _of_one_volume(cases[one], cases[other]))


def _of_one_volume(case: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two cases are of one volume: by its content, which stays where a file is moved, or by its name."""
    (source, content), (other_source, other_content) = map(_volume_of, (case, other))
    contents_known = bool(content and other_content)
    if contents_known and (content == other_content or not source):
        return content == other_content
    # Versions take the hash of other files of a volume: those of one name may have two.
    return source == other_source


def _volume_of(case: Mapping[str, Any]) -> tuple[str, str]:
    """Return the source of a case and the hash of its content, empty where they were not recorded."""
    provenance = case.get("provenance") or {}
    return str(case.get("source") or ""), str(provenance.get("source_sha256") or "")


def _of_one_scan(run: RunSummary, other: RunSummary) -> bool:
    """Whether two runs read one case folder, or two of the same content, as each sweep simulates its own."""
    if run.case_folder and other.case_folder:
        if run.case_folder.resolve() == other.case_folder.resolve():
            return True
    first, second = (_content_read(each.folder) for each in (run, other))
    return bool(first and second) and (same_content(first, second) or same_content(second, first))


def _content_read(run: Path) -> str:
    """Return the fingerprint of the case that a run read, empty where it was not recorded."""
    return str((environment_of(run).get("inputs") or {}).get("case") or "")


def _joined(items: Iterable[Any], alike: Callable[[Any, Any], bool]) -> list[list[Any]]:
    """Return items by what of them is alike, pair by pair."""
    groups: list[list[Any]] = []
    for item in items:
        group = next((one for one in groups if any(alike(item, other) for other in one)), None)
        if group is None:
            groups.append(group := [])
        group.append(item)
    return groups


def _groups(items: Iterable[Any], key: Any) -> list[list[Any]]:
    """Return items by what a key says of them."""
    groups: dict[Hashable, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _case(folder: Path) -> Mapping[str, Any]:
    return case_metadata(folder) if (folder / CASE_FILE).is_file() else {}


def _geometry(meta: Mapping[str, Any]) -> str:
    """Return the scanner and the views of a case as text."""
    angles = [view.get("angle") for view in meta.get("proj_train") or ()]
    return json.dumps([meta.get("scanner"), meta.get("centre_mm"), meta.get("views_train"), angles])


def _differing(folders: Sequence[Path]) -> set[int]:
    """Return at which places, counted from the end of the paths, folders differ below the one that all lie in."""
    paths = [folder.resolve().parts for folder in folders]
    shared = len(os.path.commonprefix(paths))
    below = zip_longest(*(parts[shared:][::-1] for parts in paths))
    return {place for place, parts in enumerate(below) if len(set(parts)) > 1}


def _parts(folder: Path | None, places: set[int]) -> str:
    """Return the parts of a path at some places, as `_differing` counts them."""
    parts = folder.resolve().parts[::-1] if folder is not None else ()
    return "/".join(parts[place] for place in sorted(places, reverse=True) if place < len(parts))
