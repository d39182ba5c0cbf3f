"""How a measured scan was taken: what its files do not say of beam, detector and angles."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffnr_lightning.data.fan_axis import find_fan_axis
from diffnr_lightning.data.readers.raw_scan import AngleUnit, RawScan
from diffnr_lightning.data.readers.scan_poses import read_poses
from diffnr_lightning.data.readers.view_angles import read_angles
from diffnr_lightning.data.readers.xtek import SUFFIX as XTEK
from diffnr_lightning.data.readers.xtek import read_xtek
from diffnr_lightning.data.rotation_axis import find_axis
from diffnr_lightning.geometry import ScanGeometry, view_steps

LOGGER = logging.getLogger("diffnr")
# Of steps that fill a turn but for the last digits that people write.
ROUNDING_DEG = 1.0


@dataclass(frozen=True)
class MeasuredScanner:
    """Describe the scanner of measured projections, as far as their file does not.

    Rows of images run along the rotation axis, the first on top. Where `geometry` is given it says where source and
    detector are, and only `pixel_mm` may stand beside it; beside an `.xtekct` file, where the axis and the central ray
    fall, and the sense.

    Args:
        source_to_axis_mm: of a cone beam; null is a parallel beam.
        source_to_detector_mm: of a cone beam; likewise.
        pixel_mm: pitch of pixels, one number or (rows, columns). Of a parallel beam null is 1, and the result is per
            pixel.
        axis_column: detector column on which the rotation axis falls, counted from 0; null finds it from views half a
            turn apart, of a cone beam from those of a whole turn.
        centre_row: detector row that the central ray of a cone beam meets, counted from 0; null is the middle.
        angles: text or NPY file with one angle a view; null takes those of the projections' file.
        step_deg: angle from one view to the next, where no file has them.
        angle_unit: of the angles; file takes what the file says, degrees in files of angles alone.
        clockwise: whether the angles run clockwise seen from above. A wrong sense gives a mirror image of parallel
            beams; of a whole turn of a cone beam the search for the axis refuses it.
        geometry: file of poses: XML of RTK, NPY of projection matrices (views, 3, 4), or twelve numbers a view (ASTRA's
            vectors in mm) as text or NPY; or a scanner's settings, `.xtekct` of Nikon.

    Raises:
        ValueError: numbers that describe no scanner, or such as contradict each other.
    """

    source_to_axis_mm: float | None = None
    source_to_detector_mm: float | None = None
    pixel_mm: float | tuple[float, float] | None = None
    axis_column: float | None = None
    centre_row: float | None = None
    angles: Path | None = None
    step_deg: float | None = None
    angle_unit: AngleUnit = "file"
    clockwise: bool = False
    geometry: Path | None = None

    def __post_init__(self) -> None:
        if self.pixel_mm is not None and not all(0 < p < np.inf for p in np.ravel(self.pixel_mm)):
            raise ValueError(f"pixel_mm is {self.pixel_mm}; a positive length is expected.")
        if (self.source_to_axis_mm is None) != (self.source_to_detector_mm is None):
            given = "axis" if self.source_to_detector_mm is None else "detector"
            raise ValueError(
                f"source_to_{given}_mm is given alone; a cone beam needs source_to_axis_mm and source_to_detector_mm."
            )
        if self.angles is not None and self.step_deg is not None:
            raise ValueError(
                "angles and step_deg are both given; one of them says where the views are."
            )
        if self.step_deg is not None and not 0 < abs(self.step_deg) < 180:
            raise ValueError(
                f"step_deg is {self.step_deg}; an angle between two views is expected."
            )
        if self.geometry is None:
            return
        given = {name: getattr(self, name) for name in self._told}
        idle = [name for name, value in given.items() if value is not None and value is not False]
        if idle:
            raise ValueError(
                f"{idle[0]} is given beside geometry, which says that already; leave it out."
            )

    @property
    def _told(self) -> tuple[str, ...]:
        """Names of what a file of poses, or of a scanner's settings, says."""
        settings = ("source_to_axis_mm", "angles", "step_deg")
        if self.geometry.suffix.lower() == XTEK:
            return settings
        return (*settings, "axis_column", "centre_row", "clockwise")

    def completed(self) -> tuple[MeasuredScanner, float | None]:
        """Return the scanner with the settings of its file, and the counts without object that this says, if it does.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file that says no scanner.
        """
        if self.geometry is None or self.geometry.suffix.lower() != XTEK:
            return self, None
        said = read_xtek(self.geometry)
        scanner = replace(
            self,
            geometry=None,
            source_to_axis_mm=said.source_to_axis_mm,
            source_to_detector_mm=said.source_to_detector_mm,
            pixel_mm=said.pixel_mm if self.pixel_mm is None else self.pixel_mm,
            step_deg=said.step_deg,
        )
        return scanner, said.white_level

    @property
    def conical(self) -> bool:
        """Whether distances of a cone beam are given."""
        return self.source_to_axis_mm is not None

    def angles_of(self, raw: RawScan) -> np.ndarray:
        """Return the angles (V,) in radians of the views of a file.

        Raises:
            FileNotFoundError: there is no file of angles.
            ValueError: no angles anywhere, or another number than there are views.
        """
        views = len(raw.counts)
        found = self._given_angles(views, raw)
        if found is None:
            if raw.angles_rad is None:
                raise ValueError(
                    f"{raw.source} holds no angles; give --angles FILE with one a view, --step_deg, or --geometry FILE."
                )
            return raw.angles_rad
        if raw.angles_rad is not None:
            # Angles count from wherever they begin, and whole turns do not count.
            apart = (found - found[0]) - (raw.angles_rad - raw.angles_rad[0])
            apart = np.abs(np.rad2deg((apart + np.pi) % (2 * np.pi) - np.pi)).max()
            if apart > ROUNDING_DEG:
                LOGGER.warning(
                    "%s holds angles, from which those of %s differ by up to %.3g degrees; these are taken",
                    raw.source, "step_deg" if self.angles is None else self.angles, apart,
                )  # fmt: skip
        return found

    def _given_angles(self, views: int, raw: RawScan) -> np.ndarray | None:
        """Return the angles (V,) in radians that are given beside the projections; None where none are."""
        if self.step_deg is not None:
            if abs(self.step_deg) * (views - 1) > 360 + ROUNDING_DEG:
                LOGGER.warning(
                    "%s: %d views of %g degrees go around %.2f times; check step_deg if it was once",
                    raw.name, views, self.step_deg, abs(self.step_deg) * views / 360,
                )  # fmt: skip
            return np.deg2rad(self.step_deg) * np.arange(views)
        if self.angles is None:
            return None
        found = read_angles(self.angles, self.angle_unit)
        if len(found) != views:
            raise ValueError(
                f"angles {self.angles} hold {len(found)} angles and {raw.source} {views} views; they must agree."
            )
        return found

    def poses_of(self, raw: RawScan) -> ScanGeometry | None:
        """Return the scan that the file of poses describes; None where there is no such file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no file of poses, or one of another number of views.
        """
        if self.geometry is None:
            return None
        scan = read_poses(
            self.geometry,
            raw.detector_shape or raw.counts.shape[1:],
            self.pitch_of(raw),
            first_mm=raw.first_mm,
        )
        if len(scan) != len(raw.counts):
            raise ValueError(
                f"geometry {self.geometry} holds {len(scan)} poses and {raw.source} {len(raw.counts)} views; they "
                "must agree."
            )
        return scan

    def pitch_of(self, raw: RawScan) -> tuple[float, float] | None:
        """Return the pitch (v, u) of the pixels of a file in mm; None where it is not known."""
        if self.pixel_mm is None:
            return raw.pixel_mm
        return tuple(float(p) for p in np.broadcast_to(self.pixel_mm, 2))

    def circular(self, raw: RawScan, line_integrals: np.ndarray) -> tuple[ScanGeometry, float]:
        """Return the circular scan of a file, and the column of its own pixels on which the axis falls.

        Args:
            raw: with angles.
            line_integrals: (V, H, W) of it, from which the column is found where it is not given.

        Raises:
            ValueError: no pitch for a cone beam, a column beyond the detector, or one that is not found.
        """
        pitch = self.pitch_of(raw)
        if self.conical and pitch is None:
            raise ValueError("pixel_mm is not given; a cone beam needs the pitch of the pixels.")
        pitch = tuple(raw.binning * p for p in pitch or (1.0, 1.0))
        angles = -raw.angles_rad if self.clockwise else raw.angles_rad
        _, rows, columns = line_integrals.shape
        column, row, binning = self.axis_column, self.centre_row, raw.binning
        # Pixels of the file and of the images, whose centres are those of squares.
        row = 0.5 * (rows - 1) if row is None else (row + 0.5) / binning - 0.5
        if column is None:
            column = self._found_axis(raw, line_integrals, angles, pitch, row)
        else:
            column = (column + 0.5) / binning - 0.5
        own = (column + 0.5) * binning - 0.5
        if not -0.5 <= column <= columns - 0.5:
            raise ValueError(
                f"axis_column is {own:g}; a column of the detector, 0 to {columns * binning - 1}, is expected."
            )
        offset = (0.5 * (rows - 1) - row) * pitch[0], (0.5 * (columns - 1) - column) * pitch[1]
        detector = {
            "angles_rad": angles,
            "detector_shape": (rows, columns),
            "pixel_mm": pitch,
            "detector_offset_mm": offset,
        }
        if not self.conical:
            return ScanGeometry.parallel(**detector), own
        distances = (self.source_to_axis_mm, self.source_to_detector_mm)
        return ScanGeometry.cone(
            source_to_axis_mm=distances[0], source_to_detector_mm=distances[1], **detector
        ), own

    def _found_axis(
        self,
        raw: RawScan,
        line_integrals: np.ndarray,
        angles: np.ndarray,
        pitch: tuple[float, float],
        row: float,
    ) -> float:
        """Return the column of the rotation axis, found from views or, of a part of a turn of a cone, the middle."""
        if self.conical and not view_steps(angles, 2 * np.pi)[1]:
            middle = 0.5 * (line_integrals.shape[2] - 1)
            LOGGER.warning(
                "%s: the views do not go all around, so that the rotation axis of a cone beam is taken to fall on the "
                "middle of the detector; give axis_column where it does not",
                raw.name,
            )
            return middle
        try:
            if self.conical:
                distance = self.source_to_detector_mm / pitch[1]
                column = find_fan_axis(line_integrals, angles, distance, row)
            else:
                column = find_axis(line_integrals, raw.angles_rad)
        except ValueError as error:
            raise ValueError(f"{raw.source}: {error}") from error
        LOGGER.info("%s: rotation axis found at column %.2f", raw.name, column)
        return column
