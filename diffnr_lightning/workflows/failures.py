"""Which errors are of one run, and stop none of the others."""

from __future__ import annotations


def is_failure(error: Exception) -> bool:
    """Whether an error is of what was asked for, its files, its packages or its memory, and not of the program.

    After a device has run out of memory, what torch keeps of it is given back, so that the next run has all of it.
    """
    if isinstance(error, (ValueError, TypeError, OSError, ImportError, MemoryError)):
        return True
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return True
    return False
