"""What kernels know of a scan, on the device, for as long as the scan lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid

Make = Callable[[VolumeGrid, ScanGeometry], np.ndarray]

_KEPT: WeakKeyDictionary[ScanGeometry, dict[Any, Tensor]] = WeakKeyDictionary()


def device_table(
    make: Make, grid: VolumeGrid, scan: ScanGeometry, device: torch.device | str
) -> Tensor:
    """Return the array that a function makes of a grid and a scan as a tensor on a device.

    It is made and copied once, so that an iteration neither computes it nor waits for the copy.

    Args:
        make: a function of a module, which is called with grid and scan.
        grid: the voxels.
        scan: the poses; when it is no longer used, the tensor goes.
        device: where the tensor is wanted.
    """
    tables = _KEPT.setdefault(scan, {})
    key = (make, grid, torch.device(device))
    if key not in tables:
        tables[key] = torch.from_numpy(make(grid, scan)).to(device)
    return tables[key]
