"""The trained weights behind a result, by their hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def same_weights(recorded: Mapping[str, str], before: str, now: str) -> bool:
    """Return whether a file or folder holds the weights that another one held, when these were recorded.

    Args:
        recorded: what `weights_record` returned then.
        before: the file or folder of then.
        now: the one of now, which may be missing.
    """
    known = _below(recorded, before)
    if not known or not Path(now).exists():
        return False
    return known == _below(weights_record([Path(now)]), now)


def _below(recorded: Mapping[str, str], place: str) -> dict[Path, str]:
    """Return hashes by paths relative to a place."""
    return {
        Path(path).relative_to(place): digest
        for path, digest in recorded.items()
        if Path(path).is_relative_to(place)
    }
