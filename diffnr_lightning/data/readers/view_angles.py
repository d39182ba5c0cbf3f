"""Angles of views in a file of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffnr_lightning.data.readers.raw_scan import AngleUnit, radians
from diffnr_lightning.data.readers.tables import read_table


def read_angles(path: Path, angle_unit: AngleUnit = "file") -> np.ndarray:
    """Read one angle a view (V,), in radians, from a text file with a number a line, or NPY.

    Args:
        path: the file.
        angle_unit: of the numbers; ``"file"`` takes them for degrees, if they do not look like radians.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no numbers, more than one a view, or a span that no scan has in degrees.
    """
    numbers = read_table(path)
    if min(numbers.shape, default=0) > 1 and numbers.ndim > 1:
        raise ValueError(
            f"angles {path} hold {' x '.join(map(str, numbers.shape))} numbers; one angle a view is expected."
        )
    return radians(numbers.ravel(), "deg", angle_unit, f"angles {path}")
