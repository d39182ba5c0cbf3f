"""The TIGRE toolbox as a projector, to compare with: on a GPU, for circular scans.

TIGRE is built from source or by conda (github.com/CERN/TIGRE); PyPI's package `tigre` is somebody else's. It needs
CUDA, and is taken where a caller asks for ``backend="tigre"`` and never by itself. This file has not run beside TIGRE
yet: it is tested on a stand-in that keeps what it is given, and its laws on a GPU are tests with the mark `gpu`.

Projections are interpolated and backprojections matched to them, which is the adjoint up to interpolation and not to
rounding. TIGRE's first row of a projection is the lowest; ours is the highest.

Source: Biguri et al., Biomedical Physics & Engineering Express 2 (2016); the geometry is that of R2-Gaussian's files,
which are made with TIGRE.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, r2_scanner

# Step of the interpolated projection in voxels.
ACCURACY = 0.5


def project(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return the line integrals (V, H, W) of a volume (Z, Y, X), on its device.

    Args:
        volume: float32.
        grid: any voxels.
        scan: a circle.

    Raises:
        ImportError: TIGRE is not installed.
        ValueError: a scan that is no circle.
    """
    tigre = _tigre()
    geometry, angles = _geometry(tigre, grid, scan)
    lowest_first = tigre.Ax(_array(volume), geometry, angles, projection_type="interpolated")
    return _tensor(lowest_first[:, ::-1], volume)


def backproject(projections: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return the backprojection (Z, Y, X) of projections (V, H, W), on their device.

    Args:
        projections: float32.
        grid: any voxels.
        scan: a circle.

    Raises:
        ImportError: TIGRE is not installed.
        ValueError: a scan that is no circle.
    """
    tigre = _tigre()
    geometry, angles = _geometry(tigre, grid, scan)
    lowest_first = np.ascontiguousarray(_array(projections)[:, ::-1])
    volume = tigre.Atb(lowest_first, geometry, angles, backprojection_type="matched")
    return _tensor(volume, projections)


def _tigre() -> Any:
    try:
        import tigre

        tigre.Ax  # noqa: B018 -- PyPI's package of this name has none
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"backend 'tigre' needs the TIGRE toolbox, which cannot be imported ({error}); install it as "
            "github.com/CERN/TIGRE says (PyPI's tigre is another package), or leave the backend at 'auto'."
        ) from error
    return tigre


def _geometry(tigre: Any, grid: VolumeGrid, scan: ScanGeometry) -> tuple[Any, np.ndarray]:
    """TIGRE's geometry in mm, its volumes in the order z, y, x, and the angles."""
    if scan.orbit is None:
        raise ValueError(
            "backend is 'tigre' and the scan is no circle; 'auto' serves it, and 'astra' does."
        )
    scanner = r2_scanner(scan, grid)
    geometry = tigre.geometry()
    geometry.mode, geometry.accuracy = scanner["mode"], ACCURACY
    geometry.DSD, geometry.DSO = scanner["DSD"], scanner["DSO"]
    for name in ("nDetector", "dDetector", "sDetector", "offDetector"):
        setattr(geometry, name, np.array(scanner[name]))
    for name in ("nVoxel", "dVoxel", "sVoxel", "offOrigin"):
        setattr(geometry, name, np.array(scanner[name][::-1]))
    return geometry, np.asarray(scan.orbit.angles_rad, dtype=np.float32)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like)
