"""Scan and grid as immutable values: where the source, the detector and the voxels are.

Conventions, everywhere in the package: world points are ``(x, y, z)`` in millimetres; volumes are arrays ``(Z, Y, X)`` whose
indices grow with +z, +y and +x; projections are arrays ``(V, H, W)``, view by row by column, with H along the rotation
axis. Row 0 of a circular scan is the top (+z). ``notebooks/geometry_conventions.py`` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Beam = Literal["cone", "parallel"]

# Two lengths or directions closer than this (relative to the size of the scan) are the same position.
POSITION_TOLERANCE = 1e-6


@dataclass(frozen=True)
class VolumeGrid:
    """Hold shape, voxel edges and centre of a voxel volume aligned with the world axes.

    Args:
        shape: number of voxels (Z, Y, X).
        voxel_mm: voxel edges (z, y, x) in mm; one number means cubic voxels.
        centre_mm: world position (x, y, z) of the centre of the volume in mm.

    Raises:
        ValueError: a shape that is not three positive integers, or an edge that is not positive and finite.
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float] | float
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        edges = self.voxel_mm if isinstance(self.voxel_mm, Sequence) else (self.voxel_mm,) * 3
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "voxel_mm", tuple(float(edge) for edge in edges))
        object.__setattr__(self, "centre_mm", tuple(float(c) for c in self.centre_mm))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(
                f"grid shape is {self.shape}; three positive integers (Z, Y, X) are expected."
            )
        if len(self.voxel_mm) != 3 or not all(np.isfinite(e) and e > 0 for e in self.voxel_mm):
            raise ValueError(
                f"voxel_mm is {self.voxel_mm}; positive edges (z, y, x) in mm are expected."
            )
        if len(self.centre_mm) != 3 or not np.isfinite(self.centre_mm).all():
            raise ValueError(
                f"centre_mm is {self.centre_mm}; a finite point (x, y, z) is expected."
            )

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Edges of the whole volume (z, y, x) in mm."""
        return tuple(n * edge for n, edge in zip(self.shape, self.voxel_mm, strict=True))

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """World position (x, y, z) of the centre of voxel [0, 0, 0]."""
        return tuple(
            centre - 0.5 * (n - 1) * edge
            for centre, n, edge in zip(
                self.centre_mm, self.shape[::-1], self.voxel_mm[::-1], strict=True
            )
        )

    @property
    def corners_mm(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Lowest and highest corner (x, y, z) of the box, voxel faces included."""
        half = [0.5 * s for s in self.size_mm[::-1]]
        low = tuple(c - h for c, h in zip(self.centre_mm, half, strict=True))
        high = tuple(c + h for c, h in zip(self.centre_mm, half, strict=True))
        return low, high

    def points(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return the voxel centres, shape (Z, Y, X, 3), as world (x, y, z) in mm."""
        x, y, z = (
            origin + edge * torch.arange(n, device=device, dtype=dtype)
            for origin, edge, n in zip(
                self.origin_mm, self.voxel_mm[::-1], self.shape[::-1], strict=True
            )
        )
        zz, yy, xx = torch.meshgrid(z, y, x, indexing="ij")
        return torch.stack([xx, yy, zz], dim=-1)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> VolumeGrid:
        """Return the grid of the voxels ``[start, start + shape)``, indices and shape in (Z, Y, X)."""
        first = np.asarray(self.origin_mm) + np.asarray(start[::-1]) * np.asarray(
            self.voxel_mm[::-1]
        )
        centre = first + 0.5 * (np.asarray(shape[::-1]) - 1) * np.asarray(self.voxel_mm[::-1])
        return VolumeGrid(tuple(shape), self.voxel_mm, tuple(centre))


@dataclass(frozen=True)
class Orbit:
    """Describe a circular scan by the numbers of its scanner; derived from `ScanGeometry.orbit`.

    Attributes:
        angles_rad: (V,) position of the source about +z, counter-clockwise from +x, in [0, 2 pi).
        source_to_axis_mm: distance of the source from the axis; None for parallel beam.
        source_to_detector_mm: distance of the source from the detector plane; None for parallel beam.
        pixel_mm: pixel pitch (v, u).
        detector_offset_mm: shift of the detector centre along (v, u) from the central ray.
        axis_mm: where the rotation axis crosses the plane z = 0, (x, y).
        height_mm: z of the central ray.
    """

    angles_rad: np.ndarray
    source_to_axis_mm: float | None
    source_to_detector_mm: float | None
    pixel_mm: tuple[float, float]
    detector_offset_mm: tuple[float, float]
    axis_mm: tuple[float, float]
    height_mm: float


@dataclass(frozen=True, eq=False, repr=False)
class ScanGeometry:
    """Hold the pose of source and detector in every view.

    Args:
        beam: ``"cone"`` or ``"parallel"``.
        detector_shape: rows and columns (H, W).
        source_mm: (V, 3) source positions; for parallel beam any point upstream on the ray to the detector centre.
        detector_mm: (V, 3) centre of the pixel array.
        u_mm: (V, 3) step from one column to the next.
        v_mm: (V, 3) step from one row to the next.

    Raises:
        ValueError: shapes that disagree, non-finite numbers, no view, or a detector without area.
    """

    beam: Beam
    detector_shape: tuple[int, int]
    source_mm: np.ndarray
    detector_mm: np.ndarray
    u_mm: np.ndarray
    v_mm: np.ndarray

    def __post_init__(self) -> None:
        if self.beam not in ("cone", "parallel"):
            raise ValueError(f"beam is {self.beam!r}; 'cone' or 'parallel' is expected.")
        shape = tuple(int(n) for n in self.detector_shape)
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(
                f"detector_shape is {self.detector_shape}; positive (H, W) is expected."
            )
        object.__setattr__(self, "detector_shape", shape)
        for name in ("source_mm", "detector_mm", "u_mm", "v_mm"):
            vectors = np.array(getattr(self, name), dtype=np.float64)
            if vectors.ndim != 2 or vectors.shape[1] != 3 or len(vectors) < 1:
                raise ValueError(
                    f"{name} has shape {vectors.shape}; (views, 3) with at least one view is expected."
                )
            if len(vectors) != len(np.atleast_2d(self.source_mm)):
                raise ValueError(
                    f"{name} has {len(vectors)} views, source_mm has {len(self.source_mm)}."
                )
            if not np.isfinite(vectors).all():
                raise ValueError(f"{name} holds NaN or infinite numbers.")
            vectors.setflags(write=False)
            object.__setattr__(self, name, vectors)
        if (np.linalg.norm(np.cross(self.u_mm, self.v_mm), axis=1) <= 0).any():
            raise ValueError(
                "u_mm and v_mm span no area; pixel pitches must be positive and not parallel."
            )
        if (np.linalg.norm(self.detector_mm - self.source_mm, axis=1) <= 0).any():
            raise ValueError("source_mm and detector_mm coincide in at least one view.")

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
            ValueError: DSD < DSO, distances or pitches that are not positive, no angle.
        """
        if not 0 < source_to_axis_mm < np.inf:
            raise ValueError(
                f"source_to_axis_mm (DSO) is {source_to_axis_mm}; a positive length is expected."
            )
        if not source_to_axis_mm <= source_to_detector_mm < np.inf:
            raise ValueError(
                f"source_to_detector_mm (DSD) is {source_to_detector_mm}, less than source_to_axis_mm (DSO) "
                f"{source_to_axis_mm}: the detector would stand before the rotation axis; were they exchanged?"
            )
        outward, u_hat, v_hat = _circular_frame(angles_rad)  # (V, 3) each
        pitch_v, pitch_u = _pair(pixel_mm, "pixel_mm")
        centre = np.zeros_like(outward)
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

    def __len__(self) -> int:
        return len(self.source_mm)

    def __getitem__(self, views: int | slice | Sequence[int] | np.ndarray | Tensor) -> ScanGeometry:
        """Return the scan of the selected views; an integer gives a scan of one view."""
        if isinstance(views, Tensor):
            views = views.cpu().numpy()
        if isinstance(views, int | np.integer):
            views = [int(views)]
        arrays = (
            self.source_mm[views],
            self.detector_mm[views],
            self.u_mm[views],
            self.v_mm[views],
        )
        return ScanGeometry(self.beam, self.detector_shape, *arrays)

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
        return hash((self.beam, self.detector_shape, *(a.tobytes() for a in self._vectors())))

    def __repr__(self) -> str:
        source, detector, u, v = (a.tolist() for a in self._vectors())
        return (
            f"ScanGeometry(beam={self.beam!r}, detector_shape={self.detector_shape}, source_mm={source}, "
            f"detector_mm={detector}, u_mm={u}, v_mm={v})"
        )

    def __str__(self) -> str:
        rows, columns = self.detector_shape
        orbit = self.orbit
        if orbit is None:
            return (
                f"{self.beam} beam, {len(self)} views in arbitrary poses, detector {rows}x{columns}"
            )
        distances = (
            f", source to axis {orbit.source_to_axis_mm:g} mm, to detector {orbit.source_to_detector_mm:g} mm"
            if orbit.source_to_axis_mm is not None
            else ""
        )
        offset = orbit.detector_offset_mm
        shifted = (
            f", offset (v, u) ({offset[0]:.3g}, {offset[1]:.3g}) mm"
            if any(abs(o) > 1e-9 for o in offset)
            else ""
        )
        return (
            f"{self.beam} beam, {len(self)} views over {np.rad2deg(arc(orbit.angles_rad)):.0f} degrees{distances}, "
            f"detector {rows}x{columns} of {orbit.pixel_mm[0]:.4g}x{orbit.pixel_mm[1]:.4g} mm{shifted}"
        )

    def _vectors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.source_mm, self.detector_mm, self.u_mm, self.v_mm

    @property
    def direction(self) -> np.ndarray:
        """(V, 3) unit vectors from the source to the detector centre; for parallel beam, of every ray."""
        ray = self.detector_mm - self.source_mm
        return ray / np.linalg.norm(ray, axis=1, keepdims=True)

    @property
    def normal(self) -> np.ndarray:
        """(V, 3) unit normals of the detector plane, pointing away from the source."""
        normal = np.cross(self.u_mm, self.v_mm)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        return normal * np.sign((normal * self.direction).sum(axis=1, keepdims=True))

    @property
    def rows_along_axis(self) -> bool:
        """Whether every v is parallel to z, every u perpendicular to it (and parallel rays horizontal)."""
        pitch = np.linalg.norm(self.v_mm, axis=1).max() + np.linalg.norm(self.u_mm, axis=1).max()
        tilt = max(np.abs(self.v_mm[:, :2]).max(), np.abs(self.u_mm[:, 2]).max()) / pitch
        level = self.beam == "cone" or np.abs(self.direction[:, 2]).max() < POSITION_TOLERANCE
        return bool(tilt < POSITION_TOLERANCE and level)

    @property
    def orbit(self) -> Orbit | None:
        """The scanner's numbers if all views lie on one circle about a z-parallel axis, else None."""
        return _fit_orbit(self)

    def rays(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Return a point on the ray of every pixel and its unit direction, each (V, H, W, 3), x, y, z in mm."""
        rows, columns = self.detector_shape
        i = np.arange(rows) - 0.5 * (rows - 1)
        j = np.arange(columns) - 0.5 * (columns - 1)
        pixel = (
            self.detector_mm[:, None, None]
            + i[None, :, None, None] * self.v_mm[:, None, None]
            + j[None, None, :, None] * self.u_mm[:, None, None]
        )  # (V, H, W, 3)
        if self.beam == "cone":
            origin = np.broadcast_to(self.source_mm[:, None, None], pixel.shape)
            ray = pixel - origin
            ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        else:
            ray = np.broadcast_to(self.direction[:, None, None], pixel.shape)
            length = np.linalg.norm(self.detector_mm - self.source_mm, axis=1)[:, None, None, None]
            origin = pixel - length * ray
        return (
            torch.tensor(np.ascontiguousarray(origin), device=device, dtype=dtype),
            torch.tensor(np.ascontiguousarray(ray), device=device, dtype=dtype),
        )


def uniform_angles(num_views: int, arc_deg: float = 360.0, start_deg: float = 0.0) -> np.ndarray:
    """Return ``num_views`` equally spaced source angles in radians; the end of the arc is left out.

    Raises:
        ValueError: fewer than one view, or an arc outside (0, 360].
    """
    if num_views < 1:
        raise ValueError(f"num_views is {num_views}; at least one is expected.")
    if not 0 < arc_deg <= 360:
        raise ValueError(f"arc_deg is {arc_deg}; a number in (0, 360] is expected.")
    return np.deg2rad(start_deg + arc_deg * np.arange(num_views) / num_views)


def arc(angles_rad: np.ndarray) -> float:
    """Return the arc the views stand for in radians: the circle less the largest gap, plus one mean step."""
    ordered = np.sort(np.mod(angles_rad, 2 * np.pi))
    if len(ordered) == 1:
        return 0.0
    gaps = np.diff(np.append(ordered, ordered[0] + 2 * np.pi))
    covered = 2 * np.pi - gaps.max()
    return float(min(2 * np.pi, covered + covered / (len(ordered) - 1)))


def check_scan_sees_grid(scan: ScanGeometry, grid: VolumeGrid) -> None:
    """Refuse a scan whose source lies inside the volume or whose rays all miss it.

    Raises:
        ValueError: naming the view, or saying that no ray meets the box of the grid.
    """
    low, high = (np.asarray(c) for c in grid.corners_mm)
    if scan.beam == "cone":
        inside = ((scan.source_mm > low) & (scan.source_mm < high)).all(axis=1)
        if inside.any():
            view = int(np.flatnonzero(inside)[0])
            raise ValueError(
                f"the source of view {view} lies inside the volume; check distances and voxel size."
            )
    radius = 0.5 * np.linalg.norm(grid.size_mm)
    origins, directions = scan.rays(dtype=torch.float64)
    offset = origins - torch.tensor(grid.centre_mm, dtype=torch.float64)
    nearest = torch.linalg.norm(
        offset - (offset * directions).sum(-1, keepdim=True) * directions, dim=-1
    )
    if float(nearest.min()) > radius:
        raise ValueError(
            "no ray of the scan meets the volume; check offsets, units and voxel size."
        )


def r2_scanner(scan: ScanGeometry, grid: VolumeGrid) -> dict[str, Any]:
    """Describe a circular scan and its grid as the ``scanner`` entry of an R2-Gaussian ``meta_data.json``.

    Raises:
        ValueError: the scan is not circular.

    Source: `methods.md` notes on the R2-Gaussian format: nVoxel, sVoxel, offOrigin in (x, y, z); nDetector, sDetector,
    offDetector in (v, u). offOrigin is the centre of the volume as seen from the rotation axis; offDetector v points up.
    """
    orbit = scan.orbit
    if orbit is None:
        raise ValueError(
            "the scan is not circular; meta_data.json can only describe circular scans."
        )
    rows, columns = scan.detector_shape
    centre = np.asarray(grid.centre_mm) - np.array([*orbit.axis_mm, orbit.height_mm])
    parallel_distance = 2 * float(np.linalg.norm(grid.size_mm))
    return {
        "mode": scan.beam,
        "DSD": orbit.source_to_detector_mm or parallel_distance,
        "DSO": orbit.source_to_axis_mm or parallel_distance / 2,
        "nDetector": [rows, columns],
        "sDetector": [rows * orbit.pixel_mm[0], columns * orbit.pixel_mm[1]],
        "dDetector": list(orbit.pixel_mm),
        "nVoxel": list(grid.shape[::-1]),
        "sVoxel": list(grid.size_mm[::-1]),
        "dVoxel": list(grid.voxel_mm[::-1]),
        "offOrigin": [float(c) for c in centre],
        "offDetector": [-orbit.detector_offset_mm[0], orbit.detector_offset_mm[1]],
    }


def from_r2_scanner(
    scanner: Mapping[str, Any], angles_rad: Sequence[float]
) -> tuple[ScanGeometry, VolumeGrid]:
    """Build scan and grid from the ``scanner`` entry of an R2-Gaussian ``meta_data.json``; inverse of `r2_scanner`.

    Lengths keep the file's unit. The rotation axis passes through the world's origin.

    Raises:
        ValueError: a missing key, or geometry that contradicts itself.
    """
    needed = ("DSD", "DSO", "nDetector", "sDetector", "nVoxel", "sVoxel")
    missing = [key for key in needed if key not in scanner]
    if missing:
        raise ValueError(f"scanner lacks the key {missing[0]!r}; {', '.join(needed)} are expected.")
    beam = scanner.get("mode", "cone")
    if beam not in ("cone", "parallel"):
        raise ValueError(f"scanner mode is {beam!r}; 'cone' or 'parallel' is expected.")
    voxels = [int(n) for n in scanner["nVoxel"]]
    edges = [float(s) / n for s, n in zip(scanner["sVoxel"], voxels, strict=True)]
    grid = VolumeGrid(
        tuple(voxels[::-1]), tuple(edges[::-1]), tuple(scanner.get("offOrigin") or (0.0, 0.0, 0.0))
    )
    shape = tuple(int(n) for n in scanner["nDetector"])
    pixel = tuple(float(s) / n for s, n in zip(scanner["sDetector"], shape, strict=True))
    up, along_u = scanner.get("offDetector") or (0.0, 0.0)
    detector = {
        "detector_shape": shape,
        "pixel_mm": pixel,
        "detector_offset_mm": (-float(up), float(along_u)),
    }
    if beam == "parallel":
        return ScanGeometry.parallel(angles_rad=angles_rad, **detector), grid
    distances = {
        "source_to_axis_mm": float(scanner["DSO"]),
        "source_to_detector_mm": float(scanner["DSD"]),
    }
    return ScanGeometry.cone(angles_rad=angles_rad, **distances, **detector), grid


def astra_vectors(scan: ScanGeometry) -> np.ndarray:
    """Return the (V, 12) array of ASTRA's ``cone_vec`` / ``parallel3d_vec``: source or ray, detector, u, v in mm."""
    first = scan.source_mm if scan.beam == "cone" else scan.direction
    return np.concatenate([first, scan.detector_mm, scan.u_mm, scan.v_mm], axis=1)


def from_astra_vectors(
    vectors: np.ndarray, detector_shape: tuple[int, int], beam: Beam = "cone"
) -> ScanGeometry:
    """Build a scan from ASTRA's vectors, shape (V, 12), lengths in mm; inverse of `astra_vectors`.

    Raises:
        ValueError: not twelve numbers a view.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != 12:
        raise ValueError(f"vectors has shape {vectors.shape}; (views, 12) is expected.")
    first, detector, u, v = np.split(vectors, 4, axis=1)
    if beam == "parallel":
        distance = 2 * max(detector_shape) * np.linalg.norm(u, axis=1, keepdims=True)
        first = detector - distance * first / np.linalg.norm(first, axis=1, keepdims=True)
    return ScanGeometry(beam, detector_shape, first, detector, u, v)


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


def _fit_orbit(scan: ScanGeometry) -> Orbit | None:
    """Solve for axis, distances and offsets that reproduce the scan's vectors; None where none do."""
    pitch_u, pitch_v = np.linalg.norm(scan.u_mm, axis=1), np.linalg.norm(scan.v_mm, axis=1)
    scale = float(
        np.abs(scan.source_mm - scan.detector_mm).max() + scan.detector_shape[1] * pitch_u.max()
    )
    u_hat, v_hat, normal = scan.u_mm / pitch_u[:, None], scan.v_mm / pitch_v[:, None], scan.normal
    downwards = np.abs(v_hat - [0.0, 0.0, -1.0]).max() < POSITION_TOLERANCE
    constant = (
        np.ptp(pitch_u) + np.ptp(pitch_v) + np.ptp(scan.source_mm[:, 2])
        < POSITION_TOLERANCE * scale
    )
    right_handed = (np.abs(np.cross(v_hat, normal) - u_hat)).max() < POSITION_TOLERANCE
    if not (downwards and constant and right_handed):
        return None
    views = len(scan)
    ones, zeros = np.ones(views), np.zeros(views)
    if scan.beam == "cone":
        # source_xy = axis - DSO * normal_xy: two equations a view for (axis_x, axis_y, DSO).
        rows = np.concatenate(
            [np.stack([ones, zeros, -normal[:, 0]], 1), np.stack([zeros, ones, -normal[:, 1]], 1)]
        )
        target = np.concatenate([scan.source_mm[:, 0], scan.source_mm[:, 1]])
        (axis_x, axis_y, distance), *_ = np.linalg.lstsq(rows, target, rcond=None)
        if views == 1:
            # One view says nothing about where the axis is: take the point of its central ray nearest to the origin.
            distance = float(-scan.source_mm[0] @ normal[0])
            axis_x, axis_y = scan.source_mm[0, :2] + distance * normal[0, :2]
        residual = rows @ [axis_x, axis_y, distance] - target
        to_detector = ((scan.detector_mm - scan.source_mm) * normal).sum(axis=1)
        offset = scan.detector_mm - scan.source_mm - to_detector[:, None] * normal
        offset_u, offset_v = (offset * u_hat).sum(axis=1), (offset * v_hat).sum(axis=1)
        spread = np.abs(residual).max() + np.ptp(to_detector) + np.ptp(offset_u) + np.ptp(offset_v)
        distances = (float(distance), float(to_detector[0]))
        height = float(scan.source_mm[0, 2])
    else:
        # detector . u_hat = axis . u_hat + offset_u: one equation a view; the minimum-norm axis where it is ambiguous.
        rows = np.stack([u_hat[:, 0], u_hat[:, 1], ones], axis=1)
        target = (scan.detector_mm[:, :2] * u_hat[:, :2]).sum(axis=1)
        (axis_x, axis_y, shift), *_ = np.linalg.lstsq(rows, target, rcond=None)
        offset_u, offset_v = np.full(views, shift), -scan.detector_mm[:, 2]
        crooked = np.abs(scan.direction - normal).max() * scale
        spread = np.abs(rows @ [axis_x, axis_y, shift] - target).max() + np.ptp(offset_v) + crooked
        distances = (None, None)
        height = 0.0
    if spread > POSITION_TOLERANCE * scale:
        return None
    angles = np.mod(np.arctan2(-normal[:, 1], -normal[:, 0]) + 1e-9, 2 * np.pi) - 1e-9
    return Orbit(
        angles_rad=angles,
        source_to_axis_mm=distances[0],
        source_to_detector_mm=distances[1],
        pixel_mm=(float(pitch_v[0]), float(pitch_u[0])),
        detector_offset_mm=(float(offset_v[0]), float(offset_u[0])),
        axis_mm=(float(axis_x), float(axis_y)),
        height_mm=height,
    )
