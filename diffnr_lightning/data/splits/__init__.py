"""Which volumes are trained on, which are chosen with and which are only reported: CSV files, by patient.

A file has a line for each volume, or for a range of generated ones, whose seeds are patients of their own. `train` may
teach a prior; everything else is chosen on `development`; `test` is looked at when a table is made and decides nothing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from diffnr_lightning.data.generated import generated_seeds, is_generated, source_name
from diffnr_lightning.files import table_text

SETS = ("train", "development", "test")
DEFAULT = "diffnr"
FOLDER = Path(__file__).parent
COLUMNS = ("volume", "patient", "kind", "set", "source", "licence")
# Their files are projections, which `ingest` reads and no simulated scan can be made of.
MEASURED = "measured"

_SELECTION = re.compile(
    r"split:(?:(?P<name>[\w-]+)/)?(?P<set>\w+)(?:\[(?P<key>kind|name)=(?P<values>[\w.-]+(?:,[\w.-]+)*)\])?"
)


class SplitVolume(NamedTuple):
    """One volume of a split.

    Attributes:
        volume: file relative to the folder that DIFFNR_DATA names, `phantom:SEED` or `specimen:SEED`.
        patient: whose it is, or which object; never in two sets.
        kind: of object, such as head, chest, limb or specimen; measured for projections.
        set: train, development or test.
        source: where it was published.
        licence: under which.
    """

    volume: str
    patient: str
    kind: str
    set: str
    source: str
    licence: str

    @property
    def name(self) -> str:
        """What its scans are called."""
        return source_name(self.volume)


def split_names() -> list[str]:
    """Return the names of the splits that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


@cache
def read_split(name: str = DEFAULT, folder: Path = FOLDER) -> tuple[SplitVolume, ...]:
    """Read a split.

    Args:
        name: of the file, without ending.
        folder: where it lies.

    Returns:
        Its volumes in the order of the file, ranges of generated ones one by one.

    Raises:
        FileNotFoundError: no such split.
        ValueError: other columns, a set that is none, a volume twice, or a patient in two sets.
    """
    path = folder / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.csv"))) or "none"
        raise FileNotFoundError(f"split {name!r} does not exist; one of {known} is expected.")
    reader = csv.DictReader(table_text(path))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(
            f"{path} has the columns {reader.fieldnames}; {', '.join(COLUMNS)} are expected."
        )
    volumes = tuple(volume for row in reader for volume in _volumes(path, row))
    _check(path, volumes)
    return volumes


def is_selection(source: str) -> bool:
    """Tell whether a source names volumes of a split, such as `split:test`, and no file."""
    return source.startswith("split:")


def selected(source: str) -> list[SplitVolume]:
    """Return the volumes of a set of a split: all, those of some kinds, or those of some names.

    Args:
        source: `split:SET` or `split:NAME/SET`, either with `[kind=KIND,KIND]` or `[name=VOLUME,VOLUME]` behind it.
            Measured scans are no volumes; they are returned only where they are asked for.

    Raises:
        FileNotFoundError: no such split.
        ValueError: words that are no selection, a set that is none, or a kind or name that the set does not hold.
    """
    found = _SELECTION.fullmatch(source)
    if found is None:
        raise ValueError(
            f"volumes has {source!r}; split:SET or split:NAME/SET, with or without [kind=KIND,KIND] or "
            "[name=VOLUME,VOLUME] behind it, is expected."
        )
    if found["set"] not in SETS:
        raise ValueError(f"volumes has {source!r}; the set is one of {', '.join(SETS)}.")
    volumes = [v for v in read_split(found["name"] or DEFAULT) if v.set == found["set"]]
    if found["key"] is None:
        return [volume for volume in volumes if volume.kind != MEASURED]
    groups: dict[str, list[SplitVolume]] = {}
    for volume in volumes:
        groups.setdefault(getattr(volume, found["key"]), []).append(volume)
    values = found["values"].split(",")
    for value in values:
        if value not in groups:
            known = list(dict.fromkeys(volume.kind for volume in volumes))
            raise ValueError(
                f"volumes has {source!r}, but no {found['key']} of that set is {value}; the kinds are "
                f"{', '.join(known)}, the names stand in {found['name'] or DEFAULT}.csv."
            )
    return [volume for value in values for volume in groups[value]]


def listed(source: str) -> SplitVolume | None:
    """Return the volume of a split that a source is; None where no split lists it.

    Args:
        source: file or generated object. A file is the listed one if its path ends alike, wherever its folder is.
    """
    if is_generated(source):
        return _by_ending().get((source,))
    # A link may have the listed name, or point to the file that has it.
    places = [path.parts for path in (Path(source).absolute(), Path(source).resolve())]
    endings = (parts[start:] for parts in places for start in range(len(parts)))
    by_ending = _by_ending()
    return next((by_ending[ending] for ending in endings if ending in by_ending), None)


@cache
def _by_ending() -> dict[tuple[str, ...], SplitVolume]:
    volumes = [volume for name in split_names() for volume in read_split(name)]
    return {
        (v.volume,) if is_generated(v.volume) else Path(v.volume).parts: v
        for v in reversed(volumes)
    }


def _volumes(path: Path, row: dict[str, str]) -> Iterator[SplitVolume]:
    if None in row.values() or None in row or not row["volume"]:
        raise ValueError(
            f"{path} has the line {list(row.values())}; {len(COLUMNS)} fields are expected."
        )
    if row["set"] not in SETS:
        raise ValueError(
            f"{path} puts {row['volume']} into the set {row['set']!r}; one of {', '.join(SETS)} is expected."
        )
    if not is_generated(row["volume"]):
        yield SplitVolume(**row)
        return
    kind, seeds = generated_seeds(row["volume"])
    for seed in seeds:
        source = f"{kind}:{seed}"
        yield SplitVolume(**{**row, "volume": source, "patient": source})


def _check(path: Path, volumes: tuple[SplitVolume, ...]) -> None:
    sets: dict[str, str] = {}
    seen: set[str] = set()
    for volume in volumes:
        if volume.volume in seen:
            raise ValueError(f"{path} lists {volume.volume} twice; once is expected.")
        seen.add(volume.volume)
        if sets.setdefault(volume.patient, volume.set) != volume.set:
            raise ValueError(
                f"{path} has the patient {volume.patient} in {sets[volume.patient]} and in {volume.set}; one set is "
                "expected."
            )
