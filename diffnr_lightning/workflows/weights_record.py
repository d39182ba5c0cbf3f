"""The trained weights behind a result, by their hashes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import diffnr_lightning
from diffnr_lightning.files import sha256

PACKAGE = Path(diffnr_lightning.__file__).parent


def weights_record(learned: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of every file of weights by its path, in the package by its path there.

    Args:
        learned: files, and folders whose safetensors are meant.
    """
    found: dict[str, str] = {}
    for path in learned:
        files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
        for file in files:
            known = file.relative_to(PACKAGE) if file.is_relative_to(PACKAGE) else file
            found[known.as_posix()] = sha256(file)
    return found
