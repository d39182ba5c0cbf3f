"""Kernels give the same bits when they are compiled and when they come from numba's cache."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib

import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.losses import ssim_2d, ssim_3d, tv_3d
from diffnr_lightning.projectors import backproject, project
from diffnr_lightning.representations import GaussianCloud, NeuralField
from diffnr_lightning.solvers import analytic, asd_pocs, cgls, fista_tv, mbir, sart, sbtv, sirt, weighted_tv


def show(name, *tensors):
    print(name, *(hashlib.md5(t.detach().contiguous().numpy()).hexdigest()[:8] for t in tensors))


grid = VolumeGrid((32, 32, 32), 2.0)
detector = {"detector_shape": (30, 34), "pixel_mm": 3.0}
fine = {"detector_shape": (90, 102), "pixel_mm": 1.0}
distances = {"source_to_axis_mm": 160, "source_to_detector_mm": 240}
cone = ScanGeometry.cone(angles_rad=uniform_angles(9), **distances, **detector)
fine_cone = ScanGeometry.cone(angles_rad=uniform_angles(2), **distances, **fine)
parallel = ScanGeometry.parallel(angles_rad=uniform_angles(9, 180), **detector)
fine_parallel = ScanGeometry.parallel(angles_rad=uniform_angles(2, 180), **fine)
generator = torch.Generator().manual_seed(0)
volume = torch.rand(grid.shape, generator=generator)
for name, scan, fine_scan in (("cone", cone, fine_cone), ("parallel", parallel, fine_parallel)):
    p = torch.rand((9, 30, 34), generator=generator)
    for kind in ("separable", "rays"):
        show(f"{name} {kind} project", project(volume, grid, scan, kind))
        show(f"{name} {kind} backproject", backproject(p, grid, scan, kind))
    p = project(volume, grid, scan)
    first = analytic(p, grid, scan)
    show(name + " analytic", first)
    for solver in (sirt, sart, asd_pocs, weighted_tv, cgls, fista_tv, sbtv, mbir):
        show(f"{name} {solver.__name__}", solver(p, grid, scan, iterations=2))
    cloud = GaussianCloud(grid, num_gaussians=700)
    cloud.initialise(first, p, scan, 3)
    weights = list(cloud.parameters())
    with torch.no_grad():
        # As they are first, the Gaussians are round: many terms are zero.
        for weight in weights:
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    shown = cloud.render(scan[[3, 5]])
    show(name + " render", shown, *torch.autograd.grad((shown * p[[3, 5]]).sum(), weights))
    cloud.integral = "exact"
    exact = cloud.render(scan[[3, 5]])
    show(name + " lines", exact, *torch.autograd.grad((exact * p[[3, 5]]).sum(), weights))
    queried = cloud.query(grid)
    show(name + " query", queried, *torch.autograd.grad((queried * volume).sum(), weights))
    cloud.integral = "affine"
    with torch.no_grad():
        # As large as they may be, and pixels so fine that sums are of many rows and columns.
        cloud.raw_scales[::10] += 5
    shown = cloud.render(fine_scan)
    given = torch.rand(shown.shape, generator=generator)
    show(name + " large render", shown, *torch.autograd.grad((shown * given).sum(), weights))
    shown = cloud.query(VolumeGrid((80, 84, 88), 0.8))
    given = torch.rand(shown.shape, generator=generator)
    show(name + " large query", shown, *torch.autograd.grad((shown * given).sum(), weights))
field = NeuralField(grid, levels=6, base=8, table=14, samples=24, warm_up=3)
field.initialise(volume, p, cone, 3)
shown = field.render(cone[[3, 5]])
weights = list(field.parameters())
show("field", shown, *torch.autograd.grad(shown.square().sum(), weights), field.query(grid))
x = volume.clone().requires_grad_()
target = queried.detach()
for loss in (tv_3d(x), ssim_3d(x, target), ssim_2d(x, target).mean()):
    show("loss", loss, torch.autograd.grad(loss, x)[0])
"""


@pytest.mark.slow
def test_compiled_and_cached_kernels_agree_bit_for_bit(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    shown = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=True,
        ).stdout.splitlines()
        for _ in ("compiled", "cached")
    ]
    assert len(shown[0]) > 15
    assert shown[0] == shown[1]
