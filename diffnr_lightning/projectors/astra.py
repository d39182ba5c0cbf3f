"""The ASTRA toolbox as a projector, to compare with: on a GPU, for any poses, and only nearly adjoint.

ASTRA (GPL-3) is an optional package, `pip install 'diffnr-lightning[astra]'`; its projectors of volumes need CUDA. It
is taken where a caller asks for ``backend="astra"`` and never by itself. This file has not run beside ASTRA yet: it is
tested on a stand-in that keeps what it is given, and its laws on a GPU are tests with the mark `gpu`.

Two things differ from the other backends. ASTRA steps through the volume by its own rule, so that projections differ by
interpolation; and its backprojection looks up the detector at every voxel's shadow, which is the adjoint of its
projection up to interpolation and not to rounding.

Source: `cone_vec` and `parallel3d_vec` of ASTRA's documentation on 3D geometries; van Aarle et al., Optics Express 24
(2016).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, astra_vectors

# Voxel edges that differ by less are cubes; ASTRA is given no others.
SAME_EDGE = 1e-6


def project(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return the line integrals (V, H, W) of a volume (Z, Y, X), on its device.

    Args:
        volume: float32.
        grid: cubic voxels.
        scan: any poses.

    Raises:
        ImportError: ASTRA is not installed.
        ValueError: voxels that are no cubes, or ASTRA without CUDA.
    """
    astra = _astra()
    geometries = _geometries(astra, grid, scan)
    number, rows_first = astra.create_sino3d_gpu(_array(volume), *geometries)
    astra.data3d.delete(number)
    return _tensor(rows_first.swapaxes(0, 1), volume)


def backproject(projections: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return the backprojection (Z, Y, X) of projections (V, H, W), on their device.

    Args:
        projections: float32.
        grid: cubic voxels.
        scan: any poses.

    Raises:
        ImportError: ASTRA is not installed.
        ValueError: voxels that are no cubes, or ASTRA without CUDA.
    """
    astra = _astra()
    geometries = _geometries(astra, grid, scan)
    rows_first = np.ascontiguousarray(_array(projections).swapaxes(0, 1))
    number, volume = astra.create_backprojection3d_gpu(rows_first, *geometries)
    astra.data3d.delete(number)
    return _tensor(volume, projections)


def _astra() -> Any:
    try:
        import astra
    except ImportError as error:
        raise ImportError(
            f"backend 'astra' needs the ASTRA toolbox, which cannot be imported ({error}); install it with pip install "
            "'diffnr-lightning[astra]' beside CUDA, or leave the backend at 'auto'."
        ) from error
    if not astra.use_cuda():
        raise ValueError(
            "backend 'astra' needs a CUDA device, and ASTRA finds none; leave the backend at 'auto'."
        )
    return astra


def _geometries(astra: Any, grid: VolumeGrid, scan: ScanGeometry) -> tuple[Any, Any]:
    """Projection and volume geometry in mm, in the order in which ASTRA's functions take them."""
    edges = np.asarray(grid.voxel_mm)
    if np.ptp(edges) > SAME_EDGE * edges.max():
        raise ValueError(
            f"voxel_mm is {grid.voxel_mm}; cubes are expected of a grid for the backend 'astra'."
        )
    planes, rows, columns = grid.shape
    (x0, y0, z0), (x1, y1, z1) = (np.asarray(corner).tolist() for corner in grid.corners_mm)
    volume = astra.create_vol_geom(rows, columns, planes, x0, x1, y0, y1, z0, z1)
    kind = "cone_vec" if scan.beam == "cone" else "parallel3d_vec"
    return astra.create_proj_geom(kind, *scan.detector_shape, astra_vectors(scan)), volume


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like)
