"""Which files hold a volume."""

from __future__ import annotations

from glob import escape
from pathlib import Path

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
