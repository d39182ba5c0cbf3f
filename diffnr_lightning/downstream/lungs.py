"""Lungs in a reconstruction against those in the true volume, as in Table 3 of DiffNR."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np
import SimpleITK
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Volume = NDArray[np.float32]
Voxel = tuple[float, float, float]
Segmenter = Callable[[Volume, Voxel], Mask]

AIR_HU = -500.0
LEAST_HU = -1024.0
"""Scanners pad with less."""
SMOOTHED_MM = 1.0
LEAST_SMOOTHED = 4
"""Voxels along each axis, as SimpleITK's recursive Gaussian needs them."""
OPENED_MM = 2.0
CLOSED_MM = 8.0
OUTSIDE_SHARE = 0.01
"""Air is outside where more than this share of its voxels lies on the sides of the grid."""
LEAST_SHARE = 0.125
"""Least size of a lung, by that of the largest one."""


class LungScore(NamedTuple):
    """Compare the lungs of two volumes.

    Attributes:
        dice_percent: twice the common volume by the sum of both, in percent.
        surface_distance_mm: mean distance of the voxels of each surface to the other surface; None where one of the two
            has no lungs.
        volume_ml: of the lungs.
        reference_ml: of the lungs that they are compared with.
    """

    dice_percent: float
    surface_distance_mm: float | None
    volume_ml: float
    reference_ml: float


def lung_segmenter(name: Literal["auto", "embedded", "lungmask"] = "auto") -> tuple[str, Segmenter]:
    """Return a segmenter of lungs and its name.

    Args:
        name: `embedded` needs nothing but SimpleITK; `lungmask` is what DiffNR's paper takes, a package that downloads
            its weights at its first use; auto takes it where the package is installed.

    Raises:
        ImportError: `lungmask` without its package.
    """
    installed = find_spec("lungmask") is not None
    if name == "lungmask" and not installed:
        raise ImportError(
            "the segmenter lungmask is not installed; pip install 'diffnr-lightning[lungmask]', or take embedded."
        )
    if name == "embedded" or not installed:
        return "embedded", segment_lungs
    return "lungmask", _lungmask


def segment_lungs(volume_hu: Volume, voxel_mm: Voxel) -> Mask:
    """Find the lungs by their air.

    Air is cut where it is thin; what touches the sides of the grid with much of it is outside of the body; of the
    rest the largest pieces are lungs, grown back and closed over their vessels. Airways count with the lungs.

    Args:
        volume_hu: (Z, Y, X) in HU, z along the body.
        voxel_mm: edges (z, y, x).

    Returns:
        (Z, Y, X), True in the lungs; False everywhere where there are none, as in volumes of fewer than 4 voxels along
        an axis.
    """
    if min(volume_hu.shape) < LEAST_SMOOTHED:
        return np.zeros(volume_hu.shape, dtype=bool)
    image = SimpleITK.GetImageFromArray(np.clip(volume_hu, LEAST_HU, None).astype(np.float32))
    image.SetSpacing(voxel_mm[::-1])
    air = SimpleITK.SmoothingRecursiveGaussian(image, SMOOTHED_MM) < AIR_HU
    radius = _radius(OPENED_MM, voxel_mm)
    labels = SimpleITK.RelabelComponent(
        SimpleITK.ConnectedComponent(SimpleITK.BinaryErode(air, radius))
    )
    kept = _inside(SimpleITK.GetArrayViewFromImage(labels))
    if not kept:
        return np.zeros(volume_hu.shape, dtype=bool)
    lungs = SimpleITK.ChangeLabel(
        labels, {label: 0 for label in _labels(labels) if label not in kept}
    )
    grown = SimpleITK.BinaryDilate(lungs > 0, [r + 1 for r in radius])
    closed = SimpleITK.BinaryMorphologicalClosing(grown & air, _radius(CLOSED_MM, voxel_mm))
    return SimpleITK.GetArrayFromImage(SimpleITK.BinaryFillhole(closed)).astype(bool)


def compare_lungs(found: Mask, reference: Mask, voxel_mm: Voxel) -> LungScore:
    """Compare two masks.

    Args:
        found: (Z, Y, X) lungs in a reconstruction.
        reference: (Z, Y, X) lungs in the true volume, by the same segmenter.
        voxel_mm: edges (z, y, x).

    Raises:
        ValueError: shapes that differ, or a reference without lungs.
    """
    if found.shape != reference.shape:
        raise ValueError(
            f"the masks to compare have shapes {found.shape} and {reference.shape}; one shape (Z, Y, X) is expected."
        )
    if not reference.any():
        raise ValueError(
            "no lungs are found in the true volume; a chest in HU is expected for this task."
        )
    common = 2 * np.count_nonzero(found & reference)
    counts = np.count_nonzero(found), np.count_nonzero(reference)
    voxel_ml = float(np.prod(voxel_mm)) / 1000
    return LungScore(
        float(100 * common / sum(counts)),
        _surface_distance(found, reference, voxel_mm) if counts[0] else None,
        float(counts[0] * voxel_ml),
        float(counts[1] * voxel_ml),
    )


def _inside(labels: NDArray[np.unsignedinteger]) -> set[int]:
    """Return the labels of lungs: pieces of air inside of the body that are not small beside the largest."""
    sizes = np.bincount(labels.ravel())
    sides = np.concatenate(
        [
            labels[:, 0].ravel(),
            labels[:, -1].ravel(),
            labels[:, :, 0].ravel(),
            labels[:, :, -1].ravel(),
        ]
    )
    touching = np.bincount(sides, minlength=len(sizes))
    inside = [n for n in range(1, len(sizes)) if touching[n] <= OUTSIDE_SHARE * sizes[n]]
    most = max((sizes[n] for n in inside), default=0)
    return {n for n in inside if sizes[n] >= LEAST_SHARE * most}


def _labels(image: SimpleITK.Image) -> range:
    return range(1, int(SimpleITK.GetArrayViewFromImage(image).max()) + 1)


def _radius(length_mm: float, voxel_mm: Voxel) -> list[int]:
    """Return a length in voxels along x, y and z."""
    return [round(length_mm / edge) for edge in voxel_mm[::-1]]


def _surface_distance(found: Mask, reference: Mask, voxel_mm: Voxel) -> float:
    """Return the mean over the voxels of both surfaces of the distance to the other one, in mm."""
    surfaces, maps = [], []
    for mask in (found, reference):
        image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(voxel_mm[::-1])
        surface = SimpleITK.LabelContour(image, fullyConnected=True)
        distance = SimpleITK.SignedMaurerDistanceMap(
            surface, squaredDistance=False, useImageSpacing=True
        )
        surfaces.append(SimpleITK.GetArrayFromImage(surface).astype(bool))
        maps.append(np.maximum(SimpleITK.GetArrayFromImage(distance), 0))
    both = np.concatenate([maps[1][surfaces[0]], maps[0][surfaces[1]]])
    return float(both.mean(dtype=np.float64))


def _lungmask(volume_hu: Volume, voxel_mm: Voxel) -> Mask:
    """Segment by LungMask's default network, R231."""
    from lungmask import LMInferer

    image = SimpleITK.GetImageFromArray(volume_hu.astype(np.float32))
    image.SetSpacing(voxel_mm[::-1])
    return LMInferer().apply(image) > 0
