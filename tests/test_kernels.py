"""One place decides how numba compiles and launches, and launches survive several Python threads."""

import ast
import os
import re
import subprocess
import sys

import numba.core.caching
import numpy as np
import pytest

from diffnr_lightning import kernels

PROGRAM = """
import sys
import threading
import time

import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.losses import ssim_2d, tv_3d
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import voxelise_gaussians

grid = VolumeGrid((16, 16, 16), 2.0)
scan = ScanGeometry.parallel(angles_rad=[0.1, 0.9, 2.0], detector_shape=(16, 16), pixel_mm=2.0)
volume = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
rotations = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(20, 1)
gaussians = torch.rand(20, 3), torch.full((20, 3), 3.0), rotations, torch.ones(20)
jobs = {
    "project+voxelise": (
        lambda: project(volume, grid, scan, "separable"),
        lambda: voxelise_gaussians(*gaussians, grid, backend="numba"),
    ),
    "ssim+tv": (lambda: ssim_2d(volume, 0.5 * volume), lambda: tv_3d(volume)),
}[sys.argv[1]]
expected = [job() for job in jobs]
end = time.monotonic() + 1.5
wrong = []


def repeat(index):
    while time.monotonic() < end:
        if not torch.equal(jobs[index](), expected[index]):
            wrong.append(index)


threads = [threading.Thread(target=repeat, args=(n % 2,)) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
print("done")
"""


@pytest.mark.parametrize("jobs", ["project+voxelise", "ssim+tv"])
def test_python_threads_launch_different_kernels_under_workqueue(jobs):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, jobs],
        env={**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_numba_is_reached_through_one_file(repository):
    package = repository / "diffnr_lightning"
    naming = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(
            r"(?<!triton\.)(?<!runtime\.)\bn?jit\b|\bvectorize\b|fastmath=|parallel=True",
            path.read_text("utf-8"),
        )
    }
    assert naming == {"kernels.py"}


def test_no_arithmetic_assumes_that_there_are_no_nans_or_infinities():
    for name in ("RELAXED", "UNGROUPED", "APPROXIMATE"):
        assert not {"nnan", "ninf", "fast"} & getattr(kernels, name)
    assert kernels.UNGROUPED < kernels.RELAXED < kernels.APPROXIMATE


KERNEL = """
import os

import numpy

from diffnr_lightning import kernels

kernels._sources = lambda: os.environ["SOURCES"]

@kernels.kernel_part()
def one():
    return 1

@kernels.parallel_kernel()
def filled(values):
    for place in kernels.prange(len(values)):
        values[place] = one()

filled(numpy.ones(3))
print(*(bool(seen) for seen in filled._compiled.stats[1:]))
"""


def test_a_cache_is_of_all_files_of_kernels(tmp_path):
    """Numba looks at the file of a kernel alone, which holds what it has taken over from others."""
    (tmp_path / "made.py").write_text(KERNEL)

    def hits_and_misses(sources):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
            "SOURCES": sources,
        }
        command = [sys.executable, "-c", "import made"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return ran.stdout.split()

    assert hits_and_misses("before") == ["False", "True"]
    assert hits_and_misses("before") == ["True", "False"]
    assert hits_and_misses("after") == ["False", "True"]


def test_kernels_work_without_a_place_for_their_cache(monkeypatch, caplog):
    """As in a container whose user owns neither the package nor a home."""
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    kernels._warn_without_cache.cache_clear()

    def filled(values):
        for place in kernels.prange(len(values)):
            values[place] = 1.0
        return values

    for make in (kernels.kernel_part(), kernels.parallel_kernel()):
        assert make(filled)(np.zeros(2)).tolist() == [1.0, 1.0]
    (said,) = caplog.messages
    assert "NUMBA_CACHE_DIR" in said


def _files_with_a_kernel(repository):
    return {
        path
        for path in (repository / "diffnr_lightning").rglob("*.py")
        if re.search(r"@(parallel_kernel|kernel_part)\b", path.read_text("utf-8"))
    }


def test_every_file_with_a_kernel_is_among_those_of_the_cache(repository):
    files = {path.name for path in kernels._files()}
    made = {path.name for path in _files_with_a_kernel(repository)}
    assert made and made <= files and {"kernels.py", "shape.py"} <= files


def test_every_file_whose_constants_are_compiled_is_among_those_of_the_cache(repository):
    """A cached kernel would keep the value from before an edit."""
    files = {path.relative_to(repository).as_posix() for path in kernels._files()}
    given = {
        node.module.replace(".", "/") + ".py"
        for path in _files_with_a_kernel(repository)
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("diffnr_lightning.")
        if any(name.name.isupper() for name in node.names)
    }
    assert "diffnr_lightning/projectors/sampling.py" in given
    assert {file for file in given if (repository / file).exists()} <= files
    assert "diffnr_lightning/geometry/scan.py" not in files
