"""A volume as its file stores it, and the turn to the package's axes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np

# Cosine of the angle between two axes of a file beyond which they are not perpendicular: over a
# body of 500 mm the shear is half a millimetre. Rounded headers stay far below.
SHEAR_TOLERANCE = 1e-3
# Direction cosines this near to 0 and 1 are those of untilted axes, rounded.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """Hold the values of a file and what its header says about them.

    Attributes:
        array: (K, J, I) numbers in the file's order; I varies fastest in the file.
        affine: (4, 4) from voxel (i, j, k) to the patient's mm along DICOM's axes (x to the left,
            y to the back, z to the head); see `centred_affine` for files without a place.
        unit: what the header says about the values, or None where it says nothing.
        spacing: whether the voxel size is the file's (``"stored"``), was put in place of one that
            the file lacks (``"assumed"``), or is too uncertain to go on (``"unknown"``).
        remark: what is the matter with the spacing, as the end of a sentence about the file.
    """

    array: np.ndarray
    affine: np.ndarray
    unit: Literal["HU", "arbitrary"] | None = None
    spacing: Literal["stored", "assumed", "unknown"] = "stored"
    remark: str = ""


@dataclass(frozen=True, eq=False)
class PlacedVolume:
    """Hold a volume along the axes nearest to the patient's.

    Attributes:
        array: (Z, Y, X), a view of the stored values.
        spacing_mm: voxel edges (z, y, x).
        centre_mm: position (x, y, z) of the volume's centre.
        direction: (3, 3) direction cosines; column 0 is where x of the array points, and so on.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    centre_mm: tuple[float, float, float]
    direction: np.ndarray


def centred_affine(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> np.ndarray:
    """Return the affine of a volume of untilted axes around the origin.

    Args:
        shape: (K, J, I).
        spacing_mm: voxel edges (z, y, x).
    """
    affine = np.diag([*spacing_mm[::-1], 1.0])
    affine[:3, 3] = [-0.5 * (n - 1) * s for n, s in zip(shape, spacing_mm, strict=True)][::-1]
    return affine


def along_patient_axes(stored: StoredVolume, what: str) -> PlacedVolume:
    """Permute and flip a volume until its axes are as near to the patient's as they come.

    Nothing is resampled: an oblique volume keeps its own axes, and `direction` says how they lie.

    Args:
        stored: three-dimensional values.
        what: how an error names the file.

    Raises:
        ValueError: axes that are not perpendicular, or of no length.
    """
    columns = stored.affine[:3, :3]
    edges = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(stored.affine).all() and (edges > 0).all()):
        raise ValueError(
            f"{what} has voxel edges of {', '.join(f'{edge:g}' for edge in edges)} mm; positive "
            "lengths are expected."
        )
    cosines = columns / edges
    _check_perpendicular(cosines, what)
    # Which axis of the file runs along the patient's x, y and z.
    order = max(permutations(range(3)), key=lambda p: np.abs(cosines[range(3), p]).sum())
    signs = np.sign(cosines[range(3), order])
    array = stored.array.transpose([2 - axis for axis in order[::-1]])
    array = np.flip(array, [2 - world for world in range(3) if signs[world] < 0])
    middle = [0.5 * (n - 1) for n in stored.array.shape[::-1]]
    centre = columns @ middle + stored.affine[:3, 3]
    return PlacedVolume(
        array,
        tuple(float(edges[axis]) for axis in order[::-1]),
        tuple(float(c) for c in centre),
        _orthonormal(cosines[:, order] * signs),
    )


def tilt_deg(direction: np.ndarray) -> float:
    """Return the angle of the turn that (3, 3) direction cosines are, in degrees."""
    return float(np.rad2deg(np.arccos(np.clip(0.5 * (np.trace(direction) - 1), -1, 1))))


def _check_perpendicular(cosines: np.ndarray, what: str) -> None:
    between = cosines.T @ cosines
    first, second = max(((0, 1), (0, 2), (1, 2)), key=lambda pair: abs(between[pair]))
    worst = between[first, second]
    if abs(worst) > SHEAR_TOLERANCE:
        angle = np.rad2deg(np.arccos(np.clip(worst, -1, 1)))
        names = "ijk"
        raise ValueError(
            f"{what}: its axes are not perpendicular ({angle:.2f} degrees between "
            f"{names[first]} and {names[second]}), as where a converter kept a gantry's tilt; "
            "resample it to a straight grid first."
        )


def _orthonormal(cosines: np.ndarray) -> np.ndarray:
    """Return the nearest orthonormal matrix: headers round their cosines."""
    left, _, right = np.linalg.svd(cosines)
    nearest = left @ right
    return np.eye(3) if np.abs(nearest - np.eye(3)).max() < ROUNDING else nearest
