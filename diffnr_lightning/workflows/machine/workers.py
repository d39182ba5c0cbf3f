"""Processes that work at the same time, one for each device, and end together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

logger = logging.getLogger("diffnr")

SECONDS_TO_END = 15.0
"""That a worker has after an interruption; what it leaves behind then is gone on with as after any kill."""

ENDING = ("SIGTERM", "SIGHUP")
"""Signals that end the workers, as far as the system has them."""

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")


class Worker(NamedTuple):
    """One process.

    Attributes:
        name: of the worker, such as its device; stands before its lines.
        command: words of its command line.
    """

    name: str
    command: list[str]


def cores_seen() -> int:
    """Return how many cores the system lets this process use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_task() -> int:
    """Return how many cores this process may use: those that a scheduler has given it, where they are fewer."""
    seen = cores_seen()
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(seen, int(given)) if given.isdigit() else seen


def run_workers(workers: Sequence[Worker]) -> None:
    """Run workers at the same time, and show what they say line by line; one that fails stops no other.

    The cores of this process are divided among them where the environment says no number of threads.

    Args:
        workers: what to run.

    Raises:
        ChildProcessError: some ended with an error; names them.
        KeyboardInterrupt: the command was interrupted, and all workers are at their end.
    """
    cores = cores_of_task()
    # A number for the whole task, which `submit` sets, is none that the user has chosen for a worker.
    chosen = {k: v for k, v in os.environ.items() if k not in THREADS or v != str(cores)}
    share = dict.fromkeys(THREADS, str(max(1, cores // len(workers))))
    environment = {**share, **chosen, "PYTHONUNBUFFERED": "1"}
    processes: list[subprocess.Popen[str]] = []
    with _ended_by_signals():
        try:
            for worker in workers:
                # A session of its own: Ctrl-C reaches the worker once, from here.
                process = subprocess.Popen(
                    worker.command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
                processes.append(process)
            shown = [
                threading.Thread(target=_show, args=pair, daemon=True)
                for pair in zip(workers, processes, strict=True)
            ]
            for thread in shown:
                thread.start()
            codes = [process.wait() for process in processes]
            for thread in shown:
                thread.join()
        finally:
            _end(processes)
    failed = [f"{w.name} ({code})" for w, code in zip(workers, codes, strict=True) if code]
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {len(workers)} workers ended with an error ({', '.join(failed)}); what they said stands "
            "above, and the same command goes on with what is left."
        )


def _show(worker: Worker, process: subprocess.Popen[str]) -> None:
    for line in process.stdout:
        logger.info("%s: %s", worker.name, line.rstrip())


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the workers too, as Ctrl-C does; alone in their sessions they would go on.

    What is ignored, as `nohup` asks for, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {n: signal.getsignal(n) for n in known if signal.getsignal(n) != signal.SIG_IGN}

    def end(number: int, _: FrameType | None) -> None:
        # Kernel and shell both tell of a closed terminal; the second must not interrupt the end of the workers.
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Interrupt what still runs, and kill with its children what does not end soon."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
