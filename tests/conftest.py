"""What all tests share: quiet threads, compiled kernels that are kept, real data, a GPU or none."""

import importlib
import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Before torch and numba are imported by any test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("NUMBA_CACHE_DIR", str(REPOSITORY / ".numba_cache"))
os.environ.setdefault("MPLBACKEND", "Agg")
# Triton's kernels run in its interpreter where no GPU is; they ask when their file is imported.
if not importlib.import_module("torch").cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Workers and subcommands of tests find the stand-ins beside this file.
sys.path.insert(0, str(Path(__file__).parent))


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


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA device")
