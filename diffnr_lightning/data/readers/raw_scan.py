"""What a detector measured, as the readers hand it over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from diffnr_lightning.data.readers.readout import Readout

AngleUnit = Literal["file", "deg", "rad"]
ANGLE_UNITS = ("file", "deg", "rad")
# Angles of a scan span more than this many degrees, and less than this many radians (two turns).
LEAST_SPAN_DEG = 2 * np.pi + 1e-3
LARGEST_SPAN_RAD = 4 * np.pi + 1e-3
# Values that are worked on at one time, in float64: a whole scan would take four times its own memory.
AT_ONCE = 1 << 21


@dataclass(frozen=True, eq=False)
class RawScan:
    """Hold what a detector measured about a vertical axis.

    Attributes:
        counts: (V, H, W) in the type in which they are stored; row 0 is the top.
        flat: (H, W) counts without object; a stack (N, H, W) is averaged, one number stands for
            every pixel.
        dark: (H, W) counts without beam; likewise.
        angles_rad: (V,); None where the file holds none.
        name: name of the scan, from the file's name.
        source: the file.
        pixel_mm: pitch of the file's rows and columns (v, u), upright; None where it does not say.
        first_mm: place of the file's first pixel (v, u), as ITK's files have it; likewise.
        detector_shape: rows and columns of the file, upright; None where they are those of the counts.
        binning: how many pixels of the file make one along each edge.

    Raises:
        ValueError: shapes that disagree, values that are no finite real numbers.
    """

    counts: np.ndarray
    flat: np.ndarray
    dark: np.ndarray
    angles_rad: np.ndarray | None
    name: str
    source: str
    pixel_mm: tuple[float, float] | None = None
    first_mm: tuple[float, float] | None = None
    detector_shape: tuple[int, int] | None = None
    binning: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", self._numbers("counts"))
        for name in ("flat", "dark", "angles_rad"):
            if getattr(self, name) is None:
                continue
            array = self._numbers(name).astype(np.float64)
            self._check_finite(name, array)
            object.__setattr__(self, name, array)
        if self.counts.ndim != 3 or 0 in self.counts.shape:
            raise ValueError(
                f"{self.source} holds counts of shape {self.counts.shape}; (views, rows, columns) "
                "is expected."
            )
        for views in self.blocks():
            self._check_finite("counts", self.counts[views])
        for name in ("flat", "dark"):
            object.__setattr__(self, name, self._field(name))
        if self.angles_rad is None:
            return
        object.__setattr__(self, "angles_rad", self.angles_rad.ravel())
        if self.angles_rad.shape != (len(self.counts),):
            raise ValueError(
                f"{self.source} holds {self.angles_rad.size} angles and {len(self.counts)} views; "
                "they must agree."
            )

    def blocks(self) -> Iterator[slice]:
        """Yield slices of views, each small enough to be worked on at one time."""
        return view_blocks(self.counts.shape)

    def of_views(self, chosen: np.ndarray) -> RawScan:
        """Return the scan of some views, by a mask (V,)."""
        if chosen.all():
            return self
        angles = None if self.angles_rad is None else self.angles_rad[chosen]
        return replace(self, counts=self.counts[chosen], angles_rad=angles)

    def read_out(self, readout: Readout) -> RawScan:
        """Return the scan of its images read out another way.

        Raises:
            ValueError: squares of pixels that are larger than the detector.
        """
        if readout == Readout():
            return self
        shape = readout.upright(self.counts.shape[1:])
        counts = np.concatenate([readout(self.counts[views]) for views in self.blocks()])
        flat, dark = (readout(field[None])[0] for field in (self.flat, self.dark))
        return replace(
            self, counts=counts, flat=flat, dark=dark, detector_shape=shape, binning=readout.binning
        )

    def above_dark(self, views: slice) -> np.ndarray:
        """Return what some views count above the dark field, (v, H, W) float64."""
        return self.counts[views].astype(np.float64) - self.dark

    def _numbers(self, name: str) -> np.ndarray:
        array = np.asarray(getattr(self, name))
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise ValueError(
                f"{self.source} holds {name} of type {array.dtype}; real numbers are expected."
            )
        return array

    def _check_finite(self, name: str, array: np.ndarray) -> None:
        if not np.isfinite(array).all():
            raise ValueError(
                f"{self.source} holds NaN or infinite {name.removesuffix('_rad')}; finite ones are expected."
            )

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


def view_blocks(shape: tuple[int, int, int], first: int = 0) -> Iterator[slice]:
    """Yield slices of the views of images (V, H, W), of at most `AT_ONCE` values or one view, from the `first` on."""
    views, rows, columns = shape
    step = max(1, AT_ONCE // (rows * columns))
    return (slice(begin, min(begin + step, views)) for begin in range(first, views, step))


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
