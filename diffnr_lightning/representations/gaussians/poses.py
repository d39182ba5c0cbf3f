"""How 3D Gaussians are turned, and the poses of views as the kernels read them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, remembered
from diffnr_lightning.kernels import num_threads
from diffnr_lightning.representations.gaussians.shape import BLOCK

# Float32 knows the place of a source that is so many pixels away from its detector to 1/200 of a pixel.
_FAR_PIXELS = 2**16


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Return the rotations (N, 3, 3) of unit quaternions (N, 4), w, x, y, z."""
    w, x, y, z = quaternions.unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, dim=-2)


def far_source(scan: ScanGeometry) -> bool:
    """Return whether the sources of a cone beam are too far away for float32 to know them well."""
    pitch = np.linalg.norm([scan.u_mm, scan.v_mm], axis=-1).min()
    reach = np.linalg.norm(scan.detector_mm - scan.source_mm, axis=1).min()
    return scan.beam == "cone" and bool(reach > _FAR_PIXELS * pitch)


@remembered(512)
def pose_rows(scan: ScanGeometry) -> np.ndarray:
    """Return the poses as the rows (V, 16) that the kernels read; they are remembered, and read-only."""
    u, v = scan.u_mm, scan.v_mm
    across = np.cross(u, v)
    area2 = (across**2).sum(1, keepdims=True)
    # The dual basis, since u and v of a measured pose need not be perpendicular.
    along_u, along_v = np.cross(v, across) / area2, np.cross(across, u) / area2
    if scan.beam == "cone":
        foot, normal = scan.source_mm, scan.normal
        centre = scan.detector_mm - foot
    else:
        normal = scan.direction
        foot = scan.detector_mm - scan.way_back_mm(0.0) * normal
        # Columns and rows do not change along the rays.
        centre = np.zeros_like(foot)
        # Coordinates of the point where the ray through a point meets the detector.
        per_depth = across / (across * normal).sum(1, keepdims=True)
        along_u = along_u - (along_u * normal).sum(1, keepdims=True) * per_depth
        along_v = along_v - (along_v * normal).sum(1, keepdims=True) * per_depth
    rows, columns = scan.detector_shape
    column = 0.5 * (columns - 1) - (centre * along_u).sum(1, keepdims=True)
    row = 0.5 * (rows - 1) - (centre * along_v).sum(1, keepdims=True)
    distance = (centre * normal).sum(1, keepdims=True)
    forward = np.zeros_like(distance)
    if far_source(scan):
        # A point near the origin stands for the source: along the normal neither column nor row changes, but depth.
        forward = -(foot * normal).sum(1, keepdims=True)
        foot = foot + forward * normal
    rows_of_views = np.concatenate(
        [foot, normal, along_u, along_v, distance, column, row, forward], axis=1
    )
    rows_of_views.setflags(write=False)
    return rows_of_views


@remembered(512)
def poses_on(scan: ScanGeometry, device: torch.device) -> Tensor:
    """Return `pose_rows` as float32 on a device; they are remembered, and not waited for."""
    return _sent(pose_rows(scan), device)


@remembered(512)
def across_on(scan: ScanGeometry, device: torch.device) -> Tensor:
    """Return u and v (V, 2, 3) in mm as float32 on a device, likewise."""
    return _sent(np.stack([scan.u_mm, scan.v_mm], axis=1), device)


def _sent(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array.astype(np.float32))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def rows_of_a_task(rows: int) -> int:
    """Return how many rows of an image make a task: two tasks a thread, since each has set-ups."""
    return min(BLOCK, max(8, -(-rows // (2 * num_threads()))))


def arrays_of(*tensors: Tensor) -> list[np.ndarray]:
    """Return CPU tensors as contiguous arrays."""
    return [np.ascontiguousarray(tensor.detach().numpy()) for tensor in tensors]
