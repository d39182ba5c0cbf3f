"""How a detector's rows and columns lie about the rotation axis, and the turn that sets them upright."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from diffnr_lightning.geometry.poses import Poses


class DetectorOrientation(NamedTuple):
    """Hold what brings the pixels into the order of `ScanGeometry.cone`, without moving any of them.

    There rows run down (v = -z) and columns counter-clockwise, so that ``v x normal`` points along
    u. Files may hold rows upwards (ASTRA's own circular ``cone_vec``), mirrored columns or both axes
    exchanged. The three steps are applied in this order.

    Attributes:
        exchanged: whether rows and columns are exchanged.
        rows_reversed: whether v then points up.
        columns_reversed: whether u then points clockwise.
    """

    exchanged: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def upright_scan(self, scan: Poses) -> Poses:
        """Return the scan with its pixels in the standing order."""
        u, v, shape = scan.u_mm, scan.v_mm, scan.detector_shape
        if self.exchanged:
            u, v, shape = v, u, shape[::-1]
        return replace(
            scan,
            detector_shape=shape,
            u_mm=-u if self.columns_reversed else u,
            v_mm=-v if self.rows_reversed else v,
        )

    def upright(self, projections: Tensor) -> Tensor:
        """Return projections (V, H, W) with their pixels in the standing order."""
        if self.exchanged:
            projections = projections.transpose(1, 2)
        reversed_axes = [
            axis for axis, turned in ((1, self.rows_reversed), (2, self.columns_reversed)) if turned
        ]
        return projections.flip(reversed_axes) if reversed_axes else projections


def detector_orientation(scan: Poses) -> DetectorOrientation:
    """Return the orientation of the detectors of a scan whose rotation axis is parallel to z.

    Views that disagree are decided by their mean; what they deviate is seen in `nominal_orbit`.
    """
    u_hat = scan.u_mm / np.linalg.norm(scan.u_mm, axis=1, keepdims=True)
    v_hat = scan.v_mm / np.linalg.norm(scan.v_mm, axis=1, keepdims=True)
    exchanged = bool(np.abs(u_hat[:, 2]).mean() > np.abs(v_hat[:, 2]).mean())
    if exchanged:
        u_hat, v_hat = v_hat, u_hat
    # Of the beam: seen from the source, columns then run counter-clockwise to the left of "down".
    counter_clockwise = np.cross([0.0, 0.0, -1.0], scan.direction)
    return DetectorOrientation(
        exchanged,
        bool(v_hat[:, 2].mean() > 0),
        bool((u_hat * counter_clockwise).sum(axis=1).mean() < 0),
    )
