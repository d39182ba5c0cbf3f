"""A numba kernel that paints round tubes; numpy spends its time on calls, a thousand of small boxes each."""

from __future__ import annotations

import numpy as np

from diffnr_lightning.kernels import kernel_part

f4 = np.float32


@kernel_part()
def tube_share(distance: np.float32, radius: np.float32, edge: float) -> np.float32:
    """Return the share of a voxel that a round tube fills, right in sum for the thinnest tubes.

    Args:
        distance: mm from the tube's centre line.
        radius: mm.
        edge: voxel edge, mm.
    """
    # A ramp one voxel wide around radius r adds pi * edge^2 / 12 to the cross-section: take it off
    # again, and where the tube is too thin for that, lower the peak instead.
    squared = radius * radius
    ramp = np.sqrt(max(squared - f4(edge * edge / 12), f4(edge * edge / 4)))
    share = min(max(f4(0.5) + (ramp - distance) / f4(edge), f4(0)), f4(1))
    return share * min(f4(1), f4(3) * squared / f4(edge * edge))


@kernel_part()
def raise_share(
    share: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    segments: np.ndarray,
    boxes: np.ndarray,
    edge: float,
) -> None:
    """Raise `share` to what straight pieces of tubes fill of each voxel.

    Args:
        share: (Z, Y, X) float32, changed in place.
        x: (Z, Y, X) float32 coordinates of the voxels, mm.
        y: likewise.
        z: likewise.
        segments: (N, 8) float64: start x, y, z, end x, y, z, and radius at start and end, mm.
        boxes: (N, 3, 2) first voxel and the one after the last, along z, y, x, within which each lies.
        edge: voxel edge, mm.
    """
    for n in range(len(segments)):
        start, end = segments[n, :3], segments[n, 3:6]
        bx, by, bz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
        squared_length = f4(bx * bx + by * by + bz * bz + 1e-9)
        sx, sy, sz = f4(start[0]), f4(start[1]), f4(start[2])
        dx, dy, dz = f4(bx), f4(by), f4(bz)
        radius, widening = f4(segments[n, 6]), f4(segments[n, 7] - segments[n, 6])
        box = boxes[n]
        for k in range(box[0, 0], box[0, 1]):
            for j in range(box[1, 0], box[1, 1]):
                for i in range(box[2, 0], box[2, 1]):
                    px, py, pz = x[k, j, i] - sx, y[k, j, i] - sy, z[k, j, i] - sz
                    along = (px * dx + py * dy + pz * dz) / squared_length
                    along = min(max(along, f4(0)), f4(1))
                    px, py, pz = px - along * dx, py - along * dy, pz - along * dz
                    distance = np.sqrt(px * px + py * py + pz * pz)
                    filled = tube_share(distance, radius + along * widening, edge)
                    share[k, j, i] = max(share[k, j, i], filled)
