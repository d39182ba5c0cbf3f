"""How numba compiles and launches: the arithmetic, the cache, the threads and the one lock.

Every compiled function of the package is made by `parallel_kernel` (entered from Python, runs on
all threads) or by `kernel_part` (runs on one, mostly called by other kernels).
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Set
from functools import cache, update_wrapper
from pathlib import Path
from typing import Any, Literal

import numba
from numba import prange

__all__ = [
    "APPROXIMATE",
    "RELAXED",
    "UNGROUPED",
    "kernel_part",
    "num_threads",
    "parallel_kernel",
    "prange",
]

logger = logging.getLogger("diffnr")

# Sums may be regrouped and multiplications fused, but NaN and infinity keep their meaning, so that
# a broken volume cannot turn into a plausible projection.
RELAXED = frozenset({"reassoc", "contract", "arcp", "nsz"})
# Numba compiles a parallel kernel twice, for the process and for its cache, and LLVM may regroup
# the sums of the two differently: a run resumed in a new process would end in other last digits.
# This is for kernels in which that was seen (tests/test_compiled_kernels.py).
UNGROUPED = RELAXED - {"reassoc"}
# Square roots and quotients may be off by some last digits, too.
APPROXIMATE = RELAXED | {"afn"}

ErrorModel = Literal["python", "numpy"]

# Numba compiles the value of a constant into a kernel, whichever file it is from.
_IMPORT = re.compile(rb"^from (diffnr_lightning[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)
_CONSTANT = re.compile(rb"\b[A-Z][A-Z0-9_]*\b")

# numba's "workqueue" threading layer (taken where neither OpenMP nor TBB is found) aborts the
# process when two Python threads are inside of parallel kernels, be they different ones.
_LAUNCH = threading.Lock()


class ParallelKernel:
    """A compiled function with parallel loops, which waits while another one runs.

    Args:
        compiled: what numba made of it.
    """

    def __init__(self, compiled: Any) -> None:
        update_wrapper(self, compiled.py_func)
        self._compiled = compiled

    def __call__(self, *arguments: Any) -> Any:
        """Run it; compiles it first, or loads it from the cache, for arguments of a new type."""
        with _LAUNCH:
            return self._compiled(*arguments)

    @property
    def signatures(self) -> list[Any]:
        """The types of arguments that it has been compiled for."""
        return self._compiled.signatures


def parallel_kernel(
    arithmetic: Set[str] | None = None, error_model: ErrorModel | None = None
) -> Callable[[Callable[..., Any]], ParallelKernel]:
    """Return a decorator that compiles a function with `prange` loops for all threads.

    The kernel is called from Python only.

    Args:
        arithmetic: what the compiler may do to floating-point expressions: `RELAXED`, `UNGROUPED`,
            `APPROXIMATE`, or nothing.
        error_model: of divisions by zero: "python", which None stands for, raises; "numpy" gives
            infinity and is faster.
    """

    def decorate(function: Callable[..., Any]) -> ParallelKernel:
        return ParallelKernel(_compiled(function, arithmetic, error_model, parallel=True))

    return decorate


def kernel_part(
    arithmetic: Set[str] | None = None,
    error_model: ErrorModel | None = None,
    *,
    inline: bool = False,
) -> Callable[[Callable[..., Any]], ParallelKernel]:
    """Return a decorator that compiles a function without parallel loops, which kernels may call.

    Args:
        arithmetic: as in `parallel_kernel`; None takes that of the kernel that calls it first, as
            numba does.
        error_model: likewise.
        inline: whether its statements are copied into the kernels that call it.
    """
    inlined = "always" if inline else "never"

    def decorate(function: Callable[..., Any]) -> Any:
        return _compiled(function, arithmetic, error_model, inline=inlined)

    return decorate


def _compiled(
    function: Callable[..., Any],
    arithmetic: Set[str] | None,
    error_model: ErrorModel | None,
    **kind: Any,
) -> Any:
    """Return what numba makes of a function, with a cache where there is a place for one."""
    options = {**_options(arithmetic, error_model), **kind}
    try:
        return _stamped(numba.njit(cache=True, **options)(function))
    except RuntimeError:  # neither the folder of the file nor the user's cache can be written
        _warn_without_cache()
        return numba.njit(**options)(function)


@cache
def _warn_without_cache() -> None:
    logger.warning(
        "kernels are compiled anew in every process, since numba finds no folder that it can write to; name one in "
        "NUMBA_CACHE_DIR."
    )


def _options(arithmetic: Set[str] | None, error_model: ErrorModel | None) -> dict[str, Any]:
    """Return numba's options; it takes an explicit default otherwise than one left out."""
    options: dict[str, Any] = {}
    if arithmetic is not None:
        options["fastmath"] = set(arithmetic)
    if error_model is not None:
        options["error_model"] = error_model
    return options


def _stamped(compiled: Any) -> Any:
    """Let the cache of a kernel be of all files of kernels: numba's is of one, and kernels take from several."""
    # There is none where numba has no place for it, or compiles nothing.
    file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if file is not None:
        file._source_stamp = (file._source_stamp, _sources())
    return compiled


@cache
def _sources() -> str:
    """Return a digest of all files of the package that compiled kernels come from."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _files())).hexdigest()


def _files() -> list[Path]:
    """Return this file, all of the package that import from it, and those that these import constants from."""
    root = Path(__file__).parent
    texts = {path: path.read_bytes() for path in root.rglob("*.py")}
    made = {path for path, text in texts.items() if b"diffnr_lightning.kernels" in text}
    made.add(Path(__file__))
    modules = {
        module.decode()
        for path in made
        for module, names in _IMPORT.findall(texts[path])
        if _CONSTANT.search(names)
    }
    places = {root.parent.joinpath(*module.split(".")) for module in modules}
    given = {p / "__init__.py" if p.is_dir() else p.with_suffix(".py") for p in places}
    return sorted(made | given)


def num_threads() -> int:
    """Return how many threads a kernel runs on that is launched from the current Python thread."""
    return numba.get_num_threads()
