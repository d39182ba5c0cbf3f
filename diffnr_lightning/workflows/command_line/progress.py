"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger("diffnr")

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function ``(done, total, text)`` that shows how far the work is.

    Args:
        title: what is being done.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_writer(title)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        # A case may be called "ct[1]", which is no markup.
        task = bar.add_task(escape(title), total=None, text="")
        yield lambda done, total, text: bar.update(
            task, completed=done, total=total, text=escape(text)
        )


def _line_writer(title: str) -> Callable[[int, int, str], None]:
    last = time.monotonic()

    def write(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            logger.info("%s: %d of %d, %s", title, done, total, text)

    return write
