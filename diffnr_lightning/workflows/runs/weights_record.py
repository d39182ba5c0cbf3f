"""The trained weights behind a result, by their hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
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
            found[known.as_posix()] = _digest(file)
    return found


def changed_weights(recorded: Mapping[str, str], named: Iterable[str]) -> list[str]:
    """Return which files and folders of weights hold others by now; what is gone or new is not among them.

    Args:
        recorded: what `weights_record` returned then.
        named: the files and folders that settings name; other words are no harm.
    """
    return [
        place
        for place in dict.fromkeys(named)
        if Path(place).parts  # all is below no place
        and any(
            Path(place, path).is_file() and _digest(Path(place, path)) != digest
            for path, digest in _below(recorded, place).items()
        )
    ]


def updated_weights(recorded: Mapping[str, str]) -> list[str]:
    """Return which weights of the package are others by now.

    Args:
        recorded: what `weights_record` returned then.
    """
    own = {name: PACKAGE / name for name in recorded if not Path(name).is_absolute()}
    return [
        name for name, file in own.items() if file.is_file() and _digest(file) != recorded[name]
    ]


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


def _digest(file: Path) -> str:
    state = file.stat()
    return _digest_of_state(file, state.st_size, state.st_mtime_ns)


@cache
def _digest_of_state(file: Path, size: int, changed_ns: int) -> str:
    """Return the hash of a file in a state; the runs of a sweep have one prior, which may be of gigabytes."""
    return sha256(file)


def _below(recorded: Mapping[str, str], place: str) -> dict[Path, str]:
    """Return hashes by paths relative to a place."""
    return {
        Path(path).relative_to(place): digest
        for path, digest in recorded.items()
        if Path(path).is_relative_to(place)
    }
