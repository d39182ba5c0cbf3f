"""The data sets that sources may name, and the volumes that a source names."""

from __future__ import annotations

from pathlib import Path

from diffnr_lightning.data.datasets import luna16, toothfairy
from diffnr_lightning.data.datasets.dataset import DataSet
from diffnr_lightning.data.datasets.volume_folder import volume_folder
from diffnr_lightning.data.datasets.words import Words, names_data_set, read_words, volume_word
from diffnr_lightning.data.splits import SplitVolume, listed

_STRICTNESS = {"train": 0, "development": 1, "test": 2}
PUBLIC = {dataset.name: dataset for dataset in (luna16.DATA_SET, toothfairy.DATA_SET)}


def data_set(source: str) -> DataSet:
    """Return the data set of a source.

    Raises:
        ValueError: words that name none.
    """
    name = read_words(source).dataset
    return PUBLIC.get(name) or volume_folder(name.partition(":")[2])


def selected_volumes(source: str) -> list[SplitVolume]:
    """Return the volumes that a source names, each with its own source in `volume`.

    Args:
        source: `luna16:test`, `toothfairy:train[0:10]`, `folder:/data/ct`, ...

    Raises:
        ValueError: words that name none, or a variable that is not set.
        FileNotFoundError: a data set that is not there.
    """
    return data_set(source).chosen(_words(source))


def listed_sources(source: str) -> list[str] | None:
    """Return the sources of the volumes that a source names, those that are not there included.

    Args:
        source: as for `selected_volumes`.

    Returns:
        The sources; None where they would be others if all volumes were there.

    Raises:
        ValueError: as `selected_volumes` does.
        FileNotFoundError: as `selected_volumes` does, where the files have to be looked at.
    """
    return data_set(source).listed(_words(source))


def _words(source: str) -> Words:
    """Read a source; a volume of a folder goes before a range, as in `folder:/data/ct:scan[1]`."""
    words, dataset = read_words(source), data_set(source)
    name = source.removeprefix(f"{words.dataset}:")
    # Only words with a range behind them mean two things, which the files tell apart.
    if dataset.folder is None or words.word in (None, name) or name not in dataset.files():
        return words
    return Words(words.dataset, name, slice(None))


def known_volume(source: str) -> SplitVolume | None:
    """Return what is known of a volume; None where no split and no data set lists it.

    Args:
        source: a file, a generated object, or one volume of a data set. Of a folder's volume that a split lists too the
            stricter set counts.
    """
    if not names_data_set(source):
        return listed(source)
    word = volume_word(source)
    try:
        dataset = data_set(source)
        known = dataset.entry(word)
        file = None if dataset.folder is None else dataset.files().get(word)
    # The rule needs the folder, which may be elsewhere by now.
    except (FileNotFoundError, ValueError):
        return None
    return stricter(known, file)


def stricter(known: SplitVolume | None, file: Path | None) -> SplitVolume | None:
    """Return what is known of a volume of a folder, which may hold what a split keeps under a rule of its own.

    Args:
        known: what the folder says; None where it says nothing.
        file: of the volume; None where the data set is no folder.
    """
    kept = None if file is None else listed(str(file))
    if known is None or kept is None:
        return known or kept
    return kept if _STRICTNESS[kept.set] > _STRICTNESS[known.set] else known


def located(source: str) -> tuple[DataSet, str, Path]:
    """Return the data set, the name and the file of the volume that a source names.

    Args:
        source: of one volume, or of a set of which one is chosen: `luna16:test[0]`.

    Raises:
        ValueError: words that name none or several, or a variable that is not set.
        FileNotFoundError: a data set or a volume that is not there.
    """
    dataset, word = data_set(source), volume_word(source)
    files = dataset.files()
    if word not in files:
        found = dataset.chosen(read_words(source))
        if len(found) > 1:
            raise ValueError(
                f"volume is {source!r}, which names {len(found)} volumes; one is expected, such as {found[0].volume}."
            )
        word = found[0].name
    return dataset, word, files[word]
