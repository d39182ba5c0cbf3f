"""Image quality under named protocols, because the convention alone moves it by decibels.

Protocols (`PROTOCOLS`), all on volumes normalised so that the intensity window is 0..1:

- ``r2``: what R2-Gaussian and the DiffNR table for Gaussians report. PSNR of the whole volume, peak
  1, prediction not clipped. SSIM of 2D slices (11 x 11 Gaussian window of 1.5 pixels, zeros
  outside, range 1), averaged over the slices whose truth has a value above 0, then over the three
  axes.
- ``naf``: what NAF and SAX-NeRF report. The same PSNR; 3D SSIM with a uniform 7^3 window, unbiased
  variances and a data range of 2, averaged where the window fits (scikit-image's default of the
  time). The range of 2 inflates it.
- ``strict``: prediction and truth are clipped to [0, 1]; only voxels inside a mask count (by
  default the cylinder about z inscribed in the grid, `field_of_view`); peak and data range are the
  range of the truth inside the mask; 3D SSIM with an 11^3 Gaussian window of 1.5 voxels whose
  weights outside the mask are zero. Empty background therefore earns nothing.

Sources: Wang et al., "Image quality assessment: from error visibility to structural similarity",
2004; the papers named above and their published evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import correlate1d, uniform_filter

Volume = NDArray[np.float32]
Score = dict[str, float]

K1 = 0.01
K2 = 0.03
GAUSSIAN_RADIUS = 5
GAUSSIAN_SIGMA = 1.5
UNIFORM_EDGE = 7


class UndefinedError(ValueError):
    """A protocol is not defined on such a truth."""


class NoRangeError(UndefinedError):
    """A truth of one value has no range for protocol `strict`."""


def _as_arrays(
    prediction: ArrayLike, truth: ArrayLike, kind: str, axes: str
) -> tuple[Volume, Volume]:
    """Both as float32 arrays; ValueError where shapes, dimensions or values cannot be compared."""
    arrays = tuple(np.asarray(a, dtype=np.float32) for a in (prediction, truth))
    if arrays[0].shape != arrays[1].shape or arrays[0].ndim != 3 or arrays[0].size == 0:
        raise ValueError(
            f"the {kind} to compare have shapes {arrays[0].shape} (prediction) and "
            f"{arrays[1].shape} (truth); one shape {axes} is expected."
        )
    for name, array in zip(("prediction", "truth"), arrays, strict=True):
        if not np.isfinite(array).all():
            raise ValueError(
                f"the {name} holds NaN or infinite values; repair the {kind} before comparing."
            )
    return arrays[0], arrays[1]


def psnr(mean_squared_error: float, peak: float = 1.0, most: float = math.inf) -> float:
    """Return the peak signal-to-noise ratio in dB.

    Args:
        mean_squared_error: in the square of the unit.
        peak: in the unit.
        most: dB that are returned at most, also where there is no error: JSON has no infinity, and
            a mean could not take one.
    """
    if mean_squared_error <= peak * peak * 10 ** (-most / 10):
        return most
    return 10 * math.log10(peak * peak / mean_squared_error)


def _mean_squared_error(prediction: Volume, truth: Volume) -> float:
    return float(np.mean(np.square(prediction - truth, dtype=np.float64)))


def _similarity(
    moments: Sequence[NDArray[Any]], data_range: float, unbiased: float = 1.0
) -> NDArray[Any]:
    """Index from filtered x, y, x^2 + y^2 and x y; `unbiased` multiplies the second moments."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mx, my, squares, product = moments
    luminance = mx * mx + my * my
    numerator = (2 * mx * my + c1) * (2 * unbiased * (product - mx * my) + c2)
    return numerator / ((luminance + c1) * (unbiased * (squares - luminance) + c2))


def _moment_images(prediction: Volume, truth: Volume) -> tuple[Volume, ...]:
    return (
        prediction,
        truth,
        prediction * prediction + truth * truth,
        prediction * truth,
    )


def _gaussian_blur(image: NDArray[Any], axes: Sequence[int]) -> NDArray[Any]:
    """Blur along some axes, with zeros outside of the array."""
    taps = np.exp(-0.5 * (np.arange(-GAUSSIAN_RADIUS, GAUSSIAN_RADIUS + 1) / GAUSSIAN_SIGMA) ** 2)
    taps /= taps.sum()
    for axis in axes:
        image = correlate1d(image, taps, axis=axis, mode="constant")
    return image


def _slice_similarity(prediction: Volume, truth: Volume, axis: int) -> NDArray[np.float64]:
    """Mean 2D SSIM (range 1) of every slice across `axis`."""
    plane = tuple(a for a in range(3) if a != axis)
    moments = [_gaussian_blur(image, plane) for image in _moment_images(prediction, truth)]
    return _similarity(moments, 1.0).mean(axis=plane, dtype=np.float64)


def peak_signal_to_noise(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Return the PSNR in dB of normalised arrays of one shape, for the peak 1 as in protocol `r2`.

    Raises:
        ValueError: shapes that differ, or values that are not finite.
    """
    prediction, truth = _as_arrays(prediction, truth, "volumes", "(Z, Y, X)")
    return psnr(_mean_squared_error(prediction, truth), 1.0)


def r2_protocol(prediction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> Score:
    """Score a volume as R2-Gaussian and DiffNR do; the module's docstring states the convention.

    Args:
        prediction: (Z, Y, X), normalised.
        truth: (Z, Y, X), normalised.
        mask: not used, because this protocol is defined on whole volumes.

    Returns:
        {"psnr": dB, "ssim": index}.

    Raises:
        ValueError: shapes that differ, values that are not finite, or a truth without a value above 0.
    """
    prediction, truth = _as_arrays(prediction, truth, "volumes", "(Z, Y, X)")
    if not (truth > 0).any():
        raise ValueError(
            "the truth has no value above 0, so protocol 'r2' has no slice to compare; check the "
            "intensity window."
        )
    axes = []
    for axis in range(3):
        counted = truth.max(axis=tuple(a for a in range(3) if a != axis)) > 0
        axes.append(_slice_similarity(prediction, truth, axis)[counted].mean())
    return {
        "psnr": psnr(_mean_squared_error(prediction, truth), 1.0),
        "ssim": float(np.mean(axes)),
    }


def naf_protocol(prediction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> Score:
    """Score a volume as NAF and SAX-NeRF do; the module's docstring states the convention.

    Args:
        prediction: (Z, Y, X), normalised, at least 7 voxels along every axis.
        truth: (Z, Y, X), normalised.
        mask: not used, because this protocol is defined on whole volumes.

    Returns:
        {"psnr": dB, "ssim": index}.

    Raises:
        ValueError: shapes that differ, or values that are not finite.
        UndefinedError: an axis shorter than 7 voxels.
    """
    prediction, truth = _as_arrays(prediction, truth, "volumes", "(Z, Y, X)")
    if min(truth.shape) < UNIFORM_EDGE:
        raise UndefinedError(
            f"the volumes have shape {truth.shape}; protocol 'naf' needs {UNIFORM_EDGE} voxels or "
            "more along every axis."
        )
    count = UNIFORM_EDGE**3
    moments = [
        uniform_filter(image.astype(np.float64), UNIFORM_EDGE)
        for image in _moment_images(prediction, truth)
    ]
    index = _similarity(moments, 2.0, unbiased=count / (count - 1))
    inside = slice(UNIFORM_EDGE // 2, -(UNIFORM_EDGE // 2))
    return {
        "psnr": psnr(_mean_squared_error(prediction, truth), 1.0),
        "ssim": float(index[inside, inside, inside].mean()),
    }


def field_of_view(
    shape: tuple[int, int, int], voxel_mm: Sequence[float] = (1, 1, 1)
) -> NDArray[np.bool_]:
    """Return the mask (Z, Y, X) of the cylinder about z inscribed in a grid of voxels of these edges (z, y, x).

    It is the most that a circular scan sees from every side. A voxel belongs to it if its centre does.
    """
    _, height, width = shape
    step_y, step_x = np.divide(voxel_mm[1:], min(voxel_mm[1:]))
    y = step_y * (np.arange(height)[:, None] - (height - 1) / 2)
    x = step_x * (np.arange(width) - (width - 1) / 2)
    disk = y * y + x * x <= (min(step_y * height, step_x * width) / 2) ** 2
    return np.broadcast_to(disk, shape).copy()


def strict_protocol(
    prediction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> Score:
    """Score a volume inside a mask and in its own range; the module's docstring says how.

    Args:
        prediction: (Z, Y, X), normalised.
        truth: (Z, Y, X), normalised.
        mask: (Z, Y, X) of truth values, True where voxels count; `field_of_view` of cubic voxels by default.

    Returns:
        {"psnr": dB, "ssim": index}.

    Raises:
        ValueError: shapes that differ, values that are not finite, or an empty mask.
        NoRangeError: a truth that is constant inside the mask.
    """
    prediction, truth = _as_arrays(prediction, truth, "volumes", "(Z, Y, X)")
    inside = field_of_view(truth.shape) if mask is None else np.asarray(mask, dtype=bool)
    if inside.shape != truth.shape or not inside.any():
        raise ValueError(
            f"the mask has shape {inside.shape} and {inside.sum()} voxels; shape {truth.shape} "
            "with at least one voxel is expected."
        )
    prediction, truth = np.clip(prediction, 0, 1), np.clip(truth, 0, 1)
    data_range = float(np.ptp(truth[inside]))
    if data_range == 0:
        raise NoRangeError(
            "the truth is constant inside the mask, so protocol 'strict' has no range; check the "
            "mask and the intensity window."
        )
    weight = inside.astype(np.float64)
    # The weight is positive wherever a voxel counts, and nothing else is read afterwards.
    total = np.maximum(_gaussian_blur(weight, (0, 1, 2)), np.finfo(np.float32).tiny)
    moments = [
        (_gaussian_blur(weight * image, (0, 1, 2)) / total)[inside]
        for image in _moment_images(prediction, truth)
    ]
    return {
        "psnr": psnr(_mean_squared_error(prediction[inside], truth[inside]), data_range),
        "ssim": float(_similarity(moments, data_range).mean()),
    }


PROTOCOLS: dict[str, Callable[..., Score]] = {
    "r2": r2_protocol,
    "naf": naf_protocol,
    "strict": strict_protocol,
}


def evaluate_volume(
    prediction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> dict[str, Score]:
    """Score a volume under every protocol that is defined on its truth.

    Args:
        prediction: (Z, Y, X), normalised so that the intensity window is 0..1; array or CPU tensor.
        truth: (Z, Y, X), likewise.
        mask: where protocol ``strict`` looks; `field_of_view` of cubic voxels by default.

    Returns:
        {protocol: {"psnr": dB, "ssim": index}}; without `naf`, whose window does not fit, where an axis has fewer than
        7 voxels, and without `strict` where the truth is constant inside the mask.

    Raises:
        ValueError: volumes that one of the protocols cannot compare.
    """
    # Most of the time goes to filters of scipy, which leave other threads to run.
    with ThreadPoolExecutor() as pool:
        scores = {
            name: pool.submit(protocol, prediction, truth, mask)
            for name, protocol in PROTOCOLS.items()
        }
        return {
            name: score.result()
            for name, score in scores.items()
            if not isinstance(score.exception(), UndefinedError)
        }


def projection_error(prediction: ArrayLike, truth: ArrayLike) -> Score:
    """Score rendered projections against measured ones, best on views that were held out.

    Each view is divided by the maximum of its *measured* projection, so that an error of scale
    counts (R2-Gaussian divides each of the two by its own maximum, which hides it). Views without a
    measured value above 0 are left out of PSNR and SSIM.

    Args:
        prediction: (V, H, W) line integrals.
        truth: (V, H, W) line integrals, in the same unit.

    Returns:
        {"psnr": mean over views in dB, peak 1, "ssim": mean over views (window as in ``r2``),
        "relative_l2": norm of the difference over norm of the truth, all views together}.

    Raises:
        ValueError: shapes that differ, values that are not finite, or measured projections that are
            all empty.
    """
    prediction, truth = _as_arrays(prediction, truth, "projections", "(V, H, W)")
    peaks = truth.max(axis=(1, 2))
    counted = peaks > 0
    if not counted.any():
        raise ValueError(
            "the measured projections have no value above 0, so there is nothing to compare."
        )
    scale = peaks[counted][:, None, None]
    x, y = prediction[counted] / scale, truth[counted] / scale
    errors = np.square(x - y, dtype=np.float64).mean(axis=(1, 2))
    difference = np.linalg.norm((prediction - truth).astype(np.float64))
    return {
        "psnr": float(np.mean([psnr(float(error), 1.0) for error in errors])),
        "ssim": float(_slice_similarity(x, y, 0).mean()),
        "relative_l2": float(difference / np.linalg.norm(truth.astype(np.float64))),
    }
