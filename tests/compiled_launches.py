"""Compile every launch of the Triton kernels as the host code makes it, for a GPU that is not here.

    python tests/compiled_launches.py 90

Triton makes constants of integers that are 1 and notes which are multiples of 16, and CUDA limits a launch: the
interpreter knows neither, and `static.py` compiles for the sizes of the paper alone. Tensors lie on the CPU and hold
anything, since nothing runs. Ends with 1 and a line for each launch that would fail.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.losses import ssim_triton, variation_triton
from diffnr_lightning.projectors import rays_triton, separable_triton, voxel_driven_triton
from diffnr_lightning.representations import HashEncoding
from diffnr_lightning.representations.fields import hash_triton, network_triton
from diffnr_lightning.representations.gaussians import lines_triton, splat_triton, voxel_triton
from diffnr_lightning.solvers import primal_dual_triton, total_variation_triton

FAILED: list[str] = []
COMPILED: set[str] = set()


class AbsentGpu:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, architecture: int) -> None:
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_alone(run: Callable[..., Any]) -> Callable[..., None]:
    """Return a `JITFunction.run` that compiles a launch, and does not launch it."""

    def compiled(
        kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **named: Any
    ) -> None:
        name = f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}, grid {tuple(grid)}"
        x, *others = grid
        if not 1 <= x < 2**31 or not all(1 <= n <= 65535 for n in others):
            FAILED.append(f"{name}: more programs than CUDA launches")
        try:
            made = run(kernel, *arguments, grid=grid, warmup=True, **named)
        except Exception as error:  # noqa: BLE001 -- each one is told
            FAILED.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[-1]}")
            return
        COMPILED.add(made.hash)

    return compiled


def launch_projectors(grid: VolumeGrid, scan: ScanGeometry) -> None:
    volume, views = torch.empty(grid.shape), torch.empty(len(scan), *scan.detector_shape)
    for kernels in (separable_triton, rays_triton):
        kernels.project(volume, grid, scan)
        kernels.backproject(views, grid, scan)
    voxel_driven_triton.backproject_posed(views, grid, scan, np.ones(len(scan)))


def launch_gaussians(count: int, grid: VolumeGrid, scan: ScanGeometry) -> None:
    cloud = [torch.rand(count, *shape, requires_grad=True) for shape in ((3,), (3,), (4,), ())]
    for render in (splat_triton.Splat, lines_triton.Lines):
        render.apply(*cloud, scan, 3.5, None).sum().backward()
    voxel_triton.Voxelise.apply(*cloud, grid, 3.5).sum().backward()


def launch_losses(shape: tuple[int, int, int]) -> None:
    leaf, other = torch.rand(shape, requires_grad=True), torch.rand(shape)
    chosen = tuple(torch.arange(size) for size in shape)
    for prediction in (leaf, other):
        flat = ssim_triton.slice_similarity(prediction, other)
        solid = ssim_triton.volume_similarity(prediction, other, chosen)
        if flat.requires_grad:
            (flat.sum() + solid).backward()
    for gradient in (torch.empty(shape), None):
        variation_triton.variation(other, 0.1, gradient)
    total_variation_triton.total_variation_gradient(other, (1.0, 1.0, 1.0), 1e-4)
    arrays, dual = [torch.rand(shape) for _ in range(4)], torch.rand(3, *shape)
    primal_dual_triton.descend(*arrays[:3], dual, arrays[3], (1.0, 1.0, 1.0))
    primal_dual_triton.ascend(dual, *arrays[:3], 0.1, (1.0, 1.0, 1.0))


def launch_fields(points: int, features: int) -> None:
    encoding, width = HashEncoding(4, features, 4, 2.0, 10), 32
    rows = hash_triton.encode(torch.rand(points, 3), encoding.table, encoding.layout)
    inputs = (encoding.width, width, width + encoding.width, width)
    layers = [torch.rand(out, of) for out, of in zip((width,) * 3 + (1,), inputs, strict=True)]
    parameters = [part for layer in layers for part in (layer, torch.rand(len(layer)))]
    network_triton.network(rows, *parameters).sum().backward()


def main(architecture: int) -> int:
    """Compile all launches for sizes that are multiples of 16, odd, and 1."""
    driver.set_active(AbsentGpu(architecture))
    JITFunction.run = compile_alone(JITFunction.run)
    sizes = {(16, 32, 48): (32, 16), (7, 9, 11): (5, 13), (1, 1, 1): (1, 1)}
    for number, (shape, detector) in enumerate(sizes.items()):
        grid = VolumeGrid(shape, 1.0)
        views = {
            "angles_rad": uniform_angles(max(shape[0], 1)),
            "detector_shape": detector,
            "pixel_mm": 1.0,
        }
        cone = ScanGeometry.cone(source_to_axis_mm=90.0, source_to_detector_mm=120.0, **views)
        for scan in (cone, ScanGeometry.parallel(**views)):
            launch_projectors(grid, scan)
            launch_gaussians((64, 8197, 1)[number], grid, scan)
        launch_losses(shape)
    for points, features in ((4096, 2), (101, 4), (1, 1)):
        launch_fields(points, features)
    print(f"{len(COMPILED)} kernels compiled, {len(FAILED)} launches would fail", *FAILED, sep="\n")
    return bool(FAILED)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
