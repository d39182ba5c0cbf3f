"""Weights of measurements that were made more or less than once: what FDK and FBP integrate with.

Every line through the object should count once. On a full circle each is measured twice, from
opposite sides; on a short arc, or with a shifted detector, some are measured twice and some once.
With ``c >= 0`` a smooth confidence of a ray, a ray gets ``c / (c + c of the opposite ray)``, which
sums to one over the pair wherever at least one of the two was measured.

Source: F. Noo et al., "Image reconstruction from fan-beam projections on less than a short scan",
Phys. Med. Biol. 2002 (arcs); G. Wang, "X-ray micro-CT with a displaced detector array", Med. Phys.
2002.
"""

from __future__ import annotations

import numpy as np

from diffnr_lightning.geometry import arc_length

_ARC_TAPER = np.deg2rad(10.0)


def ray_weights(
    angles_rad: np.ndarray,
    fan_rad: np.ndarray,
    across: np.ndarray,
    edges: tuple[float, float] | None,
    steps: np.ndarray,
    closed: bool,
    continued: bool = False,
) -> np.ndarray:
    """Return the share (V, W) of every ray in the line that it measures.

    Args:
        angles_rad: (V,) source angles.
        fan_rad: (W,) angle of each detector column from the central ray; zeros for parallel beam.
        across: (W,) distance of each column from the central ray, in any unit.
        edges: ends of a detector that is shifted sideways, in the same unit; None for a centred
            one.
        steps: (V,) from `geometry.view_steps` with period 2 pi.
        closed: from `geometry.view_steps`.
        continued: whether rows are continued beyond the near edge of a shifted detector, where views do not go all
            around. What stands there counts in lines that are not seen again.
    """
    side = _side_confidence(across, edges)
    opposite_side = _side_confidence(-across, edges)
    if closed:
        own, other = side[None], opposite_side[None]
    else:
        start, length = _arc_start(angles_rad, steps)
        taper = max(_ARC_TAPER, 0.5 * (length - np.pi))
        view = _arc_confidence(angles_rad[:, None] - start, length, taper)
        # The line of ray (angle, fan) is seen again from angle + pi - 2 fan, under -fan.
        opposite = angles_rad[:, None] + np.pi - 2.0 * fan_rad[None]
        opposite_view = _arc_confidence(opposite - start, length, taper)
        own, other = view * side, opposite_view * opposite_side
        if continued:
            unseen = own + other == 0
            own, other = np.where(unseen, view, own), np.where(unseen, opposite_view, other)
    total = own + other
    share = np.divide(own, total, out=np.zeros_like(total), where=total > 0)
    return np.broadcast_to(share, (len(angles_rad), len(across)))


def _arc_start(angles_rad: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """Return where the arc of an open scan begins and how long it is, half steps included."""
    order = np.argsort(np.mod(angles_rad, 2 * np.pi), kind="stable")
    ordered = np.mod(angles_rad, 2 * np.pi)[order]
    gaps = np.diff(np.append(ordered, ordered[0] + 2 * np.pi))
    begin = (int(np.argmax(gaps)) + 1) % len(ordered)
    length = arc_length(steps)
    covered = 2 * np.pi - gaps.max()
    return float(ordered[begin] - 0.5 * (length - covered)), length


def _arc_confidence(from_start: np.ndarray, length: float, taper: float) -> np.ndarray:
    """Return 1 inside the arc, falling to 0 at its ends as sin^2, 0 outside."""
    inside = np.mod(from_start, 2 * np.pi)
    to_end = np.minimum(inside, length - inside)
    taper = min(taper, 0.5 * length)
    return np.sin(0.5 * np.pi * np.clip(to_end / taper, 0.0, 1.0)) ** 2


def _side_confidence(across: np.ndarray, edges: tuple[float, float] | None) -> np.ndarray:
    """Return the confidence in columns at ``across``: 1 everywhere for a centred detector.

    For a shifted one it grows from 0 at the near edge to 1 at the mirror image of that edge, and is
    0 beyond the detector.
    """
    if edges is None:
        return np.ones_like(across)
    low, high = edges
    sign = 1.0 if high > -low else -1.0
    overlap = min(-low, high)
    if overlap <= 0:
        return ((across > low) & (across < high)).astype(np.float64)
    return np.sin(0.25 * np.pi * (1.0 + np.clip(sign * across / overlap, -1.0, 1.0))) ** 2
