"""Processes that work at the same time: what they say, the failure of one, and an interruption."""

import logging
import os
import signal
import sys
import time

import pytest

from diffnr_lightning.workflows.machine.workers import Worker, run_workers


class Heard(logging.Handler):
    """Keep lines, and act on one that is waited for."""

    def __init__(self, awaited="", act=lambda: None):
        super().__init__()
        self.lines, self.awaited, self.act = [], awaited, act

    def emit(self, record):
        self.lines.append(record.getMessage())
        if self.awaited and self.lines[-1].endswith(self.awaited):
            self.act()


@pytest.fixture
def interruptible():
    """Ctrl-C raises and a closed terminal ends, even where the tests run in the background or under `nohup`."""
    interruption = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, interruption)
    signal.signal(signal.SIGHUP, hangup)


@pytest.fixture
def hear():
    logger, handlers = logging.getLogger("diffnr"), []
    level = logger.level
    logger.setLevel(logging.INFO)

    def listen(*arguments):
        handlers.append(Heard(*arguments))
        logger.addHandler(handlers[-1])
        return handlers[-1]

    yield listen
    logger.setLevel(level)
    for handler in handlers:
        logger.removeHandler(handler)


def worker(name, script):
    return Worker(name, [sys.executable, "-c", script])


def test_one_that_fails_stops_no_other(hear, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    heard = hear()
    late = (
        f"import time, os; time.sleep(0.3); open({str(tmp_path / 'late')!r}, 'w'); "
        "print(os.environ['OMP_NUM_THREADS'])"
    )
    with pytest.raises(ChildProcessError, match=r"1 of 2 workers .* \(cuda:1 \(2\)\)"):
        run_workers(
            [
                worker("cuda:0", late),
                worker("cuda:1", "import sys; print('no room', file=sys.stderr); sys.exit(2)"),
            ]
        )
    assert (tmp_path / "late").exists()
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    assert sorted(heard.lines) == [f"cuda:0: {cores}", "cuda:1: no room"]


def test_the_cores_of_a_job_are_divided(hear, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    # As `submit` sets it for the whole job, and as a user does for each process.
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    told = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['NUMBA_NUM_THREADS'])"
    heard = hear()
    run_workers([worker("cuda:0", told), worker("cuda:1", told)])
    assert sorted(heard.lines) == ["cuda:0: 4 3", "cuda:1: 4 3"]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, SystemExit),
        (signal.SIGHUP, SystemExit),
    ],
)
def test_an_interruption_ends_all(interruptible, hear, tmp_path, number, error, monkeypatch):
    """The second one ignores Ctrl-C and is killed with the process that it started."""
    monkeypatch.setattr("diffnr_lightning.workflows.machine.workers.SECONDS_TO_END", 0.2)
    hear("ready", lambda: os.kill(os.getpid(), number))
    begins = time.monotonic()
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid)); print('ready'); time.sleep(60)"
    )
    with pytest.raises(error):
        run_workers([worker("cpu", "import time; time.sleep(60)"), worker("stubborn", stubborn)])
    assert time.monotonic() - begins < 20
    child = int((tmp_path / "child").read_text())
    for _ in range(500):
        if not is_alive(child):
            break
        time.sleep(0.02)
    assert not is_alive(child)


def test_a_closed_terminal_that_is_ignored_ends_nothing(interruptible, hear, tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    hear("ready", lambda: os.kill(os.getpid(), signal.SIGHUP))
    late = f"print('ready', flush=True); open({str(tmp_path / 'late')!r}, 'w')"
    run_workers([worker("cpu", late)])
    assert (tmp_path / "late").exists()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def is_alive(pid):
    """Whether a process runs; one that nobody has buried yet does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
