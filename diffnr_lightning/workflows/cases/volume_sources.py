"""Where volumes come from: files, patterns, sets of a split and generated objects, and what each is called."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffnr_lightning.data.datasets import (
    PUBLIC,
    data_set,
    known_volume,
    listed_sources,
    names_data_set,
    selected_volumes,
)
from diffnr_lightning.data.generated import generated_seeds, is_generated, source_name
from diffnr_lightning.data.pairs.hold_out import is_called
from diffnr_lightning.data.splits import MEASURED, SplitVolume, is_selection, selected

logger = logging.getLogger("diffnr")

# The folder in which the files of a split lie.
DATA_FOLDER = "DIFFNR_DATA"


def volume_sources(volumes: Sequence[str]) -> dict[str, str]:
    """Expand patterns and ranges.

    Args:
        volumes: files, glob patterns, sets of a split (`split:development`, `split:test[kind=head,limb]`), sets and
            volumes of a data set (`luna16:test`, `toothfairy:train[0:10]`, `folder:/data/ct`), and `phantom:` (chests),
            `specimen:` or `ellipsoids:` with SEED or FIRST-LAST.

    Returns:
        Name -> file, a generated object such as `phantom:SEED`, or one volume of a data set (`toothfairy:P12`). A file
        is called as it is without its ending, and after its folder as well where several are called the same
        (`P12/data.npy` is `P12_data`).

    Raises:
        FileNotFoundError: a file that does not exist, or a pattern that matches none.
        ValueError: nothing at all, two files of one name, no such set, or a set without the variable of its folder.
    """
    sources = [source for entry in volumes for source in _expanded(entry)]
    if not sources:
        raise ValueError("volumes is empty; at least one file or phantom:SEED is expected.")
    return _named(sources)


def volume_names(volumes: Sequence[str]) -> set[str] | None:
    """Return what volumes are called, those of splits and data sets that are not there included.

    Args:
        volumes: as for `volume_sources`.

    Returns:
        The names; None where they would be others if all volumes were there.

    Raises:
        FileNotFoundError: a file, pattern or folder that is not there.
        ValueError: as `volume_sources` does.
    """
    sources = [_listed(entry) for entry in volumes]
    return None if None in sources else set(_named([s for found in sources for s in found or ()]))


def _named(sources: Sequence[str]) -> dict[str, str]:
    """Return sources by their names, which differ.

    Raises:
        ValueError: two of one name.
    """
    counts = Counter(source_name(source) for source in dict.fromkeys(sources))
    named: dict[str, str] = {}
    for source in dict.fromkeys(sources):
        name = source_name(source)
        if counts[name] > 1:
            name = f"{Path(source).resolve().parent.name}_{name}"
        if name in named:
            raise ValueError(
                f"volumes has {named[name]} and {source}, which both would be called {name}; "
                "rename one, or give them folders of different names."
            )
        named[name] = source
    return named


def left_out(
    sources: Mapping[str, str], exclude: Sequence[str], idle: str = "leaves nothing out"
) -> set[str]:
    """Return the names that `exclude` leaves out of a training; warn of a pattern of names that no volume has.

    Args:
        sources: volumes by name.
        exclude: names, patterns of names, or sets of a split or of a data set. A volume belongs to a set that lists it
            or a volume of its name.
        idle: what the warning says that such a pattern does.

    Raises:
        FileNotFoundError: no such split or data set.
        ValueError: no such set.
    """
    patterns = [entry for entry in exclude if not (is_selection(entry) or names_data_set(entry))]
    for pattern in patterns:
        if not any(is_called(name, pattern) for name in sources):
            logger.warning("%r %s: no volume has such a name", pattern, idle)
    sets = [selected(entry) for entry in exclude if is_selection(entry)]
    sets += [selected_volumes(entry) for entry in exclude if names_data_set(entry)]
    kept_back = [volume for volumes in sets for volume in volumes]
    names, listed = ({getattr(v, key) for v in kept_back} for key in ("name", "volume"))

    def unwanted(name: str, source: str) -> bool:
        if name in names or any(is_called(name, pattern) for pattern in patterns):
            return True
        # Where two files are called the same, names hold their folders.
        known = known_volume(source) if listed else None
        return known is not None and known.volume in listed

    return {name for name, source in sources.items() if unwanted(name, source)}


def refuse_held_back(sources: Iterable[str], validated: Iterable[str] = ()) -> None:
    """Refuse to learn from what a split keeps for development or test.

    Args:
        sources: files, generated objects and volumes of data sets.
        validated: those of them that are not learned from; what is kept for development may be among them.

    Raises:
        ValueError: one of them is kept.
    """
    allowed = {source: ("train", "development") for source in validated}
    known = [(source, known_volume(source)) for source in sources]
    kept = [v for source, v in known if v and v.set not in allowed.get(source, ("train",))]
    if kept:
        more = f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
        name = data_set(kept[0].volume).name if names_data_set(kept[0].volume) else "split"
        raise ValueError(
            f"volumes has {kept[0].volume}, which the splits keep for {kept[0].set}{more}; "
            f"--exclude {name}:development {name}:test leaves all of them out."
        )


def _listed(entry: str) -> list[str] | None:
    """Return the sources of an entry, there or not; None where they depend on what is there."""
    name, _, words = entry.removeprefix("split:").partition("/")
    if is_selection(entry) and name in PUBLIC:
        return _listed(f"{name}:{words}")
    if is_selection(entry):
        return [volume.volume for volume in selected(entry)]
    if names_data_set(entry):
        return listed_sources(entry)
    return _expanded(entry)


def _expanded(entry: str) -> list[str]:
    if is_generated(entry):
        kind, seeds = generated_seeds(entry)
        return [f"{kind}:{seed}" for seed in seeds]
    name, _, words = entry.removeprefix("split:").partition("/")
    if is_selection(entry) and name in PUBLIC:
        return _expanded(f"{name}:{words}")
    if is_selection(entry):
        return [_located(entry, volume) for volume in selected(entry)]
    if names_data_set(entry):
        return [volume.volume for volume in selected_volumes(entry)]
    path = os.path.expanduser(entry)  # in a config no shell does it
    found = [path] if Path(path).exists() else sorted(glob.glob(path))
    if not found:
        raise FileNotFoundError(f"volumes has {entry!r}, which matches no file; check the path.")
    if Path(path).is_dir() and not any(Path(path).iterdir()):
        raise FileNotFoundError(f"volumes has {entry!r}, an empty folder; check the path.")
    return found


def _located(entry: str, volume: SplitVolume) -> str:
    if is_generated(volume.volume):
        return volume.volume
    if volume.kind == MEASURED:
        raise ValueError(
            f"volumes has {entry!r}, which names projections such as {volume.volume}; volumes are expected here, and "
            "`diffnr ingest` reads projections."
        )
    folder = os.environ.get(DATA_FOLDER)
    if not folder:
        raise ValueError(
            f"volumes has {entry!r}, but {DATA_FOLDER} is not set; set it to the folder in which {volume.volume} lies."
        )
    path = Path(folder) / volume.volume
    if not path.exists():
        raise FileNotFoundError(
            f"volumes has {entry!r}, but {path} does not exist; {DATA_FOLDER} names the folder of the volumes."
        )
    return str(path)
