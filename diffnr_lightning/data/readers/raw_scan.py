"""What a detector measured in a parallel-beam scan, as the readers hand it over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

AngleUnit = Literal["file", "deg", "rad"]
ANGLE_UNITS = ("file", "deg", "rad")
# Angles of a scan span more than this many degrees, and less than this many radians (two turns).
LEAST_SPAN_DEG = 2 * np.pi + 1e-3
LARGEST_SPAN_RAD = 4 * np.pi + 1e-3


@dataclass(frozen=True, eq=False)
class RawScan:
    """Hold what a detector measured in a parallel-beam scan about a vertical axis.

    Attributes:
        counts: (V, H, W) float64; row 0 is the top.
        flat: (H, W) counts without object; a stack (N, H, W) is averaged, one number stands for
            every pixel.
        dark: (H, W) counts without beam; likewise.
        angles_rad: (V,).
        name: name of the scan, from the file's name.
        source: the file.

    Raises:
        ValueError: shapes that disagree, values that are no finite real numbers.
    """

    counts: np.ndarray
    flat: np.ndarray
    dark: np.ndarray
    angles_rad: np.ndarray
    name: str
    source: str

    def __post_init__(self) -> None:
        for name in ("counts", "flat", "dark", "angles_rad"):
            object.__setattr__(self, name, self._finite(name))
        if self.counts.ndim != 3 or 0 in self.counts.shape:
            raise ValueError(
                f"{self.source} holds counts of shape {self.counts.shape}; (views, rows, columns) "
                "is expected."
            )
        for name in ("flat", "dark"):
            object.__setattr__(self, name, self._field(name))
        object.__setattr__(self, "angles_rad", self.angles_rad.ravel())
        if self.angles_rad.shape != (len(self.counts),):
            raise ValueError(
                f"{self.source} holds {self.angles_rad.size} angles and {len(self.counts)} views; "
                "they must agree."
            )

    def _finite(self, name: str) -> np.ndarray:
        array = np.asarray(getattr(self, name))
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise ValueError(
                f"{self.source} holds {name} of type {array.dtype}; real numbers are expected."
            )
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError(
                f"{self.source} holds NaN or infinite {name.removesuffix('_rad')}; finite ones are expected."
            )
        return array

    def _field(self, name: str) -> np.ndarray:
        field = getattr(self, name)
        if field.ndim == 3 and len(field):
            field = field.mean(axis=0)
        shape = self.counts.shape[1:]
        if field.ndim == 0:
            field = np.full(shape, float(field))
        if field.shape != shape:
            raise ValueError(
                f"{self.source} holds a {name} field of shape {field.shape}; {shape} as in the "
                "views is expected."
            )
        return field


def radians(angles: np.ndarray, stored: str, wanted: AngleUnit, where: str) -> np.ndarray:
    """Return the angles of a file in radians, or say that they look like the other unit.

    Args:
        angles: numbers of the file.
        stored: unit that the file states, ``"deg"`` or ``"rad"``.
        wanted: unit that the user states, or ``"file"``; where it is stated nothing is questioned.
        where: how an error names file and entry.

    Raises:
        ValueError: an unknown unit, or angles whose span no scan has in the unit of the file.
    """
    if wanted not in ANGLE_UNITS:
        raise ValueError(f"angle_unit is {wanted!r}; one of {', '.join(ANGLE_UNITS)} is expected.")
    unit = stored if wanted == "file" else wanted
    finite = np.asarray(angles)[np.isfinite(angles)]
    span = float(np.ptp(finite)) if finite.size else 0.0
    if wanted == "file":
        if unit == "deg" and 0 < span <= LEAST_SPAN_DEG:
            raise ValueError(
                f"{where} spans {span:.4g} degrees, which looks like radians; say angle_unit=rad "
                "if it is, angle_unit=deg if it is not."
            )
        if unit == "rad" and span > LARGEST_SPAN_RAD:
            raise ValueError(
                f"{where} spans {span:.4g} rad, more than two turns, which looks like degrees; say "
                "angle_unit=deg if it is, angle_unit=rad if it is not."
            )
    return np.deg2rad(angles) if unit == "deg" else np.asarray(angles)
