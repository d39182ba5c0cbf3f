"""A volume in three pictures, cheap enough to be drawn while it is optimised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

GAP = 2
"""Pixels between two slices."""


def draw_middle_slices(volume: Tensor, truth: Tensor | None = None) -> NDArray[np.uint8]:
    """Draw the middle axial, coronal and sagittal slices side by side, those of the truth below them.

    Args:
        volume: (Z, Y, X), normalised attenuation; shown from 0 to 1.
        truth: (Z, Y, X), None where it is not known.

    Returns:
        (height, width, 3) picture, one pixel a voxel.
    """
    rows = [_middle_slices(volume), *([] if truth is None else [_middle_slices(truth)])]
    gap = np.zeros((GAP, rows[0].shape[1]), dtype=np.uint8)
    grey = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    return np.repeat(grey[..., None], 3, axis=-1)


def _middle_slices(volume: Tensor) -> NDArray[np.uint8]:
    """Return one row of slices (H, W), head up in coronal and sagittal ones."""
    z, y, x = (size // 2 for size in volume.shape)
    slices = (volume[z], volume[:, y].flip(0), volume[:, :, x].flip(0))
    height = max(len(image) for image in slices)
    images = []
    for image in slices:
        grey = (255 * image.clamp(0, 1)).round().byte().cpu().numpy()
        images.append(np.pad(grey, ((0, height - len(grey)), (0, GAP))))
    return np.concatenate(images, axis=1)[:, :-GAP]
