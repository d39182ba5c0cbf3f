"""Numbers in text files and NPY, a view a line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

BETWEEN = re.compile(r"[\s,;]+")
COMMENTS = ("#", "%", "//")


def read_table(path: Path) -> np.ndarray:
    """Read the numbers of a text file (lines, numbers), or of an NPY file in its shape, as float64.

    Numbers stand between blanks, commas or semicolons; empty lines and such as begin with #, % or // are left out, and
    so is a first line of words.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: words, NaN, lines of different lengths, or nothing at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"file {path} does not exist; check the path.")
    try:
        numbers = (
            np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _text(path)
        )
        table = np.asarray(numbers, dtype=np.float64)
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise ValueError(
            f"file {path} holds no table of numbers; a view a line, as many numbers in each, is expected."
        ) from error
    if not table.size or not np.isfinite(table).all():
        raise ValueError(f"file {path} holds no numbers, or NaN; finite ones are expected.")
    return table


def _text(path: Path) -> list[list[float]]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line and not line.startswith(COMMENTS)]
    if lines and re.match(r"[A-Za-z\"']", lines[0]):
        del lines[0]
    return [[float(word) for word in BETWEEN.split(line) if word] for line in lines]
