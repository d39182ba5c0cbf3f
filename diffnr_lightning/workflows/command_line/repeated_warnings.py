"""Warnings that the steps of one run would say again and again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Number


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Say a warning of ours once while one scan is worked on, whatever the numbers in it.

    The scale, the surroundings and the start of one reconstruction all come from FDK, which warns each time of a body
    that is wider than the detector, by a share that changes once the surroundings are subtracted.
    """
    logger, said = logging.getLogger("diffnr"), _FirstOfEach()
    logger.addFilter(said)
    try:
        yield
    finally:
        logger.removeFilter(said)


class _FirstOfEach(logging.Filter):
    """Let a warning pass where none with its template and names, all but its numbers, came before it."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: set[tuple[str, ...]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        words = (str(record.msg), *(str(a) for a in arguments if not isinstance(a, Number)))
        first = words not in self._passed
        self._passed.add(words)
        return first
