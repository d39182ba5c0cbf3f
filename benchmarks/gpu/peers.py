"""Projectors of ASTRA and RTK on the scan of `everything.py`; each is imported where it is asked for.

Written from their documentation and not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from diffnr_lightning.workflows import Problem

Runs = dict[str, Callable[[], Any]]


def astra(case: Any, problem: Problem) -> Runs:
    """Return ASTRA's projector pair on tensors that lie on the device, without copies."""
    import astra as toolbox
    from astra.experimental import direct_BP3D, direct_FP3D

    grid, scan = problem.grid, problem.scan
    rows, columns = scan.detector_shape
    vectors = np.concatenate([scan.source_mm, scan.detector_mm, scan.u_mm, scan.v_mm], axis=1)
    (nz, ny, nx), (z, y, x) = grid.shape, grid.centre_mm[::-1]
    far_z, far_y, far_x = (
        0.5 * n * edge for n, edge in zip(grid.shape, grid.voxel_mm, strict=True)
    )
    space = toolbox.create_vol_geom(
        ny, nx, nz, x - far_x, x + far_x, y - far_y, y + far_y, z - far_z, z + far_z
    )
    lines = toolbox.create_proj_geom("cone_vec", rows, columns, vectors)
    volume = case.volume.to(problem.projections.device).contiguous()
    sinogram = torch.rand(rows, len(scan), columns, device=volume.device)
    projector = toolbox.create_projector("cuda3d", lines, space)

    def linked(tensor: torch.Tensor) -> Any:
        depth, height, width = tensor.shape
        return toolbox.data3d.GPULink(tensor.data_ptr(), width, height, depth, 4 * width)

    return {
        "project_ms": lambda: direct_FP3D(projector, linked(volume), linked(sinogram)),
        "backproject_ms": lambda: direct_BP3D(projector, linked(volume), linked(sinogram)),
    }


def rtk(case: Any, problem: Problem) -> Runs:
    """Return RTK's CUDA projectors; a call that finds its images on the device leaves them there."""
    import itk
    from itk import RTK  # noqa: N811

    geometry = RTK.ThreeDCircularProjectionGeometry.New()
    orbit = problem.scan.source_mm
    reach = float(np.linalg.norm(orbit[0, :2]))
    beyond = float(np.linalg.norm(problem.scan.source_mm[0] - problem.scan.detector_mm[0]))
    for angle in np.rad2deg(np.arctan2(orbit[:, 1], orbit[:, 0])):
        geometry.AddProjection(reach, beyond, float(angle))
    kind = itk.CudaImage[itk.F, 3]

    def image(array: np.ndarray, spacing: list[float]) -> Any:
        found = itk.cuda_image_from_image(itk.image_from_array(np.ascontiguousarray(array)))
        found.SetSpacing(spacing)
        found.SetOrigin(
            [-0.5 * (n - 1) * s for n, s in zip(array.shape[::-1], spacing, strict=True)]
        )
        return found

    pitch = [float(np.linalg.norm(a[0])) for a in (problem.scan.u_mm, problem.scan.v_mm)]
    volume = image(case.volume.numpy(), list(problem.grid.voxel_mm[::-1]))
    views = image(case.projections.numpy(), [*pitch, 1.0])

    def run(filter_: Any, first: Any, second: Any) -> Callable[[], Any]:
        filter_.SetInput(0, first)
        filter_.SetInput(1, second)
        filter_.SetGeometry(geometry)

        def again() -> None:
            filter_.Modified()
            filter_.Update()

        return again

    forward = RTK.CudaForwardProjectionImageFilter[kind, kind].New()
    back = RTK.CudaBackProjectionImageFilter[kind].New()
    return {
        "project_ms": run(forward, views, volume),
        "backproject_ms": run(back, volume, views),
    }
