"""The arrays of a case folder: one NPY file a view, and the true volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.data.case_folder.metadata import META_FILE
from diffnr_lightning.data.volumes import checked_volume, read_array
from diffnr_lightning.files import stored_file
from diffnr_lightning.geometry import VolumeGrid

# R2-Gaussian's generator for real data writes "ct" where its reader looks for "vol".
VOLUME_KEYS = ("vol", "ct")


def read_projections(
    folder: Path, entries: Sequence[tuple[str, float]], shape: tuple[int, int]
) -> Tensor:
    """Read one NPY file a view as (V, H, W) float32.

    Args:
        folder: of the case.
        entries: file, relative to the folder, and angle of each view.
        shape: rows and columns that the detector has.

    Raises:
        FileNotFoundError: a file that is listed is missing.
        ValueError: a damaged file, another shape, no real finite numbers.
    """
    projections = np.empty((len(entries), *shape), dtype=np.float32)
    for index, (name, _) in enumerate(entries):
        file = stored_file(folder, name)
        image = read_array(file, "projection")
        if image.shape != shape:
            raise ValueError(
                f"projection {file} has shape {image.shape}; nDetector in {META_FILE} "
                f"asks for {shape}."
            )
        if not np.issubdtype(image.dtype, np.number) or np.iscomplexobj(image):
            raise ValueError(
                f"projection {file} holds {image.dtype} values; real numbers are expected."
            )
        # Of numbers beyond float32 infinity is left.
        with np.errstate(over="ignore"):
            projections[index] = image
        if not np.isfinite(projections[index]).all():
            raise ValueError(
                f"projection {file} holds NaN or infinite values; finite ones are expected."
            )
    return torch.from_numpy(projections)


def read_truth(folder: Path, meta: Mapping[str, Any], grid: VolumeGrid) -> Tensor | None:
    """Read the true volume as (Z, Y, X) float32, None where the meta data name none.

    Args:
        folder: of the case.
        meta: its meta data.
        grid: what the volume has to fit.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: a damaged file, another shape, no volume of finite numbers.
    """
    names = [str(meta[key]) for key in VOLUME_KEYS if meta.get(key)]
    if not names:
        return None
    file = stored_file(folder, names[0])
    array = checked_volume(read_array(file, "ground truth"), f"ground truth {file}").transpose(
        2, 1, 0
    )
    if array.shape != grid.shape:
        raise ValueError(
            f"ground truth {file} has shape {array.shape[::-1]} (x, y, z); nVoxel asks for "
            f"{grid.shape[::-1]}."
        )
    return torch.from_numpy(np.ascontiguousarray(array))
