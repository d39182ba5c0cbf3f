"""From counts to line integrals: dark and flat field, dead pixels, drift of the beam."""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from diffnr_lightning.data.readers.raw_scan import RawScan

LOGGER = logging.getLogger("diffnr")
AirBorder = Literal["auto", "none", "left", "right", "top", "bottom"]
# A pixel whose flat field is this far below the detector's median does not see the beam.
DEAD_SHARE = 0.05
# A block of pixels at the border whose parts, so many along each side, vary by less than this in every view is air.
AIR_VARIATION = 0.05
PARTS = 4
# Widths of those blocks, as a share of the detector.
BORDER_SHARE = 0.05
# Beams drift by a few per cent; a border that lets through less than this share is hardly air.
LEAST_AIR = 0.8
# Less than one count of light cannot be distinguished from none. Values that are no counts (fields divided
# out before, other units) come from detectors of 16 bits at most.
ONE_COUNT, SIXTEEN_BITS = 1.0, 2.0**-16
# Share of the pixels without light that is worth a word.
DARK_SHARE = 1e-3


class FlatFielded(NamedTuple):
    """What is left of a raw scan when the detector's own pattern is taken out.

    Attributes:
        line_integrals: -log of the transmission, (V, H, W) float64, dimensionless.
        signal: counts above the dark field, (V, H, W) float64; 0 where a pixel does not see the beam.
        air: the same without the object, (V, H, W) float64.
    """

    line_integrals: np.ndarray
    signal: np.ndarray
    air: np.ndarray


def flat_fielded(raw: RawScan, air_border: AirBorder = "auto") -> FlatFielded:
    """Turn counts into line integrals, and keep what they were counted of.

    Pixels that do not see the beam take the value of their nearest neighbour. Where a border of
    the images is free of the object, each view is scaled so that its transmission there is one:
    beams drift between the flat field and the views.

    Args:
        raw: counts, flat and dark field.
        air_border: which border of the images is free of the object: ``"auto"`` takes the
            brightest of the four where it is even in every view, ``"none"`` scales nothing, as is
            right for samples wider than the detector.

    Raises:
        ValueError: most of the flat field, or all of the views, is no brighter than the dark field; or an unknown
            border.
    """
    beam = raw.flat - raw.dark
    median = float(np.median(beam))
    if not median > 0:
        raise ValueError(
            f"{raw.source}: the flat field is brighter than the dark field in {(beam > 0).mean():.0%} of the pixels; "
            "more than half is expected: crop the images to what the beam reaches, or swap the two if exchanged."
        )
    if not (raw.counts > raw.dark).any():
        raise ValueError(
            f"{raw.source}: no pixel of any view is brighter than the dark field; counts, which grow with the light, "
            "are expected."
        )
    dead = beam < DEAD_SHARE * median
    transmission = _transmission(raw, np.where(dead, 1.0, beam), dead)
    nearest = ndimage.distance_transform_edt(dead, return_distances=False, return_indices=True)
    transmission = transmission[:, nearest[0], nearest[1]]
    level = np.ones((len(raw.counts), 1, 1))
    air = _air_block(transmission, air_border)
    if air is not None:
        level = transmission[:, air[0], air[1]].mean(axis=(1, 2))[:, None, None]
        _say_level(raw.name, float(level.mean()), air_border)
    return FlatFielded(
        -np.log(transmission / level),
        np.where(dead, 0.0, raw.counts - raw.dark),
        np.where(dead, 0.0, beam) * level,
    )


def photons_per_count(fielded: FlatFielded) -> float:
    """Estimate how many photons a count stands for, from the noise of the counts themselves.

    The transmission of neighbouring pixels is compared in neighbouring views (second differences along the rows,
    less those of the next view): the detector's pattern and what is smooth cancel, and the median
    leaves out the edges that do not.

    Returns:
        Photons that have the same relative noise as one count; 0 where nothing varies.

    Source: the variance of a number of photons is that number; 1.4826 medians of absolute values are the standard
    deviation of a normal distribution.
    """
    seen = fielded.air > 0
    air = np.where(seen, fielded.air, 1.0)
    transmission = fielded.signal / air
    variance = np.maximum(transmission, 0) / air
    outer, inner, other = np.s_[..., :-2], np.s_[..., 1:-1], np.s_[..., 2:]
    curved = transmission[outer] - 2 * transmission[inner] + transmission[other]
    spread = variance[outer] + 4 * variance[inner] + variance[other]
    used = (seen[outer] & seen[inner] & seen[other])[1:] & (spread[1:] > 0)
    normal = np.abs(np.diff(curved, axis=0))[used] / np.sqrt(spread[1:] + spread[:-1])[used]
    deviation = 1.4826 * float(np.median(normal)) if normal.size else 0.0
    return 1.0 / deviation**2 if deviation > 0 else 0.0


def _transmission(raw: RawScan, beam: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """Return the share of the beam that every pixel sees, (V, H, W), above zero."""
    signal = raw.counts - raw.dark
    counted = np.array_equal(raw.counts, np.rint(raw.counts))
    least = ONE_COUNT if counted else SIXTEEN_BITS * beam
    without = float(((signal < least) & ~dead).mean())
    if without > DARK_SHARE:
        LOGGER.warning(
            "%s: %.3g %% of the pixels got no light; line integrals there are a lower bound "
            "(metal, or an exposure too short)",
            raw.name, 100 * without,
        )  # fmt: skip
    return np.maximum(signal, least) / beam


def _say_level(name: str, level: float, air_border: AirBorder) -> None:
    if air_border == "auto" and level < LEAST_AIR:
        LOGGER.warning(
            "%s: the border taken for air lets through %.2f of the flat field and is scaled to 1; "
            "if the sample is wider than the detector, say air_border=none",
            name, level,
        )  # fmt: skip
    else:
        LOGGER.info("%s: transmission of air is %.3f, scaled to 1", name, level)


def _air_block(transmission: np.ndarray, air_border: AirBorder) -> tuple[slice, slice] | None:
    """Return rows and columns of the border that is air, or None.

    ``"auto"`` takes the brightest one if it is flat in every view.
    """
    _, rows, columns = transmission.shape
    high, wide = (max(1, round(BORDER_SHARE * n)) for n in (rows, columns))
    every = slice(None)
    blocks = {
        "left": (every, slice(0, wide)),
        "right": (every, slice(columns - wide, columns)),
        "top": (slice(0, high), every),
        "bottom": (slice(rows - high, rows), every),
    }
    if air_border == "none":
        return None
    if air_border in blocks:
        return blocks[air_border]
    if air_border != "auto":
        raise ValueError(
            f"air_border is {air_border!r}; one of auto, none, {', '.join(blocks)} is expected."
        )
    if rows < 1 / BORDER_SHARE:
        # A detector of few rows has no top that could be free of the object.
        del blocks["top"], blocks["bottom"]
    brightest = max(
        blocks.values(), key=lambda block: float(transmission[(slice(None), *block)].mean())
    )
    block = transmission[(slice(None), *brightest)]
    # Over views the beam may drift; over the parts of one view, air is even. Pixels of few photons scatter by more.
    parts = [
        part.mean(axis=(1, 2))
        for strip in np.array_split(block, min(PARTS, block.shape[1]), axis=1)
        for part in np.array_split(strip, min(PARTS, block.shape[2]), axis=2)
    ]
    variation = float((np.std(parts, axis=0) / np.mean(parts, axis=0)).max())
    return brightest if variation < AIR_VARIATION else None
