"""Generated ellipsoids: the objects of priors that are to know edges and flat parts, but no anatomy."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from diffnr_lightning.phantoms.canvas import Phantom, check_seed_and_size, inside

SIDE_MM = 200.0
AIR_HU, DENSEST_HU = -1000.0, 1024.0
# Radius of the cylinder that centres lie in, by the edge of the cube, and mean half axis by that radius.
RADIUS, HALF_AXIS = 0.4745, 0.2
# How far along the cylinder centres lie, by the edge of the cube: to either side so far out that few reach in.
LENGTH = 1.2
# So many that a slice meets about 140.
COUNT = 780
VALUES = (-0.4, 1.0)
# Shares of the voxels with matter that are set to air and to the densest.
CLIPPED = (0.005, 0.995)


def ellipsoids(seed: int, size: int = 128) -> Phantom:
    """Generate ellipsoids that overlap in a cylinder along z, whose values are added where they do.

    Args:
        seed: of the ellipsoids; equal seeds give the same ones at every size.
        size: voxels along each edge of the cube, at least 16.

    Returns:
        A cube of 200 mm, float32 in HU from -1000 to 1024, named ``ellipsoids_<seed>``.

    Raises:
        ValueError: a negative seed, or a size below 16.

    Source: R. Barbano, A. Denker, H. Chung et al., "Steerable conditional diffusion for out-of-distribution adaptation
    in medical image reconstruction", IEEE TMI 2025, whose prior learns from discs of up to 140 ellipses: exponential
    half axes, values from -0.4 to 1, scaled to [0, 1] where there is matter. Deviations: slices of ellipsoids in the
    place of ellipses, so that there are volumes of them; the disc fills the cube as bodies do, which is twice as wide
    as theirs; the outermost values are clipped, since a volume has rarer ones than an image.
    """
    check_seed_and_size(seed, size)
    rng = np.random.default_rng(seed)
    count = min(rng.poisson(COUNT), COUNT)
    angle, height = rng.uniform(0.0, 2.0 * np.pi, count), rng.uniform(-0.5, 0.5, count)
    # Evenly over the disc.
    radius = RADIUS * np.sqrt(rng.random(count))
    centres = np.stack([LENGTH * height, radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    axes = HALF_AXIS * RADIUS * rng.exponential(size=(count, 3))
    turns = Rotation.random(count, random_state=rng).as_matrix()
    values = rng.uniform(*VALUES, count)

    line = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    total = np.zeros((size, size, size), dtype=np.float32)
    matter = np.zeros_like(total)
    for centre, half, turn, value in zip(centres, axes, turns, values, strict=True):
        _add(total, matter, line, centre, half, turn, value)
    low, high = np.quantile(total[matter > 0.5], CLIPPED).astype(np.float32)
    # Where an edge takes a part of a voxel it takes that part of the shift.
    total = np.clip((total - low * matter) / (high - low), 0.0, 1.0)
    total *= DENSEST_HU - AIR_HU
    total += AIR_HU
    return Phantom(total, (SIDE_MM / size,) * 3, f"ellipsoids_{seed}")


def _add(
    total: np.ndarray,
    matter: np.ndarray,
    line: np.ndarray,
    centre: np.ndarray,
    half: np.ndarray,
    turn: np.ndarray,
    value: float,
) -> None:
    """Add one ellipsoid to the sum of values (Z, Y, X) and to the share of matter in each voxel.

    Args:
        total: changed in place.
        matter: changed in place.
        line: (N,) voxel centres along each axis, by the edge of the cube.
        centre: (3,) z, y, x.
        half: (3,) half axes.
        turn: (3, 3) whose columns are the directions of the half axes.
        value: that is added.
    """
    edge = float(line[1] - line[0])
    reach = np.sqrt((turn**2 * half**2).sum(axis=1)) + edge
    first, last = (np.searchsorted(line, centre + side * reach) for side in (-1, 1))
    if (first >= last).any():
        return
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    z, y, x = (line[part] - at for part, at in zip(box, centre.astype(np.float32), strict=True))
    squares = slopes = np.float32(0.0)
    for direction, axis in zip(turn.T.astype(np.float32), half.astype(np.float32), strict=True):
        place = direction[0] * z[:, None, None] + direction[1] * y[:, None] + direction[2] * x
        squares = squares + (place / axis) ** 2
        slopes = slopes + (place / axis**2) ** 2
    # To first order; there is no slope in the centre.
    norm = np.sqrt(squares)
    distance = (norm - 1) * norm / np.sqrt(slopes + np.float32(1e-6))
    share = inside(distance, edge)
    total[box] += np.float32(value) * share
    np.maximum(matter[box], share, out=matter[box])
