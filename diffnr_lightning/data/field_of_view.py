"""The cube that is reconstructed: around a whole volume, or around the body in it."""

from __future__ import annotations

import numpy as np

from diffnr_lightning.data.scan_recipe import Fit
from diffnr_lightning.data.volumes import LoadedVolume

TISSUE_HU = -500.0
# Structures thinner than this share of the body (the cube root of its volume) do not count as body:
# couch tops and cables, but not fingers.
THIN_SHARE = 0.04


class NothingToScanError(ValueError):
    """The volume, or what is reconstructed of it, shows no object."""


def fit_cube(
    loaded: LoadedVolume, fit: Fit, margin: float
) -> tuple[tuple[float, float, float], float]:
    """Return the cube to reconstruct: centre (z, y, x) relative to the volume's, and edge, in mm.

    Args:
        loaded: the volume.
        fit: ``"volume"`` for a cube around all of it, ``"body"`` for one around `body_box`.
        margin: air on every side of the body, as a share of the edge of its tightest cube.

    Raises:
        NothingToScanError: no body.
        ValueError: another `fit`.
    """
    if fit == "volume":
        return (0.0, 0.0, 0.0), max(loaded.size_mm)
    if fit != "body":
        raise ValueError(f"fit is {fit!r}; 'volume' or 'body' is expected.")
    first, last = body_box(loaded)
    shape, spacing = np.asarray(loaded.array.shape), np.asarray(loaded.spacing_mm)
    centre = (0.5 * (first + last) - 0.5 * shape) * spacing
    side = float(((last - first) * spacing).max()) * (1 + 2 * margin)
    return tuple(centre.tolist()), side


def body_box(loaded: LoadedVolume) -> tuple[np.ndarray, np.ndarray]:
    """Return first and one-past-last voxel (z, y, x) of the largest connected piece of tissue.

    Structures thin against the body are opened away first, so that a couch that touches it does not
    count.

    Raises:
        NothingToScanError: there is no tissue.
    """
    from scipy import ndimage

    if loaded.unit == "HU":
        threshold = TISSUE_HU
    else:
        import SimpleITK

        otsu = SimpleITK.OtsuThresholdImageFilter()
        otsu.Execute(SimpleITK.GetImageFromArray(loaded.array))
        threshold = otsu.GetThreshold()
    tissue = loaded.array > threshold
    if not tissue.any():
        unit = " HU" if loaded.unit == "HU" else ""
        raise NothingToScanError(
            f"{loaded.name}: nothing lies above {threshold:g}{unit}, so there is no body to fit; use "
            "fit='volume' or check the unit."
        )
    thin_mm = THIN_SHARE * np.cbrt(np.count_nonzero(tissue) * np.prod(loaded.spacing_mm))
    reach = [1 + 2 * int(0.5 * thin_mm / edge + 0.5) for edge in loaded.spacing_mm]
    # A morphological opening with a box; scipy's grey filters are separable, its binary ones not.
    opened = ndimage.minimum_filter(tissue.view(np.uint8), reach, mode="nearest")
    opened = ndimage.maximum_filter(opened, reach, mode="nearest")
    labels, _ = ndimage.label(opened if opened.any() else tissue)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    box = ndimage.find_objects(labels)[int(sizes.argmax()) - 1]
    return np.array([s.start for s in box]), np.array([s.stop for s in box])
