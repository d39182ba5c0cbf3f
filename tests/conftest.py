"""What all tests share: quiet threads, compiled kernels that are kept, real data, a GPU or none."""

import importlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Workers and subcommands of tests find the stand-ins beside this file.
sys.path.insert(0, str(Path(__file__).parent))
session_environment = importlib.import_module("session_environment")

session_environment.forget_screen(os.environ)
session_environment.forget_job(os.environ)
# Before torch and numba are imported by any test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("NUMBA_CACHE_DIR", str(REPOSITORY / ".numba_cache"))
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from tests that are not about them; Triton's kernels then run in its interpreter."""
    import torch

    # Before torch first looks for a GPU, and before a file of kernels, which asks as it is imported.
    session_environment.hide_gpus(os.environ, config.option.markexpr)
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real volumes and projections; tests that use it are marked `data`."""
    folder = Path(os.environ.get("DIFFNR_DATA", REPOSITORY / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set DIFFNR_DATA to run this test")
    return folder


@pytest.fixture
def small_files() -> Callable[[], AbstractContextManager[None]]:
    """A context in which files end at 16 KiB, as on a disk that is full then."""

    @contextmanager
    def limited() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> str:
    """Where a test of Triton kernels runs: on the CPU in the interpreter, or compiled on a GPU."""
    if request.param == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles for the GPU here; its interpreter is used where none is")
    return request.param


def _call_as_it_is(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a device function in Triton's interpreter.

    The interpreter's own call wraps the whole language once more at each call and never unwraps it: a
    kernel with many calls gets slower with every one of them, a hundredfold in a test.
    """
    interpreter = sys.modules["triton.runtime.interpreter"]
    if function.fn.__module__ not in _wrapped:
        _wrapped.add(function.fn.__module__)
        interpreter._patch_lang(function.fn)
    return function.rewrite()(*arguments, **options)


_wrapped: set[str] = set()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed what tests draw, skip what is marked `gpu` where there is none, keep Triton's interpreter at its speed."""
    import torch

    # Before fixtures are set up, those of a module too: no test depends on those that ran before it.
    torch.manual_seed(0)
    if interpreter := sys.modules.get("triton.runtime.interpreter"):
        interpreter.InterpretedFunction.__call__ = _call_as_it_is
    if item.get_closest_marker("gpu"):
        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA device, or none is asked for by `-m gpu`")
