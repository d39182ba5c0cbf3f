"""What is known of a data set without reading it: where it lies, which volumes it has, and what each is for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diffnr_lightning.data.datasets.sets import split_by_rule
from diffnr_lightning.data.datasets.words import Words
from diffnr_lightning.data.splits import FOLDER, SETS, SplitVolume, read_split

logger = logging.getLogger("diffnr")

# Volumes that an error names.
NAMED_VOLUMES = 3


@dataclass(frozen=True)
class DataSet:
    """Describe a data set.

    Attributes:
        name: as sources call it, such as ``luna16`` or ``folder:/data/ct``.
        title: as people call it.
        find: folder -> volume -> file, the volumes of the folder in order.
        layout: what `find` looks for, in words.
        kind: of object.
        source: where it was published.
        licence: under which.
        variable: environment variable that names its folder; None where `folder` does.
        folder: where it lies; None where `variable` says so.
        download: where to get it and how large it is.
        split: CSV file that says what each volume is for; None where the rule does.
        held: volumes of development and of test under the rule, out of so many in all.
        unit: of its values; None leaves it to the reader.
        spacing_mm: voxel edges of files that store none.
    """

    name: str
    title: str
    find: Callable[[Path], dict[str, Path]]
    layout: str
    kind: str
    source: str
    licence: str
    variable: str | None = None
    folder: Path | None = None
    download: str = ""
    split: Path | None = None
    held: tuple[int, int, int] = (25, 25, 443)
    unit: str | None = None
    spacing_mm: tuple[float, float, float] | None = None

    def root(self) -> Path:
        """Return the folder in which the data set lies.

        Raises:
            ValueError: the variable is not set.
            FileNotFoundError: no such folder.
        """
        place = self.folder or os.environ.get(self.variable or "")
        if not place:
            raise ValueError(
                f"{self.title} is wanted, but {self.variable} is not set; set it to the folder that holds "
                f"{self.layout} ({self.download})."
            )
        if not Path(place).is_dir():
            named = f"{self.variable} names {place}" if self.variable else f"{self.name} is wanted"
            raise FileNotFoundError(
                f"{named}, but there is no such folder; the one that holds {self.layout} is expected."
            )
        return Path(place)

    def files(self) -> dict[str, Path]:
        """Return volume -> file of all volumes that are there.

        Raises:
            ValueError: the variable is not set.
            FileNotFoundError: no such folder, or no volume in it.
        """
        return _files(self.find, self.root(), self.layout, self.title, self.download)

    def volumes(self) -> tuple[SplitVolume, ...]:
        """Return what is known of each volume; those of a CSV file whether they are there or not.

        Raises:
            ValueError: the variable is not set where the rule needs it, or a CSV file that contradicts itself.
            FileNotFoundError: no folder or no volume where the rule needs them.
        """
        return _volumes(self, None if self.split else tuple(self.files()))

    def entry(self, name: str) -> SplitVolume | None:
        """Return what is known of a volume; None where it is not in the data set."""
        return _by_name(self.volumes()).get(name)

    def chosen(self, words: Words) -> list[SplitVolume]:
        """Return the volumes that a source names, of those that are there.

        Args:
            words: of the source.

        Raises:
            ValueError: neither a set nor a volume, or a range beyond the end of the set.
            FileNotFoundError: none of them is there.
        """
        files = self.files()
        volumes = self.volumes()
        named = self.name if words.word is None else f"{self.name}:{words.word}"
        if words.word is None:
            self._warn_of_unlisted(files, volumes)
        if words.word in (None, *SETS):
            wanted = [entry for entry in volumes if words.word in (None, entry.set)]
        else:
            wanted = [entry for entry in volumes if entry.name == words.word]
            if not wanted:
                lacks = (
                    f"no line in {self.split} for"
                    if words.word in files
                    else "no set and no volume"
                )
                known = sorted(volumes, key=lambda entry: entry.name not in files)
                raise ValueError(
                    f"{self.title} has {lacks} {words.word!r}; one of {', '.join(SETS)}, or a volume such "
                    f"as {', '.join(entry.name for entry in known[:NAMED_VOLUMES])}, is expected."
                )
        there = [entry for entry in wanted if entry.name in files]
        if not there:
            raise FileNotFoundError(
                f"{self.root()} holds none of the {len(wanted)} volumes that {named} names; "
                f"{self.layout} are expected ({self.download})."
            )
        if len(there) < len(wanted):
            warn_once(f"{self.root()} holds {len(there)} of the {len(wanted)} volumes of {named}")
        found = there[words.chosen]
        if not found:
            raise ValueError(
                f"{named} has {len(there)} volumes, and the range behind it chooses none of them; "
                "numbers from 0 are expected."
            )
        return found

    def listed(self, words: Words) -> list[str] | None:
        """Return the sources of the volumes that a source names, those that are not there included.

        Args:
            words: of the source.

        Returns:
            The sources; None where they would be others if all volumes were there.

        Raises:
            ValueError: as `chosen` does.
            FileNotFoundError: as `chosen` does, where the files have to be looked at.
        """
        if words.word not in (None, *SETS):
            return [f"{self.name}:{words.word}"]
        if self.split is None:
            # A folder is what lies in it; the rule divides a part of a public data set otherwise than the whole.
            whole = self.folder is not None or len(self.files()) >= self.held[-1]
            return [entry.volume for entry in self.chosen(words)] if whole else None
        wanted = [entry for entry in self.volumes() if words.word in (None, entry.set)]
        # Numbers count the volumes that are there.
        if (
            words.chosen != slice(None)
            and not self.files().keys() >= _by_name(tuple(wanted)).keys()
        ):
            return None
        return [entry.volume for entry in wanted[words.chosen]]

    def _warn_of_unlisted(self, files: dict[str, Path], volumes: tuple[SplitVolume, ...]) -> None:
        unlisted = sorted(files.keys() - _by_name(volumes).keys())
        if unlisted:
            warn_once(
                f"{self.name} has {len(unlisted)} volumes that {self.split} does not list, such as "
                f"{', '.join(unlisted[:NAMED_VOLUMES])}; they are left out"
            )


@cache
def _files(
    find: Callable[[Path], dict[str, Path]], root: Path, layout: str, title: str, download: str
) -> dict[str, Path]:
    found = find(root)
    if not found:
        hint = f" ({download})" if download else ""
        raise FileNotFoundError(f"{root} holds no volume of {title}; {layout} are expected{hint}.")
    return found


@cache
def warn_once(message: str) -> None:
    """Warn of a data set, which is looked at again and again."""
    logger.warning("%s", message)


@cache
def _volumes(dataset: DataSet, names: tuple[str, ...] | None) -> tuple[SplitVolume, ...]:
    if dataset.split is not None:
        entries = read_split(dataset.split.stem, dataset.split.parent)
        # Where several files of a folder are called the same, its volumes are called by their paths.
        called = {} if dataset.folder is None else _names_by_path(dataset)
        return tuple(
            entry._replace(volume=f"{dataset.name}:{called.get(entry.volume, entry.name)}")
            for entry in entries
        )
    *held, whole = dataset.held
    # Of a part of a data set a part is held.
    counts = [min(count, max(1, round(count * len(names) / whole))) for count in held]
    sets = split_by_rule({name: name for name in names}, *counts)
    common = {"kind": dataset.kind, "source": dataset.source, "licence": dataset.licence}
    return tuple(
        SplitVolume(volume=f"{dataset.name}:{name}", patient=name, set=sets[name], **common)
        for name in names
    )


def _names_by_path(dataset: DataSet) -> dict[str, str]:
    files = dataset.files()
    return {path.relative_to(dataset.root()).as_posix(): name for name, path in files.items()}


@cache
def _by_name(volumes: tuple[SplitVolume, ...]) -> dict[str, SplitVolume]:
    return {entry.name: entry for entry in volumes}


def split_file(name: str) -> Path:
    """Return the CSV file of a data set that comes with the package."""
    return FOLDER / f"{name}.csv"
