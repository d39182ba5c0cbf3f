"""Poses of source and detector in every view, as other programs write them.

Source: ASTRA's ``cone_vec`` (twelve numbers a view: source, detector, u, v), which the
files of measured walnuts of CWI hold in mm, and RTK's ``RTKThreeDCircularGeometry``, whose ``Matrix`` maps points in
mm, the rotation axis along y, to the detector in mm.
"""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import numpy as np

from diffnr_lightning.data.readers.tables import read_table
from diffnr_lightning.geometry import (
    ScanGeometry,
    from_astra_vectors,
    from_projection_matrices,
)

RTK_ROOT = "RTKThreeDCircularGeometry"
# Columns are our x, y, z in RTK's world, whose rotation axis is y.
FROM_RTK = np.array(
    [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)


def read_poses(
    path: Path,
    detector_shape: tuple[int, int],
    pixel_mm: tuple[float, float] | None,
    first_mm: tuple[float, float] | None = None,
) -> ScanGeometry:
    """Read the poses of all views of a cone beam.

    Args:
        path: XML of RTK; NPY of projection matrices (V, 3, 4), which map points in mm to (column, row), counted from 0;
            or twelve numbers a view, ASTRA's vectors in mm, as text or NPY.
        detector_shape: rows and columns (H, W).
        pixel_mm: pitch (v, u), which matrices do not know and vectors do.
        first_mm: place (v, u) of the first pixel on the detector in RTK's sense; None is around the middle.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: none of these, or matrices without a pitch.
    """
    if path.suffix.lower() == ".xml":
        return _of_matrices(_rtk_matrices(path), path, detector_shape, pixel_mm, first_mm)
    table = read_table(path)
    if table.ndim == 3 and table.shape[1:] == (3, 4):
        return from_projection_matrices(table, detector_shape, _pitch(path, pixel_mm)[1])
    if table.ndim == 2 and table.shape[1] == 12:
        return from_astra_vectors(table, detector_shape)
    raise ValueError(
        f"geometry {path} holds {' x '.join(map(str, table.shape))} numbers; twelve a view (ASTRA's vectors), NPY of "
        "matrices (views, 3, 4), or XML of RTK is expected."
    )


def _of_matrices(
    matrices: np.ndarray,
    path: Path,
    detector_shape: tuple[int, int],
    pixel_mm: tuple[float, float] | None,
    first_mm: tuple[float, float] | None,
) -> ScanGeometry:
    """Return the scan of matrices (V, 3, 4) that map RTK's world to the detector in mm."""
    pitch = _pitch(path, pixel_mm)
    if first_mm is None:
        first_mm = tuple(-0.5 * (n - 1) * p for n, p in zip(detector_shape, pitch, strict=True))
    # ITK counts u first.
    to_pixels = np.array(
        [
            [1 / pitch[1], 0.0, -first_mm[1] / pitch[1]],
            [0.0, 1 / pitch[0], -first_mm[0] / pitch[0]],
            [0.0, 0.0, 1.0],
        ]
    )
    return from_projection_matrices(to_pixels @ matrices @ FROM_RTK, detector_shape, pitch[1])


def _pitch(path: Path, pixel_mm: tuple[float, float] | None) -> tuple[float, float]:
    if pixel_mm is None:
        raise ValueError(f"geometry {path} does not say how large pixels are; give --pixel_mm.")
    return pixel_mm


def _rtk_matrices(path: Path) -> np.ndarray:
    """Return the matrices (V, 3, 4) of an XML file of RTK."""
    if not path.is_file():
        raise FileNotFoundError(f"geometry {path} does not exist; check the path.")
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
        texts = [entry.findtext("Matrix") or "" for entry in root.iter("Projection")]
        numbers = [[float(word) for word in text.split()] for text in texts]
    except (xml.etree.ElementTree.ParseError, ValueError, OSError) as error:
        raise ValueError(f"geometry {path} cannot be read as XML of RTK: it is damaged.") from error
    if root.tag != RTK_ROOT or not numbers or any(len(matrix) != 12 for matrix in numbers):
        raise ValueError(
            f"geometry {path} is no {RTK_ROOT} with a Matrix of twelve numbers in every Projection; a file that "
            "RTK's ThreeDCircularProjectionGeometryXMLFileWriter wrote is expected."
        )
    return np.array(numbers).reshape(-1, 3, 4)
