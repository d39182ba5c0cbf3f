"""Where a table's numbers come from: commits, hashes of data and weights, machines and hours, as runs recorded them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from diffnr_lightning.files import same_content, sha256, write_json
from diffnr_lightning.reports.machines import PLACES, environment_of, used_gpus
from diffnr_lightning.reports.runs import CONFIG_FILE, RunSummary
from diffnr_lightning.reports.table_rows import Row, counted
from diffnr_lightning.reports.told_apart import told_apart

ENDING = ".provenance.json"
UNKNOWN = "not recorded"
SHORT = 7
"""Digits of a commit or hash that are shown."""


def provenance(
    runs: Sequence[RunSummary],
    table: Path,
    kept: Sequence[Row] = (),
    before: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Gather what runs recorded.

    Args:
        runs: behind the table.
        table: CSV file of it.
        kept: rows of a table made before that stand beside those of the runs.
        before: what this function returned for that table; empty where nothing was recorded.

    Returns:
        JSON-able: hash and number of runs of the table, runs by commit, by version, by machine and by whether that
        multiplies bfloat16, in which networks are asked then; hashes of the cases and of the weights, hours. A run
        that went on elsewhere counts for each commit, version and machine that worked on it. What a run of an earlier
        version has not recorded is counted as such.
    """
    records = [(run, environment_of(run.folder)) for run in runs]
    worked = [
        [{**_places(run.folder), **each} for each in (*record.get("earlier", []), record)]
        for run, record in records
    ]
    weights: dict[str, list[str]] = {}
    cases: dict[str, list[str]] = {}
    scans = [_scan_in_words(run) for run in told_apart(runs)]
    for scan, (_, record), environments in zip(scans, records, worked, strict=True):
        for environment in environments:
            for path, digest in environment.get("weights", {}).items():
                _add(weights, _public(path), digest)
        _add(cases, scan, record.get("inputs", {}).get("case", UNKNOWN))
    return {
        "table": table.name,
        "table_sha256": sha256(table),
        "runs": len(runs),
        "commits": _counted(worked, _commit),
        "versions": _counted(worked, lambda record: record.get("diffnr_lightning")),
        "torch": _counted(worked, lambda record: record.get("packages", {}).get("torch")),
        "machines": _counted(worked, _machine),
        "bfloat16_products": _counted(worked, _bfloat16),
        "hours": round(math.fsum(run.seconds or 0 for run in runs) / 3600, 3),
        "cases_sha256": {name: sorted(_newest(found)) for name, found in sorted(cases.items())},
        "weights_sha256": {path: sorted(found) for path, found in sorted(weights.items())},
        "runs_without_weights_record": sum("weights" not in record for _, record in records),
        **(_kept(kept, before) if kept else {}),
    }


def _public(path: str) -> str:
    """Return a path of weights without what only its machine knows; one in the package has no such part."""
    return "/".join(Path(path).parts[-2:]) if Path(path).is_absolute() else path


def _scan_in_words(run: RunSummary) -> str:
    """Return all that tells the scan of a run from others."""
    views, noise, size, scan = run.setting
    words = (run.case, views and f"{views} views", noise, size and f"{size} voxels", scan)
    return ", ".join(filter(None, words))


def write_provenance(
    runs: Sequence[RunSummary],
    table: Path,
    kept: Sequence[Row] = (),
    before: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Write what `provenance` gathers beside the table, as NAME.provenance.json of NAME.csv, and return the path.

    Raises:
        ValueError: a path that cannot be written.
    """
    gathered = provenance(runs, table, kept, before)
    return write_json(table.with_name(table.stem + ENDING), gathered)


def read_provenance(table: Path) -> dict[str, Any]:
    """Read what `write_provenance` wrote beside a table; empty where there is no such file.

    Raises:
        ValueError: a file that cannot be read, or that is of another content of the table.
    """
    path = table.with_name(table.stem + ENDING)
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        digest = record["table_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read; the file that was written beside {table.name}, or none, is expected."
        ) from error
    if digest != sha256(table):
        raise ValueError(
            f"{table} is not the file that {path.name} was written for; the table as it was written is expected."
        )
    return record


def provenance_in_words(record: Mapping[str, Any]) -> str:
    """Return a sentence with what a reader asks first: runs, hours, machines, commits, weights.

    Args:
        record: as `provenance` returns it; a `note` in it is added.
    """
    said = []
    if record.get("runs"):
        said.append(
            f"{counted(record['runs'], 'run')}, {record['hours']:.1f} hours in all "
            f"({_listed(record['machines'])}), at "
            f"{'commits' if len(record['commits']) > 1 else 'commit'} {_listed(record['commits'], SHORT)}"
        )
        several = sum(len(found) > 1 for found in record["cases_sha256"].values())
        if several:
            said.append(
                f"{several} of {len(record['cases_sha256'])} scans were made more than once, with different content"
            )
        weights = _weights_of(record)
        if weights:
            said.append(f"weights {', '.join(weights)}")
    if record.get("kept_rows"):
        said.append(_kept_in_words(record))
    if record.get("note"):
        said.append(record["note"])
    return f"`{record['table']}`: {'; '.join(said)}."


def _kept(rows: Sequence[Row], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many rows are of a table made before, and its record without the hashes of single scans."""
    return {
        "kept_rows": len(rows),
        "kept_methods": list(dict.fromkeys(row.method for row in rows)),
        "kept_of": {key: value for key, value in before.items() if key != "cases_sha256"},
    }


def _kept_in_words(record: Mapping[str, Any]) -> str:
    """Say which rows are of tables made before, with all commits and weights of these."""
    commits: dict[str, None] = {}
    weights: dict[str, None] = {}
    before = record["kept_of"]
    while before:
        commits |= dict.fromkeys(_shortened(name, SHORT) for name in before.get("commits", ()))
        weights |= dict.fromkeys(_weights_of(before))
        before = before.get("kept_of")
    count = record["kept_rows"]
    made = f"at {'commits' if len(commits) > 1 else 'commit'} {', '.join(commits)}"
    return (
        f"{counted(count, 'other row')} ({', '.join(record['kept_methods'])}) "
        f"{'are those' if count != 1 else 'is that'} of a table made before"
        + (f" {made}" if commits else ", of which no commit is recorded")
        + (f", with weights {', '.join(weights)}" if weights else "")
    )


def _weights_of(record: Mapping[str, Any]) -> list[str]:
    """Return the names of files of weights with the first digits of their hashes."""
    return [
        f"{Path(path).name} {digest[:SHORT]}"
        for path, found in record.get("weights_sha256", {}).items()
        for digest in found
    ]


def _listed(counts: Mapping[str, int], digits: int | None = None) -> str:
    names = {name: name if name == UNKNOWN else _shortened(name, digits) for name in counts}
    if len(counts) == 1:
        return next(iter(names.values()))
    return ", ".join(f"{names[name]} ({count})" for name, count in counts.items())


def _shortened(name: str, digits: int | None) -> str:
    """Return the first digits of the first word, and the other words."""
    if digits is None:
        return name
    first, _, rest = name.partition(" ")
    return f"{first[:digits]} {rest}".strip()


def _commit(record: Mapping[str, Any]) -> str | None:
    code = record.get("git")
    return None if not code else code["commit"] + " with changes" * bool(code.get("dirty"))


def _machine(record: Mapping[str, Any]) -> str | None:
    return " and ".join(used_gpus(record)) or record.get("cpu")


def _bfloat16(record: Mapping[str, Any]) -> str | None:
    return {True: "yes", False: "no"}.get(record.get("multiplies_bfloat16"))


def _counted(
    worked: Sequence[Sequence[Mapping[str, Any]]], read: Callable[[Mapping[str, Any]], str | None]
) -> dict[str, int]:
    """Return runs by what is read of their environments, each of which may have had several."""
    values = (value for run in worked for value in dict.fromkeys(read(each) for each in run))
    return dict(Counter(value or UNKNOWN for value in values).most_common())


def _add(found: dict[str, list[str]], name: str, digest: str) -> None:
    if digest not in found.setdefault(name, []):
        found[name].append(digest)


def _newest(digests: Sequence[str]) -> list[str]:
    """Leave out those that runs of earlier versions recorded of a content that later ones recorded too."""
    return [
        digest
        for digest in digests
        if not any(other != digest and same_content(digest, other) for other in digests)
    ]


def _places(folder: Path) -> dict[str, Any]:
    """Return what the config of a run says of where it computes; nothing where it cannot be read."""
    try:
        settings = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    known = settings if isinstance(settings, dict) else {}
    return {key: known[key] for key in PLACES if key in known}
