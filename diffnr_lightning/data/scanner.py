"""The scanner of a simulated scan and where its views stand."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from diffnr_lightning.geometry import ScanGeometry, uniform_angles

Layout = Literal["uniform", "random", "limited_arc"]

# Lengths of a scanner in edges of the cube, where none are given; in mm none can be assumed.
CUBE_LENGTHS = {"source_to_axis": 2.5, "source_to_detector": 3.75, "detector": 1.6}
# A parallel beam does not magnify: for pixels as wide as those of the cone beam are at the axis it takes more.
MAGNIFICATION = CUBE_LENGTHS["source_to_detector"] / CUBE_LENGTHS["source_to_axis"]


@dataclass(frozen=True)
class Scanner:
    """Describe the scanner of a simulated scan.

    Args:
        beam: ``"cone"`` or ``"parallel"``.
        source_to_axis: DSO; null is 2.5 edges of the cube. Without meaning for parallel beam.
        source_to_detector: DSD; null is 3.75 edges of the cube. Without meaning for parallel beam.
        detector: width of the detector, whose pixels are squares; null is 1.6 edges of the cube.
        unit: ``"cube"`` gives the lengths in edges of the reconstructed cube, so that every object
            fills the detector alike; ``"mm"`` gives them in mm, and then each must be given.
        detector_pixels: columns; null means as many as the cube has voxels along an edge, half as many again in a
            parallel beam, which does not magnify.
        detector_rows: rows; null means as many as columns or, of a few slices in a parallel beam, as see these alone.
        shift: of the detector along its rows, in `unit`; a shifted one sees half of a wide object and a little more
            of it in every view, and all of it around the circle (half-fan).

    Raises:
        ValueError: lengths that are missing, not positive or contradict each other.
    """

    beam: Literal["cone", "parallel"] = "cone"
    source_to_axis: float | None = None
    source_to_detector: float | None = None
    detector: float | None = None
    unit: Literal["cube", "mm"] = "cube"
    detector_pixels: int | None = None
    shift: float = 0.0
    detector_rows: int | None = None

    def __post_init__(self) -> None:
        if self.beam not in ("cone", "parallel"):
            raise ValueError(f"scanner beam is {self.beam!r}; 'cone' or 'parallel' is expected.")
        if self.unit not in ("cube", "mm"):
            raise ValueError(f"scanner unit is {self.unit!r}; 'cube' or 'mm' is expected.")
        missing = [name for name, length in self.lengths.items() if length is None]
        if missing:
            raise ValueError(
                f"scanner unit is 'mm' without {', '.join(missing)}; say how many mm each is, or "
                "leave the unit at 'cube'."
            )
        for name, length in self.lengths.items():
            if not 0 < length < np.inf:
                raise ValueError(f"scanner {name} is {length}; a positive length is expected.")
        for name in ("detector_pixels", "detector_rows"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"scanner {name} is {count}; at least one is expected.")
        if not np.isfinite(self.shift):
            raise ValueError(f"scanner shift is {self.shift}; a length is expected.")

    @property
    def lengths(self) -> dict[str, float | None]:
        """The lengths that the beam has, in `unit`; None for one in mm that is not given."""
        names = ("detector",) if self.beam == "parallel" else tuple(CUBE_LENGTHS)
        given = {name: getattr(self, name) for name in names}
        if self.unit == "mm":
            return given
        return {name: CUBE_LENGTHS[name] if v is None else v for name, v in given.items()}

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON and YAML hold them, with every length that is in use."""
        settings = asdict(self) | self.lengths
        if self.detector_rows is None:
            # As earlier versions described a square detector, so that their cases are taken up.
            del settings["detector_rows"]
        return settings

    def columns(self, size: int) -> int:
        """Return the columns of the detector for a cube of `size` voxels along an edge."""
        if self.detector_pixels is not None:
            return self.detector_pixels
        return size if self.beam == "cone" else math.ceil(MAGNIFICATION * size)

    def scan(
        self, angles_rad: np.ndarray, side_mm: float, pixels: int, slab_mm: float | None = None
    ) -> ScanGeometry:
        """Return the geometry around a cube.

        Args:
            angles_rad: (V,) of the source.
            side_mm: edge of the cube.
            pixels: columns of the detector.
            slab_mm: height of the slices in the middle of the cube that are wanted alone; None wants all.
        """
        unit_mm = side_mm if self.unit == "cube" else 1.0
        lengths_mm = {f"{name}_mm": value * unit_mm for name, value in self.lengths.items()}
        pixel_mm = lengths_mm.pop("detector_mm") / pixels
        rows = self.detector_rows
        if rows is None and slab_mm is not None and self.beam == "parallel":
            rows = max(int(slab_mm / pixel_mm + 1e-6), 1)
        detector = {
            "angles_rad": angles_rad,
            "detector_shape": (rows or pixels, pixels),
            "pixel_mm": pixel_mm,
            "detector_offset_mm": (0.0, self.shift * unit_mm),
        }
        if self.beam == "parallel":
            return ScanGeometry.parallel(**detector)
        return ScanGeometry.cone(**lengths_mm, **detector)


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
