"""The three planes of a volume: which index walks, and which way is up in their images.

Axial images show y downwards and x to the right; coronal and sagittal images show +z at the top.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

PlaneName = Literal["axial", "coronal", "sagittal"]


class Plane(NamedTuple):
    """Describe a plane.

    Attributes:
        name: axial, coronal or sagittal.
        axis: array axis (Z, Y, X) along which slices follow each other.
        letter: of that axis.
        rows: array axis shown vertically.
        columns: array axis shown horizontally.
    """

    name: PlaneName
    axis: int
    letter: str
    rows: int
    columns: int


PLANES = (
    Plane("axial", 0, "z", 1, 2),
    Plane("coronal", 1, "y", 0, 2),
    Plane("sagittal", 2, "x", 0, 1),
)


PLANE_NAMES: tuple[PlaneName, ...] = tuple(plane.name for plane in PLANES)


def plane_axis(name: str) -> int:
    """Return the volume axis (0 = Z, 1 = Y, 2 = X) along which the slices of a plane are stacked.

    Raises:
        ValueError: unknown plane.
    """
    if name not in PLANE_NAMES:
        raise ValueError(f"plane is {name!r}; expected one of {', '.join(PLANE_NAMES)}.")
    return PLANE_NAMES.index(name)


def image_of(volume: NDArray[np.float32], plane: Plane, index: int) -> NDArray[np.float32]:
    """Return slice `index` of a volume (Z, Y, X) as an image whose row 0 is the top."""
    image = np.take(volume, index, axis=plane.axis)
    return image[::-1] if plane.rows == 0 else image


def pixel_aspect(plane: Plane, voxel_mm: tuple[float, float, float]) -> float:
    """Return height over width of a pixel."""
    return voxel_mm[plane.rows] / voxel_mm[plane.columns]
