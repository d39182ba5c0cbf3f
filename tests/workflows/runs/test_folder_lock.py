import fcntl
import multiprocessing
import os
import time

import pytest

from diffnr_lightning.workflows.runs import folder_lock as module
from diffnr_lightning.workflows.runs.folder_lock import FolderInUseError, folder_lock

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def lock(tmp_path):
    """A function that lets another process hold the lock and, after some seconds, write down who it is."""
    path, locked, done = tmp_path / ".running", FORK.Event(), FORK.Event()

    def hold(after):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.lockf(file, fcntl.LOCK_EX)
        locked.set()
        if after is not None:
            time.sleep(after)
            os.write(file, b"process 7 on here\n")
        done.wait(60)

    def held(after):
        holder.append(FORK.Process(target=hold, args=(after,)))
        holder[0].start()
        assert locked.wait(60)
        return path

    holder = []
    yield held
    done.set()
    holder[0].join(10)


def test_who_has_just_got_the_lock_is_named(lock):
    path = lock(0.2)
    with (
        pytest.raises(FolderInUseError, match="^process 7 on here$"),
        folder_lock(path, wait=False),
    ):
        pass


def test_who_never_says_who_it_is_is_another_process(lock, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 2)
    path = lock(None)
    with pytest.raises(FolderInUseError, match="^another process$"), folder_lock(path, wait=False):
        pass
    assert path.exists()
