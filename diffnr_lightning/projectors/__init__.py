"""Forward projection and backprojection: an exactly adjoint, differentiable pair on every backend.

``separable`` and ``rays`` are kernels for float32 tensors: numba on the CPU, Triton on a CUDA device.
``reference`` is torch for any device and dtype. They share one discretisation (`sampling`), so they
agree to rounding wherever `choose_backend` would take them. ``astra`` and ``tigre`` are other
packages', which are taken by name alone, and whose pairs are adjoint up to interpolation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, nominal_orbit, remembered
from diffnr_lightning.projectors import astra, rays, reference, separable, tigre, voxel_driven
from diffnr_lightning.projectors.sampling import steepest_climb
from diffnr_lightning.projectors.voxel_columns import by_columns
from diffnr_lightning.triton_kernels import takes_triton

BACKENDS: dict[str, ModuleType] = {"separable": separable, "rays": rays, "reference": reference}
# Other packages, which copy tensors to where they compute.
ADAPTERS: dict[str, ModuleType] = {"astra": astra, "tigre": tigre}

_LOG = logging.getLogger("diffnr")
_ANNOUNCED: set[tuple[str, bool, str, torch.dtype]] = set()

__all__ = [
    "ADAPTERS",
    "BACKENDS",
    "backproject",
    "choose_backend",
    "lay_out",
    "project",
    "warmup",
    "weighted_backproject",
]


def project(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry, backend: str = "auto") -> Tensor:
    """Return the line integrals of a volume along every ray of a scan.

    Differentiable; the gradient is `backproject` on the same backend.

    Args:
        volume: (Z, Y, X), any density; zero outside the grid. It may lie in memory as it likes, best as `lay_out` does.
        grid: where the voxels are.
        scan: where source and detector are.
        backend: a key of `BACKENDS` or `ADAPTERS`, or "auto" for `choose_backend`.

    Returns:
        (V, H, W) in the unit of the volume times mm, in its dtype and on its device.

    Raises:
        ValueError: a shape that does not match the grid, or a backend that cannot serve the scan
            or device.
        TypeError: a dtype that the backend does not compute in.
    """
    backend = _resolve(volume, grid.shape, "volume", grid, scan, backend)
    return _Projection.apply(volume, grid, scan, backend)


def backproject(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    backend: str = "auto",
    *,
    laid_out: bool = False,
) -> Tensor:
    """Return the exact adjoint of `project` applied to projections.

    Differentiable; the gradient is `project` on the same backend.

    Args:
        projections: (V, H, W).
        grid: where the voxels are.
        scan: where source and detector are.
        backend: a key of `BACKENDS` or `ADAPTERS`, or "auto" for `choose_backend`.
        laid_out: whether the result lies in memory as `lay_out` makes it, which saves a copy, instead of contiguous.

    Returns:
        (Z, Y, X) in the unit of the projections times mm.

    Raises:
        ValueError: a shape that does not match the scan, or a backend that cannot serve the scan
            or device.
        TypeError: a dtype that the backend does not compute in.
    """
    shape = (len(scan), *scan.detector_shape)
    backend = _resolve(projections, shape, "projections", grid, scan, backend)
    return _Backprojection.apply(projections, grid, scan, backend, laid_out)


def lay_out(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return a volume in the order of memory in which `project` reads it without a copy.

    That is with z fastest for the kernels of the CPU for aligned detectors, which take a copy of 128^3 voxels almost as
    long as two views, and contiguous for all others. For loops that take a few views in each step: what torch makes
    from such volumes alone lies like them.

    Args:
        volume: (Z, Y, X).
        grid: where the voxels are.
        scan: the views, or any part of them.
    """
    by_kernels = _kernels_serve(volume.device, volume.dtype) and volume.device.type == "cpu"
    if by_kernels and _fast_backend(scan, grid) == "separable":
        return by_columns(volume)
    return volume.contiguous()


def weighted_backproject(
    filtered: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    backend: str = "auto",
    *,
    weight: Sequence[float] | np.ndarray | None = None,
) -> Tensor:
    """Return, for every voxel, the sum over views of the detector value at the voxel's shadow.

    The voxel-driven backprojection of FDK and FBP: bilinear lookup on the detector, zero outside
    it, times ``(weight / depth)^2`` for a cone beam, with depth the distance from source to voxel
    along the detector's normal, and times ``weight^2`` for a parallel beam. Every view has its own
    source, detector and pixels. No constant. Not the adjoint of `project`, and without gradients.

    Args:
        filtered: (V, H, W) filtered projections.
        grid: where the voxels are.
        scan: where source and detector are, in any poses.
        backend: "separable" for detector columns along z, "rays" for any poses, "reference" or
            "auto".
        weight: one number a view, for a cone beam in mm; None is the distance from source to axis
            of the nominal orbit for a cone beam and 1 for a parallel one.

    Returns:
        (Z, Y, X) in the unit of ``filtered``.

    Raises:
        ValueError: wrong shapes, or a backend that cannot serve the scan.
        TypeError: a dtype that the backend does not compute in.
    """
    if weight is None:
        weight = [nominal_orbit(scan).orbit.source_to_axis_mm or 1.0] * len(scan)
    weight = np.array(weight, dtype=np.float64)
    if weight.shape != (len(scan),):
        raise ValueError(
            f"weight has shape {weight.shape}; one number for each of {len(scan)} views is expected."
        )
    if backend == "auto":
        fast = "separable" if scan.rows_along_axis else "rays"
        backend = fast if _kernels_serve(filtered.device, filtered.dtype) else "reference"
    if backend in ADAPTERS:
        raise ValueError(f"backend is {backend!r}, which has no such lookup; 'auto' is expected.")
    shape = (len(scan), *scan.detector_shape)
    backend = _resolve(filtered, shape, "filtered", grid, scan, backend)
    if backend == "reference":
        return reference.weighted_backproject(filtered, grid, scan, weight)
    kernels = voxel_driven
    if takes_triton(filtered):
        from diffnr_lightning.projectors import voxel_driven_triton as kernels
    serves = {"separable": kernels.backproject_aligned, "rays": kernels.backproject_posed}
    return serves[backend](filtered, grid, scan, weight)


def choose_backend(
    grid: VolumeGrid,
    scan: ScanGeometry,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Return the fastest backend that serves a scan: "separable", "rays" or "reference".

    The kernels compute in float32, so tensors of any other type are left to the reference, which
    computes in theirs. The choice is logged once for each kind of scan, device and type (logger
    "diffnr").

    Args:
        grid: the voxels; flat ones can make rays too steep for "separable".
        scan: the poses.
        device: of the tensors.
        dtype: of the tensors.
    """
    device_type = torch.device(device).type
    fast = _kernels_serve(torch.device(device), dtype)
    choice = _fast_backend(scan, grid) if fast else "reference"
    kind = (scan.beam, scan.rows_along_axis, device_type, dtype)
    if kind not in _ANNOUNCED:
        _ANNOUNCED.add(kind)
        poses = "rows along z" if scan.rows_along_axis else "free poses"
        where = device_type if dtype == torch.float32 else f"{device_type}, {dtype}"
        _LOG.info("projector: %s (%s beam, %s, %s)", choice, scan.beam, poses, where)
    return choice


def warmup() -> None:
    """Compile every numba kernel or load it from the cache; seconds the first time only."""
    grid = VolumeGrid((4, 4, 4), 1.0)
    scan = ScanGeometry.cone(
        angles_rad=[0.0, 1.5],
        source_to_axis_mm=20.0,
        source_to_detector_mm=30.0,
        detector_shape=(4, 4),
        pixel_mm=2.0,
    )
    volume = torch.ones(grid.shape)
    for name in ("separable", "rays"):
        projections = project(volume, grid, scan, name)
        backproject(projections, grid, scan, name)
        weighted_backproject(projections, grid, scan, name)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, volume: Tensor, grid: VolumeGrid, scan: ScanGeometry, backend: str
    ) -> Tensor:
        ctx.setup = (grid, scan, backend)
        return _operators(backend, volume).project(volume, grid, scan)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Backprojection.apply(gradient, *ctx.setup, False), None, None, None


class _Backprojection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        backend: str,
        laid_out: bool,
    ) -> Tensor:
        ctx.setup = (grid, scan, backend)
        operators = _operators(backend, projections)
        order = {"z_fastest": laid_out} if operators is separable else {}
        return operators.backproject(projections, grid, scan, **order)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _Projection.apply(gradient, *ctx.setup), None, None, None, None


def _kernels_serve(device: torch.device, dtype: torch.dtype) -> bool:
    return dtype == torch.float32 and (device.type == "cpu" or takes_triton(device))


def _operators(backend: str, array: Tensor) -> ModuleType:
    """Return the module that serves a tensor: that of the backend, or its kernels for CUDA."""
    if backend == "separable" and takes_triton(array):
        from diffnr_lightning.projectors import separable_triton

        return separable_triton
    if backend == "rays" and takes_triton(array):
        from diffnr_lightning.projectors import rays_triton

        return rays_triton
    return {**BACKENDS, **ADAPTERS}[backend]


@remembered(256)
def _fast_backend(scan: ScanGeometry, grid: VolumeGrid) -> str:
    if scan.rows_along_axis and steepest_climb(grid, scan) <= 1.0:
        return "separable"
    return "rays"


def _resolve(
    array: Tensor,
    shape: tuple[int, ...],
    name: str,
    grid: VolumeGrid,
    scan: ScanGeometry,
    backend: str,
) -> str:
    """Check one input and return the name of the backend that will serve it."""
    if not isinstance(array, Tensor):
        raise TypeError(f"{name} is a {type(array).__name__}; a torch tensor is expected.")
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(array.shape)}; {tuple(shape)} is expected.")
    if not array.is_floating_point():
        raise TypeError(f"{name} has dtype {array.dtype}; a floating dtype is expected.")
    if backend == "auto":
        backend = choose_backend(grid, scan, array.device, array.dtype)
    if backend not in BACKENDS and backend not in ADAPTERS:
        raise ValueError(
            f"backend is {backend!r}; one of {', '.join([*BACKENDS, *ADAPTERS])} or auto is expected."
        )
    if (
        backend not in ("reference", *ADAPTERS)
        and array.device.type != "cpu"
        and not takes_triton(array)
    ):
        raise ValueError(
            f"backend {backend!r} runs on the CPU, and with triton on a CUDA device, and {name} is on "
            f"{array.device}; use 'reference'."
        )
    if backend != "reference" and array.dtype != torch.float32:
        raise TypeError(
            f"backend {backend!r} computes in float32 and {name} is {array.dtype}; "
            "convert it or use 'reference'."
        )
    return backend
