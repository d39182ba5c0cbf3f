"""The scanner of a simulated scan and where its views stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffnr_lightning.geometry import ScanGeometry, uniform_angles

Layout = Literal["uniform", "random", "limited_arc"]


@dataclass(frozen=True)
class Scanner:
    """Describe the scanner of a simulated scan.

    Args:
        beam: ``"cone"`` or ``"parallel"``.
        source_to_axis: DSO; without meaning for parallel beam.
        source_to_detector: DSD; without meaning for parallel beam.
        detector: height and width of the square detector.
        unit: ``"cube"`` gives the lengths in edges of the reconstructed cube, so that every object
            fills the detector alike; ``"mm"`` gives them in mm.
        detector_pixels: rows and columns; None means as many as the cube has voxels.

    Raises:
        ValueError: lengths that are not positive or contradict each other.
    """

    beam: Literal["cone", "parallel"] = "cone"
    source_to_axis: float = 2.5
    source_to_detector: float = 3.75
    detector: float = 1.6
    unit: Literal["cube", "mm"] = "cube"
    detector_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.beam not in ("cone", "parallel"):
            raise ValueError(f"scanner beam is {self.beam!r}; 'cone' or 'parallel' is expected.")
        if self.unit not in ("cube", "mm"):
            raise ValueError(f"scanner unit is {self.unit!r}; 'cube' or 'mm' is expected.")
        for name in ("source_to_axis", "source_to_detector", "detector"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(
                    f"scanner {name} is {getattr(self, name)}; a positive length is expected."
                )
        if self.detector_pixels is not None and self.detector_pixels < 1:
            raise ValueError(
                f"scanner detector_pixels is {self.detector_pixels}; at least one is expected."
            )

    def scan(self, angles_rad: np.ndarray, side_mm: float, pixels: int) -> ScanGeometry:
        """Return the geometry around a cube of edge `side_mm` with `pixels` rows and columns."""
        length = side_mm if self.unit == "cube" else 1.0
        detector = {
            "angles_rad": angles_rad,
            "detector_shape": (pixels, pixels),
            "pixel_mm": self.detector * length / pixels,
        }
        if self.beam == "parallel":
            return ScanGeometry.parallel(**detector)
        return ScanGeometry.cone(
            source_to_axis_mm=self.source_to_axis * length,
            source_to_detector_mm=self.source_to_detector * length,
            **detector,
        )


def view_angles(
    layout: Layout,
    num_views: int,
    arc_deg: float,
    start_deg: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return the source angles of a scan in radians, (V,).

    Args:
        layout: ``"uniform"`` and ``"limited_arc"`` are even, the latter with both ends of the arc
            (a circle has none); ``"random"`` is drawn and sorted.
        num_views: how many.
        arc_deg: degrees they lie in.
        start_deg: where these begin.
        generator: random numbers.
    """
    if layout == "random":
        drawn = generator.uniform(0, arc_deg, num_views)
        return np.deg2rad(start_deg + np.sort(drawn))
    if layout == "limited_arc" and arc_deg < 360:
        return np.deg2rad(start_deg + np.linspace(0, arc_deg, num_views))
    return uniform_angles(num_views, arc_deg, start_deg)
