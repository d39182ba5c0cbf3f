"""Per-view vectors of source and detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Beam = Literal["cone", "parallel"]

# Float32 knows a place that is no farther from the origin than this many pixels to 2e-4 of a pixel.
_NEAR_PIXELS = 4096


@dataclass(frozen=True, eq=False, repr=False)
class Poses:
    """Hold where source and detector are in every view.

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
        shape = np.asarray(self.detector_shape, dtype=np.float64)
        if shape.shape != (2,) or not ((shape >= 1) & (shape % 1 == 0)).all():
            raise ValueError(
                f"detector_shape is {self.detector_shape}; two positive whole numbers (H, W) are expected."
            )
        object.__setattr__(self, "detector_shape", tuple(int(n) for n in shape))
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

    def __len__(self) -> int:
        return len(self.source_mm)

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

    def way_back_mm(self, wanted_mm: np.ndarray | float) -> np.ndarray:
        """Return (V, 1) how far to go back along parallel rays from the detector to a point that float32 knows well.

        Any point of such a ray describes it, and source and detector may stand far away.

        Args:
            wanted_mm: (V, 1) or one length, which is taken where it leads to within 4096 pixels of the point nearest
                to the origin of the world; the nearest length that does so is taken elsewhere.
        """
        pitch = np.linalg.norm([self.u_mm, self.v_mm], axis=-1).min()
        origin = (self.detector_mm * self.direction).sum(axis=1, keepdims=True)
        reach = _NEAR_PIXELS * pitch
        return np.clip(wanted_mm, origin - reach, origin + reach)
