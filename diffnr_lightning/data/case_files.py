"""A case from wherever it is stored."""

from __future__ import annotations

from pathlib import Path

from diffnr_lightning.data.cases import Case, read_case
from diffnr_lightning.data.naf_pickles import SUFFIXES, read_naf_pickle


def load_case(path: str | Path) -> Case:
    """Read a case folder (ours, R2-Gaussian's or DiffNR's) or a NAF pickle.

    Raises:
        FileNotFoundError: nothing is there, or the folder lacks a file it lists.
        ValueError: damaged files, missing keys, contradictory geometry, wrong shapes or NaN.
    """
    path = Path(path)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return read_naf_pickle(path)
    if path.is_file():
        raise ValueError(
            f"case {path} is a file of unknown type; a case folder or a NAF pickle "
            f"({' or '.join(SUFFIXES)}) is expected."
        )
    return read_case(path)
