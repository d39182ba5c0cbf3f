"""The poses of source and detector in every view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from diffnr_lightning.geometry.angles import arc
from diffnr_lightning.geometry.orbit import POSITION_TOLERANCE, Orbit, exact_orbit, nominal_orbit
from diffnr_lightning.geometry.poses import Poses
from diffnr_lightning.lazy import deferred

if TYPE_CHECKING:
    import torch

Tensor = deferred("torch.Tensor")


@dataclass(frozen=True, eq=False, repr=False)
class ScanGeometry(Poses):
    """A scan: the poses of all views, built from a scanner's numbers or given one by one; see `Poses`."""

    @classmethod
    def cone(
        cls,
        *,
        angles_rad: Sequence[float] | np.ndarray,
        source_to_axis_mm: float,
        source_to_detector_mm: float,
        detector_shape: tuple[int, int],
        pixel_mm: float | tuple[float, float],
        detector_offset_mm: tuple[float, float] = (0.0, 0.0),
        axis_mm: tuple[float, float] = (0.0, 0.0),
        height_mm: float | Sequence[float] | np.ndarray = 0.0,
    ) -> ScanGeometry:
        """Build a circular cone-beam scan (or a helical one, with one height per view).

        Args:
            angles_rad: source angle of each view about +z, counter-clockwise from +x; any arc, any order.
            source_to_axis_mm: DSO, distance source to rotation axis.
            source_to_detector_mm: DSD, distance source to detector plane.
            detector_shape: rows and columns (H, W); rows run along the axis, row 0 on top (+z).
            pixel_mm: pixel pitch, one number or (v, u).
            detector_offset_mm: shift of the detector along its own (v, u) directions; v points down (-z).
            axis_mm: position (x, y) of the rotation axis.
            height_mm: z of the source and of the detector's central ray.

        Raises:
            ValueError: DSD < DSO, distances or pitches that are not positive, no angle, another number of heights.
        """
        if not 0 < source_to_axis_mm < np.inf:
            raise ValueError(
                f"source_to_axis_mm (DSO) is {source_to_axis_mm}; a positive length is expected."
            )
        if not source_to_detector_mm < np.inf:
            raise ValueError(
                f"source_to_detector_mm (DSD) is {source_to_detector_mm}; a positive length is expected."
            )
        if source_to_detector_mm < source_to_axis_mm:
            raise ValueError(
                f"source_to_detector_mm (DSD) is {source_to_detector_mm}, less than source_to_axis_mm (DSO) "
                f"{source_to_axis_mm}: the detector would stand before the rotation axis; were they exchanged?"
            )
        outward, u_hat, v_hat = _circular_frame(angles_rad)  # (V, 3) each
        pitch_v, pitch_u = _pair(pixel_mm, "pixel_mm")
        centre = np.zeros_like(outward)
        if np.ndim(height_mm) and len(height_mm) != len(outward):
            raise ValueError(
                f"height_mm holds {len(height_mm)} heights and angles_rad {len(outward)} views; one height, or one for "
                "every view, is expected."
            )
        centre[:, :2] = axis_mm
        centre[:, 2] = height_mm
        offset_v, offset_u = detector_offset_mm
        source = centre + source_to_axis_mm * outward
        detector = source - source_to_detector_mm * outward + offset_v * v_hat + offset_u * u_hat
        return cls("cone", detector_shape, source, detector, pitch_u * u_hat, pitch_v * v_hat)

    @classmethod
    def parallel(
        cls,
        *,
        angles_rad: Sequence[float] | np.ndarray,
        detector_shape: tuple[int, int],
        pixel_mm: float | tuple[float, float],
        detector_offset_mm: tuple[float, float] = (0.0, 0.0),
        axis_mm: tuple[float, float] = (0.0, 0.0),
        height_mm: float = 0.0,
    ) -> ScanGeometry:
        """Build a parallel-beam scan about +z; the arguments mean what they mean in `cone`.

        Raises:
            ValueError: pitches that are not positive, no angle.
        """
        outward, u_hat, v_hat = _circular_frame(angles_rad)
        pitch_v, pitch_u = _pair(pixel_mm, "pixel_mm")
        distance = max(detector_shape[0] * pitch_v, detector_shape[1] * pitch_u)
        offset_v, offset_u = detector_offset_mm
        detector = -distance * outward + offset_v * v_hat + offset_u * u_hat
        detector += np.array([axis_mm[0], axis_mm[1], height_mm])
        return cls(
            "parallel",
            detector_shape,
            detector + 2 * distance * outward,
            detector,
            pitch_u * u_hat,
            pitch_v * v_hat,
        )

    def __getitem__(self, views: int | slice | Sequence[int] | np.ndarray | Tensor) -> ScanGeometry:
        """Return the scan of the selected views: a slice, indices or a mask (V,), also as array or tensor.

        An integer gives a scan of one view.

        Raises:
            IndexError: a view that does not exist, a mask of another length, or numbers that are not
                integers.
            ValueError: no view is left.
        """
        if isinstance(views, Tensor):
            views = views.cpu().numpy()
        if not isinstance(views, slice):
            views = np.atleast_1d(np.asarray(views))
            if views.size == 0:
                raise ValueError(
                    "a selection without a view was taken of a scan; at least one is expected."
                )
        arrays = (
            self.source_mm[views],
            self.detector_mm[views],
            self.u_mm[views],
            self.v_mm[views],
        )
        return ScanGeometry(self.beam, self.detector_shape, *arrays)

    def window(self, rows: slice = slice(None), columns: slice = slice(None)) -> ScanGeometry:
        """Return the scan of a part of the detector, the same one in all views.

        A window is a patch where the steps are 1, and a thinned detector where they are larger: its
        pixel pitch grows with the step and its centre moves, so that its rays are those of the
        pixels that ``projections[:, rows, columns]`` keeps.

        Args:
            rows: of the detector, with a positive step.
            columns: of the detector, with a positive step.

        Raises:
            ValueError: a window without a pixel, or a step that is not positive.
        """
        if rows == columns == slice(None):
            return self
        kept_rows, v_shift, v_step = _kept(rows, self.detector_shape[0], "rows")
        kept_columns, u_shift, u_step = _kept(columns, self.detector_shape[1], "columns")
        shift = v_shift * self.v_mm + u_shift * self.u_mm
        # Parallel rays keep their direction, which the source gives; a cone keeps its apex.
        source = self.source_mm if self.beam == "cone" else self.source_mm + shift
        return ScanGeometry(
            self.beam,
            (kept_rows, kept_columns),
            source,
            self.detector_mm + shift,
            u_step * self.u_mm,
            v_step * self.v_mm,
        )

    def binned(self, rows: int, columns: int) -> ScanGeometry:
        """Return the scan whose pixels are blocks of so many rows and columns; what fills no block is left out.

        Raises:
            ValueError: blocks that are larger than the detector, or of no pixel.
        """
        shape = self.detector_shape
        if not (1 <= rows <= shape[0] and 1 <= columns <= shape[1]):
            raise ValueError(
                f"blocks of {rows} x {columns} pixels are asked of a detector of {shape[0]} x {shape[1]}; at least one "
                "pixel and at most all of them are expected."
            )
        whole = (shape[0] // rows * rows, shape[1] // columns * columns)
        shift = 0.5 * (whole[0] - shape[0]) * self.v_mm + 0.5 * (whole[1] - shape[1]) * self.u_mm
        # Parallel rays keep their direction, which the source gives; a cone keeps its apex.
        source = self.source_mm if self.beam == "cone" else self.source_mm + shift
        return ScanGeometry(
            self.beam,
            (whole[0] // rows, whole[1] // columns),
            source,
            self.detector_mm + shift,
            columns * self.u_mm,
            rows * self.v_mm,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScanGeometry):
            return NotImplemented
        return (
            self.beam == other.beam
            and self.detector_shape == other.detector_shape
            and all(
                np.array_equal(a, b) for a, b in zip(self._vectors(), other._vectors(), strict=True)
            )
        )

    def __hash__(self) -> int:
        # Zeros of either sign are equal.
        vectors = ((a + 0.0).tobytes() for a in self._vectors())
        return hash((self.beam, self.detector_shape, *vectors))

    def __repr__(self) -> str:
        source, detector, u, v = (a.tolist() for a in self._vectors())
        return (
            f"ScanGeometry(beam={self.beam!r}, detector_shape={self.detector_shape}, source_mm={source}, "
            f"detector_mm={detector}, u_mm={u}, v_mm={v})"
        )

    def __str__(self) -> str:
        rows, columns = self.detector_shape
        orbit = self.orbit
        views = f"{self.beam} beam, {len(self)} view{'s' if len(self) > 1 else ''}"
        if orbit is None:
            residual = nominal_orbit(self).residual_mm
            return (
                f"{views} whose rays pass {residual:.3g} mm (root mean square) from those of the nearest "
                f"circle, detector {rows}x{columns}"
            )
        if len(self) > 1:
            views += f" over {np.rad2deg(arc(orbit.angles_rad)):.0f} degrees"
        distances = (
            f", source to axis {orbit.source_to_axis_mm:g} mm, to detector {orbit.source_to_detector_mm:g} mm"
            if orbit.source_to_axis_mm is not None
            else ""
        )
        # A zero of either sign is written alike.
        offset = [0.0 if abs(o) <= 1e-9 else o for o in orbit.detector_offset_mm]
        shifted = f", offset (v, u) ({offset[0]:.3g}, {offset[1]:.3g}) mm" if any(offset) else ""
        pitch = f"{orbit.pixel_mm[0]:.4g}x{orbit.pixel_mm[1]:.4g}"
        return f"{views}{distances}, detector {rows}x{columns} of {pitch} mm{shifted}"

    def _vectors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.source_mm, self.detector_mm, self.u_mm, self.v_mm

    @property
    def rows_along_axis(self) -> bool:
        """Whether every v is parallel to z, every u perpendicular to it (and parallel rays horizontal)."""
        pitch = np.linalg.norm(self.v_mm, axis=1).max() + np.linalg.norm(self.u_mm, axis=1).max()
        tilt = max(np.abs(self.v_mm[:, :2]).max(), np.abs(self.u_mm[:, 2]).max()) / pitch
        level = self.beam == "cone" or np.abs(self.direction[:, 2]).max() < POSITION_TOLERANCE
        return bool(tilt < POSITION_TOLERANCE and level)

    @property
    def orbit(self) -> Orbit | None:
        """The numbers by which `cone` or `parallel` rebuild the scan, or None where none do.

        They describe a scan, for files and for people. What may be computed from it is decided by
        `nominal_orbit` and its residual.
        """
        return exact_orbit(self)

    def rays(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return a point on the ray of every pixel and its unit direction, each (V, H, W, 3), x, y, z in mm.

        Args:
            device: of the tensors.
            dtype: of the tensors; None is float32.
        """
        import torch

        device, dtype = torch.device(device), dtype or torch.float32
        rows, columns = self.detector_shape
        shape = (len(self), rows, columns, 3)
        if device.type == "cuda":
            # It computes the rays itself, since it would be waited for to copy them there.
            i, j = (torch.arange(n, device=device, dtype=torch.float64) for n in (rows, columns))
            parts = _rays(self.beam, _poses_on(self, device), i, j)
            return tuple(part.expand(shape).to(dtype, copy=True) for part in parts)
        parts = _rays(self.beam, _poses(self), np.arange(rows), np.arange(columns))
        return tuple(
            torch.tensor(
                np.ascontiguousarray(np.broadcast_to(part, shape)), device=device, dtype=dtype
            )
            for part in parts
        )


def remembered(count: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that remembers what a function returned for equal scans.

    The scans themselves are not kept, so that what lives as long as a scan (`projectors.device_tables`) goes with it.

    Args:
        count: of calls that are remembered, the last ones.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        kept = lru_cache(maxsize=count)(function)

        @wraps(function)
        def call(scan: ScanGeometry, *more: Any) -> Any:
            # A copy is equal and shares the vectors, but is another object.
            return kept(copy(scan), *more)

        return call

    return decorate


def _rays(beam: str, poses: Any, i: Any, j: Any) -> tuple[Any, Any]:
    """Return origins and directions (V, H, W, 3) of rays, 1 in the place of H and W where they are the same along them.

    Args:
        beam: of the scan.
        poses: those of `_poses`, as an array or a tensor.
        i: rows (H,), likewise.
        j: columns (W,), likewise.
    """
    source, detector, u, v, direction, back = poses
    down, across = i - 0.5 * (len(i) - 1), j - 0.5 * (len(j) - 1)
    pixel = detector + down[:, None, None] * v + across[:, None] * u
    if beam == "parallel":
        return pixel - back * direction, direction
    ray = pixel - source
    ray /= (ray * ray).sum(-1)[..., None] ** 0.5
    return source, ray


def _poses(scan: ScanGeometry) -> np.ndarray:
    """Return source, detector, u, v, direction and way back of parallel rays, (6, V, 1, 1, 3)."""
    length = np.linalg.norm(scan.detector_mm - scan.source_mm, axis=1, keepdims=True)
    back = np.broadcast_to(scan.way_back_mm(length), scan.source_mm.shape)
    return np.stack([*scan._vectors(), scan.direction, back])[:, :, None, None]


@remembered(512)
def _poses_on(scan: ScanGeometry, device: torch.device) -> Tensor:
    """Return `_poses` on a GPU; they are remembered, and not waited for."""
    import torch

    return torch.from_numpy(_poses(scan)).pin_memory().to(device, non_blocking=True)


def _kept(part: slice, count: int, name: str) -> tuple[int, float, int]:
    """Return how many pixels a slice keeps, how far it moves their middle, and its step."""
    step = 1 if part.step is None else part.step
    kept = range(*part.indices(count)) if step > 0 else range(0)
    if not kept:
        raise ValueError(
            f"{name} of the window is {part}; a positive step and at least one of the {count} {name} "
            "of the detector are expected."
        )
    return len(kept), 0.5 * (kept[0] + kept[-1]) - 0.5 * (count - 1), step


def _circular_frame(
    angles_rad: Sequence[float] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return unit vectors axis -> source, u and v of each view, (V, 3) each."""
    angles = np.atleast_1d(np.asarray(angles_rad, dtype=np.float64))
    if angles.ndim != 1 or len(angles) < 1 or not np.isfinite(angles).all():
        raise ValueError("angles_rad must be a list of at least one finite angle.")
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return (
        np.stack([cos, sin, zero], axis=1),
        np.stack([-sin, cos, zero], axis=1),
        np.stack([zero, zero, zero - 1], axis=1),
    )


def _pair(value: float | tuple[float, float], name: str) -> tuple[float, float]:
    pair = (
        tuple(float(x) for x in value)
        if isinstance(value, Sequence | np.ndarray)
        else (float(value),) * 2
    )
    if len(pair) != 2 or not all(0 < x < np.inf for x in pair):
        raise ValueError(f"{name} is {value}; one positive number or (v, u) is expected.")
    return pair
