"""The words by which a source names volumes of a data set, such as `luna16:test[0:10]`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

# Data sets that are called by a name; those of a folder are called `folder:PATH`.
NAMED = ("luna16", "toothfairy")
FOLDER = "folder"

_NAMED = re.compile(
    rf"(?P<dataset>{'|'.join(NAMED)}):(?P<word>[\w.-]+)(?:\[(?P<range>\d*:?\d*)\])?"
)
_FOLDER = re.compile(
    rf"{FOLDER}:(?P<dataset>[^\[\]]+?)(?::(?P<word>[^:/\[\]]+))?(?:\[(?P<range>\d*:?\d*)\])?"
)
# Folders and their volumes may be called as they like, `/data/CT [2020]/head:scan [post]` for example.
_BRACKETS = re.compile(
    rf"{FOLDER}:(?P<dataset>.+?)(?::(?P<word>[^:/]+?))?(?:\[(?P<range>\d*:?\d*)\])?"
)


class Words(NamedTuple):
    """What a source says.

    Attributes:
        dataset: one of `NAMED`, or ``folder:PATH``.
        word: a set or a volume; None is every volume of a folder.
        chosen: which of the set, counted from 0.
    """

    dataset: str
    word: str | None
    chosen: slice


def names_data_set(source: str) -> bool:
    """Tell whether a source names volumes of a data set, and no file."""
    return source.partition(":")[0] in (*NAMED, FOLDER) and ":" in source


def read_words(source: str) -> Words:
    """Read a source that names volumes of a data set.

    Args:
        source: `luna16:WORD` or `toothfairy:WORD`, the word being a set or a volume; `folder:PATH` or
            `folder:PATH:WORD`. Behind it `[3]`, `[0:10]`, `[:10]` or `[10:]` chooses of the set; other brackets are
            part of a volume's name. A folder that is called so goes before a choice, as in `folder:/data/CT [2020]`.

    Raises:
        ValueError: words that are none of these.
    """
    kind, _, path = source.partition(":")
    if kind == FOLDER and path.endswith("]") and Path(path).is_dir():
        return Words(source, None, slice(None))
    named = _NAMED.fullmatch(source)
    found = named or _FOLDER.fullmatch(source) or _BRACKETS.fullmatch(source)
    if found is None:
        name = source.partition(":")[0]
        where = (
            "folder:PATH or folder:PATH:SET" if name == FOLDER else f"{name}:SET or {name}:VOLUME"
        )
        raise ValueError(
            f"volumes has {source!r}; {where} is expected, with [3] or [0:10] behind it for some of a set."
        )
    dataset = found["dataset"] if named else f"{FOLDER}:{found['dataset']}"
    return Words(dataset, found["word"], _slice(found["range"]))


def volume_word(source: str) -> str:
    """Return the volume that a source names, such as `P12` of `toothfairy:P12`."""
    return source.rpartition(":")[2]


def _slice(text: str | None) -> slice:
    if not text:
        return slice(None)
    first, colon, last = text.partition(":")
    if not colon:
        return slice(int(first), int(first) + 1)
    return slice(int(first) if first else None, int(last) if last else None)
