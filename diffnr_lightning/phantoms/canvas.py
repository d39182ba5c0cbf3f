"""The voxels a phantom is painted on: where they lie in the body, and how edges fall between them.

Anatomy is written in body coordinates: millimetres of a reference adult, x to the patient's left, y
to the back, z to the head. A `Canvas` holds the body coordinates of every voxel of a cube. Body
size, posture and a slow random warp are all in that map, so shapes can be simple and still differ
between patients.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffnr_lightning.phantoms.tubes import raise_share

Box = tuple[slice, slice, slice]
Point = tuple[float, float, float]

SMALLEST_SIZE = 16
NOISE_SPAN_MM = 440.0
WARP_CELL_MM = 62.0
# A sample in the middle of every quarter of a voxel: noise finer than the voxel averages out
# instead of aliasing.
SUBSAMPLES = (-0.375, -0.125, 0.125, 0.375)


class Phantom(NamedTuple):
    """A generated object.

    Attributes:
        array: (Z, Y, X) float32 in HU.
        spacing_mm: voxel edges (z, y, x) in mm.
        name: of the object, kind and seed.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    name: str


def check_seed_and_size(seed: int, size: int) -> None:
    """Refuse what cannot be painted.

    Raises:
        ValueError: a negative seed, or an edge of fewer than 16 voxels.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; a number of at least 0 is expected.")
    if size < SMALLEST_SIZE:
        raise ValueError(
            f"size is {size}; at least {SMALLEST_SIZE} voxels an edge are needed to show anything."
        )


def noise(rng: np.random.Generator, cell_mm: float, axis_mm: np.ndarray) -> np.ndarray:
    """Return band-limited noise of unit variance, the same field at every resolution.

    Args:
        rng: source of the field's nodes; how many are drawn depends on `cell_mm` alone.
        cell_mm: distance of the nodes, mm; structures are about twice as large.
        axis_mm: (N,) voxel centres, evenly spaced and the same along all three axes.

    Returns:
        (N, N, N) float32.
    """
    nodes = int(np.ceil(NOISE_SPAN_MM / cell_mm)) + 4
    lattice = rng.standard_normal((nodes, nodes, nodes), dtype=np.float32)
    weights = _spline_weights(axis_mm, cell_mm, nodes)
    field = np.tensordot(weights, lattice, axes=(1, 0))
    field = np.einsum("yj,zjk->zyk", weights, field, optimize=True)
    # The sum of squared cubic B-spline weights is 151/315 on average along one axis.
    return (field @ weights.T) * np.float32((315.0 / 151.0) ** 1.5)


def _spline_weights(axis_mm: np.ndarray, cell_mm: float, nodes: int) -> np.ndarray:
    """Return (N, nodes) float32 weights of cubic B-splines, averaged over each voxel's extent."""
    edge = axis_mm[1] - axis_mm[0]
    weights = np.zeros((len(axis_mm), nodes))
    for shift in SUBSAMPLES:
        position = (axis_mm + shift * edge) / cell_mm + 0.5 * (nodes - 1)
        distance = np.abs(position[:, None] - np.arange(nodes))
        near = 2 / 3 - distance**2 * (1 - distance / 2)
        far = np.clip(2 - distance, 0, None) ** 3 / 6
        weights += np.where(distance < 1, near, far) / len(SUBSAMPLES)
    return weights.astype(np.float32)


def inside(distance: np.ndarray, edge: float) -> np.ndarray:
    """Return the share of a voxel inside a surface, from the signed distance (mm) of its centre."""
    return np.clip(0.5 - distance / edge, 0, 1)


def capsule(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, start: Point, end: Point
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance (mm) to a line segment and the place along it (0 start, 1 end)."""
    bx, by, bz = (float(e - s) for s, e in zip(start, end, strict=True))
    px, py, pz = x - float(start[0]), y - float(start[1]), z - float(start[2])
    along = np.clip((px * bx + py * by + pz * bz) / (bx * bx + by * by + bz * bz + 1e-9), 0, 1)
    return np.sqrt((px - along * bx) ** 2 + (py - along * by) ** 2 + (pz - along * bz) ** 2), along


class Canvas:
    """Hold the voxels of one phantom.

    Args:
        size: voxels along each edge of the cube.
        side_mm: edge of the cube, mm.
        pose: (3, 3) map from world to body directions (rotation and body size), rows and columns x,
            y, z.
        offset_mm: body coordinates of the cube's centre.
        warp_mm: standard deviation of the slow displacement of the body.
        rng: source of the displacement.

    Attributes:
        hu: (Z, Y, X) float32, what has been painted so far.
        x, y, z: (Z, Y, X) float32 body coordinates of the voxels, mm.
        edge: voxel edge in body millimetres.
        axis_mm: (size,) voxel centres along a world axis, mm.
    """

    def __init__(
        self,
        size: int,
        side_mm: float,
        pose: np.ndarray,
        offset_mm: Point,
        warp_mm: float,
        rng: np.random.Generator,
    ) -> None:
        self.size = size
        self.spacing_mm = side_mm / size
        self.axis_mm = (np.arange(size) - 0.5 * (size - 1)) * self.spacing_mm
        self.edge = float(self.spacing_mm * np.cbrt(np.linalg.det(pose)))
        self.hu = np.full((size, size, size), -1000.0, dtype=np.float32)
        self._to_world = np.linalg.inv(pose)
        self._offset = np.asarray(offset_mm, dtype=float)
        line = self.axis_mm.astype(np.float32)
        body = []
        self._reach = 0.0
        for row, shift in zip(pose, offset_mm, strict=True):
            coordinate = noise(rng, WARP_CELL_MM, self.axis_mm) * np.float32(warp_mm)
            self._reach = max(self._reach, float(np.abs(coordinate).max()))
            coordinate += float(row[0]) * line + float(shift)
            coordinate += float(row[1]) * line[:, None]
            coordinate += float(row[2]) * line[:, None, None]
            body.append(coordinate)
        self.x, self.y, self.z = body

    def box(self, low: Point, high: Point) -> Box | None:
        """Return the voxels that can lie between two body corners, or None if there are none."""
        found = self._voxels(np.array([low], float), np.array([high], float))[0]
        if (found[:, 0] >= found[:, 1]).any():
            return None
        return tuple(slice(int(first), int(stop)) for first, stop in found)

    def ball_box(self, centre: Point, reach: float) -> Box | None:
        """Return the voxels that can lie within `reach` mm of a body point."""
        return self.box(tuple(c - reach for c in centre), tuple(c + reach for c in centre))

    def at(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the body coordinates x, y, z of a box's voxels."""
        return self.x[box], self.y[box], self.z[box]

    def blend(self, box: Box, share: np.ndarray, hu: np.ndarray | float) -> None:
        """Replace `share` of each voxel's content by tissue of `hu`."""
        view = self.hu[box]
        view += share * (hu - view)

    def tubes(
        self,
        share: np.ndarray,
        paths: list[tuple[np.ndarray, np.ndarray]],
        grow_mm: float = 0.0,
    ) -> None:
        """Raise `share` to what tubes fill of each voxel.

        Args:
            share: (Z, Y, X) float32, changed in place.
            paths: pairs of points (N, 3) and radii (N,), body mm.
            grow_mm: added to every radius.
        """
        pieces = []
        for points, radii in paths:
            points, radii = np.asarray(points, float), np.asarray(radii, float)[:, None] + grow_mm
            pieces.append(np.hstack([points[:-1], points[1:], radii[:-1], radii[1:]]))
        if not pieces:
            return
        segments = np.concatenate(pieces)
        start, end = segments[:, :3], segments[:, 3:6]
        reach = segments[:, 6:].max(axis=1, keepdims=True) + self.edge
        boxes = self._voxels(np.minimum(start, end) - reach, np.maximum(start, end) + reach)
        raise_share(share, self.x, self.y, self.z, segments, boxes, self.edge)

    def _voxels(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return (N, 3, 2) first voxel and the one after the last, along z, y, x, between corners (N, 3) of x, y, z."""
        middle = (0.5 * (low + high) - self._offset) @ self._to_world.T
        half = 0.5 * (high - low) @ np.abs(self._to_world).T
        reach = self._reach + self.spacing_mm
        first = np.floor((middle - half - reach - self.axis_mm[0]) / self.spacing_mm)
        stop = np.ceil((middle + half + reach - self.axis_mm[0]) / self.spacing_mm) + 1
        return np.clip(np.stack([first, stop], axis=-1), 0, self.size).astype(int)[:, ::-1]
