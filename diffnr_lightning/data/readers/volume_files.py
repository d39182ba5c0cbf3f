"""Which files hold a volume."""

from __future__ import annotations

import hashlib
from functools import cache
from glob import escape
from os import R_OK, access
from os.path import isfile
from pathlib import Path

from diffnr_lightning.data.readers.dicom_series import series_files
from diffnr_lightning.data.readers.itk_images import META_SUFFIXES, NRRD_SUFFIXES, data_files
from diffnr_lightning.data.readers.tiff_stack import tiff_slices
from diffnr_lightning.files import json_sha256

# Of a file of gigabytes these pieces are looked at: volumes that differ do so along their middle, if not at their ends.
PIECES, PIECE_BYTES = 9, 2**14
CONTENT_LENGTH = 12
DETACHED_HEADERS = (".mhd", ".nhdr")
"""Suffixes of headers whose voxels earlier versions looked for in all files of the same name beside them."""


def volume_files(path: Path) -> list[Path]:
    """Return the files of a volume, in order; none where it is not there.

    Args:
        path: a file, of which a header comes with the files of voxels that it names, or a folder of slices, of which
            hidden files and those that are no slices are no part.
    """
    if path.is_dir():
        files = _visible(path)
        states = tuple((file.name, *file_state(file)) for file in files)
        return [path / name for name in _known_slices(path, states)]
    files = {path}
    if path.suffix.lower() in (*META_SUFFIXES, *NRRD_SUFFIXES) and path.is_file():
        files.update(data_files(path))
    # Of names in a damaged header `is_file` raises errors.
    return sorted(file for file in files if isfile(file))


def refuse_unreadable(path: Path) -> None:
    """Refuse files that nobody here may read: readers take them for damaged, or pass over them.

    Args:
        path: a volume that is there, see `volume_files`. Of a folder all files count that are not hidden, as nothing
            tells whether they are slices.

    Raises:
        ValueError: names the first of them.
    """
    files = _visible(path) if path.is_dir() else [path]
    locked = [file for file in files if not access(file, R_OK)]
    if not locked and path.is_file():
        locked = [file for file in volume_files(path) if not access(file, R_OK)]
    if locked:
        hint = ", or move it away if the volume is whole without it" if path.is_dir() else ""
        raise ValueError(
            f"{locked[0]} cannot be read: Permission denied; make it readable for this user{hint}."
        )


def files_of_before(path: Path) -> list[Path]:
    """Return what earlier versions took for the files of a volume, of which they kept hashes.

    Args:
        path: see `volume_files`.
    """
    if path.is_dir():
        return _visible(path)
    files = [path]
    if path.suffix.lower() in DETACHED_HEADERS:
        files = list(path.parent.glob(f"{escape(path.stem)}.*"))
    return sorted(file for file in files if file.is_file())


def volume_content(path: Path, recorded: str | None = None) -> str | None:
    """Return what tells a volume from others of its name, wherever it lies; None where it is no more.

    Args:
        path: see `volume_files`.
        recorded: is returned where it is what an earlier version told of the volume as it is.
    """
    now = _content(volume_files(path))
    if recorded in (None, now):
        return now
    return recorded if _content(files_of_before(path)) == recorded else now


def file_state(file: Path) -> tuple[int, int]:
    """Return size in bytes and time of modification in nanoseconds, which change where a file does."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def _visible(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    return sorted(file for file in files if file.is_file())


# To ask which files are of a series is to read the headers of all.
@cache
def _known_slices(folder: Path, states: tuple[tuple[str, int, int], ...]) -> tuple[str, ...]:
    """Return the names of the slices that are read of a folder with these files; all where no slices are found."""
    names = [name for name, *_ in states]
    try:
        slices = [file for files in series_files(folder).values() for file in files]
    except ValueError:  # a damaged header, which the reader tells of
        return tuple(names)
    known = {file.name for file in slices or tiff_slices(folder)}
    return tuple(name for name in names if name in known) or tuple(names)


def _content(files: list[Path]) -> str | None:
    if not files:
        return None
    return _known_content(
        tuple(files), json_sha256([(file.name, *file_state(file)) for file in files])
    )


# Every scan of a volume asks for it, and a series has hundreds of files.
@cache
def _known_content(files: tuple[Path, ...], seen: str) -> str:
    """Return the content of a volume whose files have been `seen` to have these names, sizes and times."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{size} ".encode())
        with file.open("rb") as content:
            for piece in range(PIECES):
                content.seek(max(0, size - PIECE_BYTES) * piece // (PIECES - 1))
                digest.update(content.read(PIECE_BYTES))
    return digest.hexdigest()[:CONTENT_LENGTH]
