"""The contenders of a benchmark compute the same thing."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from diffnr_lightning.representations import render_gaussians, voxelise_gaussians


@pytest.fixture(scope="module")
def gaussians(repository):
    """The benchmark of 3D Gaussians as a module."""
    path = repository / "benchmarks" / "gaussians.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_gaussians", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torch_windows_and_kernels_have_the_same_gradients(gaussians):
    """Turned ellipsoids: the rotations of spheres, as they begin, have gradients of rounding only."""
    grid, scan, (positions, scales, rotations, densities) = gaussians.scene(16, 100)
    generator = torch.Generator().manual_seed(2)
    scales = scales * torch.tensor([1.5, 1.0, 0.6])
    rotations = torch.nn.functional.normalize(
        torch.randn(rotations.shape, generator=generator), dim=1
    )
    leaves = [t.detach().requires_grad_() for t in (positions, scales, rotations, densities)]
    for fast, slow in (
        (
            lambda: render_gaussians(*leaves, scan, backend="numba"),
            lambda: gaussians.render_windows(leaves, scan)[None],
        ),
        (
            lambda: voxelise_gaussians(*leaves, grid, backend="numba"),
            lambda: gaussians.voxelise_windows(leaves, grid),
        ),
    ):
        values, expected = fast(), slow()
        assert float((values - expected).detach().norm() / expected.detach().norm()) < 1e-5
        weights = torch.rand(expected.shape, generator=generator)
        found = torch.autograd.grad(values, leaves, weights)
        wanted = torch.autograd.grad(expected, leaves, weights)
        for ours, theirs in zip(found, wanted, strict=True):
            assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


@pytest.mark.slow
def test_everything_for_a_gpu_runs_without_one(repository, tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "benchmarks/gpu/everything.py", "--device", "cpu", "--size", "16"]
    command += ["--views", "6", "--only", "card,kernels,gaussians,naf,repair", "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(repository)
    subprocess.run(command, cwd=repository, env=environment, check=True, timeout=900)
    record = json.loads(out.read_text(encoding="utf-8"))
    assert not [name for name, found in record.items() if "error" in str(found)]
