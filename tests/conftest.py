"""What all tests share: quiet threads, compiled kernels that are kept, real volumes."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Before torch and numba are imported by any test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("NUMBA_CACHE_DIR", str(REPOSITORY / ".numba_cache"))
os.environ.setdefault("MPLBACKEND", "Agg")
# Workers and subcommands of tests find the stand-ins beside this file.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_volumes() -> Path:
    """The folder of real volumes; tests that use it are marked `data`."""
    folder = os.environ.get("DIFFNR_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("DIFFNR_DATA names no folder of real volumes")
    return Path(folder)
