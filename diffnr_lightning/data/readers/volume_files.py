"""Which files hold a volume."""

from __future__ import annotations

import hashlib
from functools import cache
from glob import escape
from pathlib import Path

from diffnr_lightning.files import json_sha256

# Of a file of gigabytes these pieces are looked at: volumes that differ do so along their middle, if not at their ends.
PIECES, PIECE_BYTES = 9, 2**14
CONTENT_LENGTH = 12
DETACHED_HEADERS = (".mhd", ".nhdr")
"""Suffixes of headers whose voxels lie in a file of the same name beside them."""


def volume_files(path: Path) -> list[Path]:
    """Return the files of a volume, in order; none where it is not there.

    Args:
        path: a file, a header beside the file of its voxels, or a folder of slices, of which hidden files are no part.
    """
    if path.is_dir():
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
    elif path.suffix.lower() in DETACHED_HEADERS:
        files = list(path.parent.glob(f"{escape(path.stem)}.*"))
    else:
        files = [path]
    return sorted(file for file in files if file.is_file())


def volume_content(path: Path) -> str | None:
    """Return what tells a volume from others of its name, wherever it lies; None where it is no more.

    Args:
        path: see `volume_files`.
    """
    states = [(file.name, file.stat()) for file in volume_files(path)]
    if not states:
        return None
    seen = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    return _known_content(path, json_sha256(seen))


# Every scan of a volume asks for it, and a series has hundreds of files.
@cache
def _known_content(path: Path, seen: str) -> str:
    """Return the content of a volume whose files have been `seen` to have these names, sizes and times."""
    digest = hashlib.sha256()
    for file in volume_files(path):
        size = file.stat().st_size
        digest.update(f"{size} ".encode())
        with file.open("rb") as content:
            for piece in range(PIECES):
                content.seek(max(0, size - PIECE_BYTES) * piece // (PIECES - 1))
                digest.update(content.read(PIECE_BYTES))
    return digest.hexdigest()[:CONTENT_LENGTH]
