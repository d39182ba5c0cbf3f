"""Files and folders that appear whole or not at all, whenever the process is killed; and what tells contents apart."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

OLD = ".old"
READ_AT_ONCE = 1 << 20
SECOND_FINGERPRINT = ".v2."
"""Between a content's fingerprint of the first version and what that one did not hold."""

_being_written: set[Path] = set()
"""Absolute names that this process writes to."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; `path` changes only when all is written.

    The name ends as `path` does, since writers choose the format by it.

    Args:
        path: file that is wanted; its folder is made where it is missing.

    Raises:
        ValueError: a path that cannot be written.
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _fresh_part(path)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        _close(part)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; it takes the place of `path` when all is written.

    Args:
        path: folder that is wanted; an older one is removed when the new one stands. A link stays, and the folder that
            it leads to is exchanged.

    Raises:
        ValueError: a path that cannot be written.
    """
    part = None
    try:
        real = Path(os.path.realpath(path))
        real.parent.mkdir(parents=True, exist_ok=True)
        part = _fresh_part(real)
        part.mkdir()
        yield part
        _exchange(part, real)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        _close(part)


def write_bytes(path: Path, *pieces: bytes | memoryview) -> Path:
    """Write a file of the pieces in this order, whole or not at all, and return its path.

    Raises:
        ValueError: a path that cannot be written.
    """
    with replacing(path) as part, part.open("wb") as file:
        file.writelines(pieces)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a file of text in UTF-8, whole or not at all, and return its path.

    Raises:
        ValueError: a path that cannot be written.
    """
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> Path:
    """Write what JSON can hold, indented, whole or not at all, and return the path.

    Raises:
        ValueError: a path that cannot be written.
    """
    return write_text(path, json.dumps(content, indent=2) + "\n")


def table_text(path: Path) -> io.StringIO:
    """Return the text of a CSV file; spreadsheets put a byte order mark before it.

    Raises:
        ValueError: a file that is no text in UTF-8.
    """
    try:
        return io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8; save it as CSV in that encoding.") from error


def stored_file(folder: Path, name: str) -> Path:
    """Return the file of a name that another file of the folder says, which may have been written on Windows."""
    file = folder / name
    if "\\" in name and not file.exists():
        return folder / PureWindowsPath(name).as_posix()
    return file


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


def json_sha256(content: Any) -> str:
    """Return the SHA-256 of what JSON can hold in hexadecimal digits."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def same_content(recorded: str, now: str) -> bool:
    """Return whether a fingerprint on record is that of a content, as this version or an earlier one took it.

    Args:
        recorded: of either version.
        now: of this version, which begins with that of the earlier one.
    """
    return recorded in (now, now.partition(SECOND_FINGERPRINT)[0])


def claim(path: Path, text: str) -> None:
    """Write a file of text unless there is one; of several processes the first to finish wins.

    Raises:
        ValueError: a path that cannot be written.
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _fresh_part(path)
        part.write_text(text, encoding="utf-8")
        try:
            # Unlike a replacement, a link never takes the place of another process's file.
            os.link(part, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            os.replace(part, path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        _close(part)


def whole_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern, sorted, without those that are being written.

    Args:
        folder: where to look.
        pattern: of names, such as ``*.safetensors``.
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def folders_below(top: Path, hidden: bool = True) -> Iterator[tuple[Path, frozenset[str]]]:
    """Yield a folder and all below it, each once, with the names of its files; what links lead to comes last.

    Args:
        top: where to begin.
        hidden: whether folders whose names begin with a dot, below the first, are among them.
    """
    known: set[str] = set()
    starts = [top]
    for start in starts:
        for place, below, files in os.walk(start):
            real = os.path.realpath(place)
            if real in known:  # by another link, or by one to a folder around it
                below.clear()
                continue
            known.add(real)
            below[:] = sorted(name for name in below if hidden or not name.startswith("."))
            starts += [link for link in (Path(place, name) for name in below) if link.is_symlink()]
            yield Path(place), frozenset(files)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote.

    Args:
        folder: that nobody else writes to.
    """
    for leftover in folder.glob(".*.part.*"):
        _remove(leftover)


def _fresh_part(path: Path) -> Path:
    """Return a name to write to, once what killed processes of this machine left is removed."""
    prefix = f".{socket.gethostname()}."
    for suffix in ("", OLD):
        for left in path.parent.glob(
            f"{glob.escape(prefix)}*.part.{glob.escape(path.name)}{suffix}"
        ):
            number = left.name.removeprefix(prefix).partition(".")[0]
            if number.isdigit() and not _is_in_use(left, int(number)):
                _remove(left)
    part = _part(path)
    _being_written.add(part.absolute())
    return part


def _close(part: Path | None) -> None:
    """Remove a name to write to, if it is still there; None is one that could not be made."""
    if part is not None:
        _remove(part)
        _being_written.discard(part.absolute())


def _is_in_use(part: Path, process: int) -> bool:
    """Whether the process writes to it; a restarted container gives a process the number of the one that was killed."""
    if process == os.getpid():
        return part.absolute() in _being_written
    return _is_alive(process)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives and is somebody else's
    return True


def _remove(leftover: Path) -> None:
    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    # Processes of several machines share a folder, and their numbers may be the same.
    return path.with_name(f".{socket.gethostname()}.{os.getpid()}.part.{path.name}")


def _exchange(part: Path, path: Path) -> None:
    """Put a finished folder at `path`; an older one is moved away first, removed last."""
    old = part.with_name(f"{part.name}{OLD}")
    if path.exists():
        os.replace(path, old)
    os.replace(part, path)
    shutil.rmtree(old, ignore_errors=True)


def _refused(path: Path, error: OSError) -> ValueError:
    # NumPy counts the bytes that found no place, and names no reason.
    short = " requested and " in str(error)
    reason = f"it was cut short, as where a disk is full ({error})" if short else error.strerror
    return ValueError(f"{path} cannot be written: {reason or error}.")
