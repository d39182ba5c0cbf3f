"""How the images of a detector are read out: turned upright, then summed over squares of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

ImageAxis = Literal["rows", "columns"]
IMAGE_AXES = ("rows", "columns")


@dataclass(frozen=True)
class Readout:
    """Describe how the images of a file become those of a detector whose rows run along the rotation axis.

    Args:
        flip: axes of the images that are reversed, rows or columns, before anything else.
        transpose: whether rows and columns are exchanged after that, as of images whose rows run across the rotation
            axis.
        binning: how many pixels become one along each edge; what fills no square is left out.

    Raises:
        ValueError: another axis, or squares of no pixel.
    """

    flip: tuple[ImageAxis, ...] = ()
    transpose: bool = False
    binning: int = 1

    def __post_init__(self) -> None:
        unknown = [axis for axis in self.flip if axis not in IMAGE_AXES]
        if unknown:
            raise ValueError(f"flip has {unknown[0]!r}; {' and '.join(IMAGE_AXES)} are expected.")
        if self.binning < 1:
            raise ValueError(f"binning is {self.binning}; one pixel or more is expected.")

    def upright(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of upright images, not binned yet, from those of the file.

        Raises:
            ValueError: squares that are larger than the detector.
        """
        if self.binning > min(shape):
            raise ValueError(
                f"binning is {self.binning}; 1 to {min(shape)} pixels, the detector's shorter side, are expected."
            )
        return (shape[1], shape[0]) if self.transpose else (shape[0], shape[1])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return images (N, H, W) of a file upright and binned, (N, h, w); whole numbers stay whole."""
        axes = [IMAGE_AXES.index(axis) - 2 for axis in self.flip]
        images = np.flip(images, axes) if axes else images
        images = images.swapaxes(1, 2) if self.transpose else images
        return images if self.binning == 1 else _summed(images, self.binning)


def _summed(images: np.ndarray, pixels: int) -> np.ndarray:
    """Return sums (N, h, w) over squares of pixels."""
    views, rows, columns = images.shape
    high, wide = rows // pixels, columns // pixels
    squares = images[:, : high * pixels, : wide * pixels].reshape(views, high, pixels, wide, pixels)
    if not np.issubdtype(images.dtype, np.integer):
        return squares.sum(axis=(2, 4), dtype=np.float64).astype(images.dtype)
    return squares.sum(axis=(2, 4), dtype=np.int32 if images.dtype.itemsize <= 2 else np.int64)
