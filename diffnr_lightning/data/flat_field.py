"""From counts to line integrals: dark and flat field, dead pixels, drift of the beam."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from scipy import ndimage

from diffnr_lightning.data.readers.raw_scan import RawScan

LOGGER = logging.getLogger("diffnr")
AirBorder = Literal["auto", "none", "left", "right", "top", "bottom"]
# A pixel whose flat field is this far below the detector's median does not see the beam.
DEAD_SHARE = 0.05
# A block of pixels at the border that varies by less than this over pixels and views is air.
AIR_VARIATION = 0.05
# Widths of those blocks, as a share of the detector.
BORDER_SHARE = 0.05
# Beams drift by a few per cent; a border that lets through less than this share is hardly air.
LEAST_AIR = 0.8
# Less than one count of light cannot be distinguished from none. Values that are no counts (fields divided
# out before, other units) come from detectors of 16 bits at most.
ONE_COUNT, SIXTEEN_BITS = 1.0, 2.0**-16
# Share of the pixels without light that is worth a word.
DARK_SHARE = 1e-3


def line_integrals(raw: RawScan, air_border: AirBorder = "auto") -> np.ndarray:
    """Return -log of the transmission, (V, H, W) float64, dimensionless.

    Pixels that do not see the beam take the value of their nearest neighbour. Where a border of
    the images is free of the object, each view is scaled so that its transmission there is one:
    beams drift between the flat field and the views.

    Args:
        raw: counts, flat and dark field.
        air_border: which border of the images is free of the object: ``"auto"`` takes the
            brightest of the four where it is even in every view, ``"none"`` scales nothing, as is
            right for samples wider than the detector.

    Raises:
        ValueError: the flat field is nowhere brighter than the dark field, or an unknown border.
    """
    beam = raw.flat - raw.dark
    median = float(np.median(beam))
    if not median > 0:
        raise ValueError(
            f"{raw.source}: the flat field is no brighter than the dark field; were they exchanged?"
        )
    dead = beam < DEAD_SHARE * median
    transmission = _transmission(raw, np.where(dead, 1.0, beam), dead)
    nearest = ndimage.distance_transform_edt(dead, return_distances=False, return_indices=True)
    transmission = transmission[:, nearest[0], nearest[1]]
    air = _air_block(transmission, air_border)
    if air is not None:
        level = transmission[:, air[0], air[1]].mean(axis=(1, 2))
        _say_level(raw.name, float(level.mean()), air_border)
        transmission = transmission / level[:, None, None]
    return -np.log(transmission)


def _transmission(raw: RawScan, beam: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """Return the share of the beam that every pixel sees, (V, H, W), above zero."""
    signal = raw.counts - raw.dark
    counted = np.array_equal(raw.counts, np.rint(raw.counts))
    least = ONE_COUNT if counted else SIXTEEN_BITS * beam
    without = float(((signal < least) & ~dead).mean())
    if without > DARK_SHARE:
        LOGGER.warning(
            "%s: %.2g %% of the pixels got no light; line integrals there are a lower bound "
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
            f"air_border is {air_border!r}; auto, none, {', '.join(blocks)} is expected."
        )
    if rows < 1 / BORDER_SHARE:
        # A detector of few rows has no top that could be free of the object.
        del blocks["top"], blocks["bottom"]
    brightest = max(
        blocks.values(), key=lambda block: float(transmission[(slice(None), *block)].mean())
    )
    block = transmission[(slice(None), *brightest)]
    # Over views the beam may drift; over the pixels of one view, air is even.
    variation = float((block.std(axis=(1, 2)) / block.mean(axis=(1, 2))).max())
    return brightest if variation < AIR_VARIATION else None
