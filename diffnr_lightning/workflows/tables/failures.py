"""Errors that are of one run, and stop none of the others."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("diffnr")


class Failures:
    """What could not be finished of many scans or runs, none of which stops the rest.

    Args:
        kinds: what these are, in words.
    """

    def __init__(self, kinds: str) -> None:
        self.kinds = kinds
        self.errors: list[ValueError] = []

    @contextmanager
    def kept(self, where: str) -> Iterator[None]:
        """Tell of a failure at once, keep it and go on behind the block; defects pass.

        Args:
            where: what is worked on.
        """
        try:
            yield
        except Exception as error:
            if not is_failure(error):
                raise
            logger.error("left out: %s: %s", where, error)
            told = ValueError(f"{where}: {error}")
            told.__cause__ = error
            let_go(error)
            self.errors.append(told)

    def tell(self) -> None:
        """Raise ValueError if there is any."""
        if len(self.errors) > 1:
            texts = " ".join(map(str, self.errors))
            raise ValueError(
                f"{len(self.errors)} {self.kinds} could not be finished, all others are. {texts}"
            ) from self.errors[0]
        if self.errors:
            raise self.errors[0]


def is_failure(error: Exception) -> bool:
    """Whether an error is of what was asked for, its files, its packages or its memory, and not of the program."""
    if isinstance(error, (ValueError, TypeError, OSError, ImportError, MemoryError)):
        return True
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def let_go(error: BaseException) -> None:
    """Give back the memory of a run that failed, which its error holds as long as somebody keeps that.

    Where it came from can be shown afterwards, too.

    Args:
        error: with its traceback, in whose frames volumes and networks are.
    """
    import torch

    held: BaseException | None = error
    while held is not None:
        traceback.clear_frames(held.__traceback__)
        held = held.__cause__ or held.__context__
    # What torch keeps of a GPU's memory for tensors to come may not be what the next run needs.
    torch.cuda.empty_cache()
