"""Locks on a folder that several processes meet in; they end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("diffnr")

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems answer that have no locks, such as some of clusters."""

TRIES, BETWEEN_TRIES = 100, 0.01
"""How often, and every how many seconds, is looked for the name of the process that holds a lock."""


class FolderInUseError(ValueError):
    """Another process holds the lock."""


@contextmanager
def folder_lock(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock; the file that stands for it is removed at the end.

    Locks are those of POSIX (`fcntl`): they belong to the process, so that neither data-loading
    workers nor a kill leave one behind, and hold between machines that share a folder.

    Args:
        path: of the lock's file, in a folder that exists.
        wait: whether to wait for the process that holds it.

    Raises:
        FolderInUseError: another process holds it, and `wait` is false.
        OSError: the folder cannot be written.
    """
    file = None
    try:
        file = _locked(path, wait)
        yield
    finally:
        if file is not None:
            # Before the lock is given up: whoever waits finds that the file is gone and makes one.
            path.unlink(missing_ok=True)
            os.close(file)


def _locked(path: Path, wait: bool) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                logger.warning(
                    "%s: this file system has no locks; let no other process work on it.",
                    path.parent,
                )
                return file
            try:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                raise FolderInUseError(_holder(file)) from None
            finally:
                os.close(file)
        if _is_still_at(file, path):
            os.truncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        os.close(file)


def _holder(file: int) -> str:
    """Who holds the lock; it is waited for that a process which has just got it writes that down."""
    for _ in range(TRIES):
        if holder := os.pread(file, 200, 0).decode(errors="replace").strip():
            return holder
        time.sleep(BETWEEN_TRIES)
    return "another process"


def _is_still_at(file: int, path: Path) -> bool:
    """Whether the file was not removed between opening and locking it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(file)
    return (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino)
