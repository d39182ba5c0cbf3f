"""Errors that are of one run, and stop none of the others."""

from __future__ import annotations

import traceback


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
