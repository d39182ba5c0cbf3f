"""From counts to line integrals: dark and flat field, dead pixels, drift of the beam."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from diffnr_lightning.data.readers.raw_scan import RawScan, view_blocks

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
# Where the usual view counts so many times as much, one that counts less than that a pixel saw no beam.
CLOSED = 20.0


class FlatFielded(NamedTuple):
    """What is left of a raw scan when the detector's own pattern is taken out.

    Attributes:
        line_integrals: -log of the transmission, (V, H, W) float32, dimensionless.
        signal: counts above the dark field, (V, H, W) float32; 0 where a pixel does not see the beam.
        beam: the same of the flat field, (H, W) float64.
        level: how bright the beam of each view is, as a share of the flat field's, (V, 1, 1) float64. Without the
            object a view would count ``beam * level``.
    """

    line_integrals: np.ndarray
    signal: np.ndarray
    beam: np.ndarray
    level: np.ndarray


def lit_views(raw: RawScan) -> np.ndarray:
    """Return which views (V,) got light, and say which did not, as where the shutter was closed.

    Scaled to the brightness of their border they would pass for views of nothing but air.
    """
    light = raw.counts.mean(axis=(1, 2), dtype=np.float64) - raw.dark.mean()
    least = ONE_COUNT if _counted(raw) else SIXTEEN_BITS * float(np.median(raw.flat - raw.dark))
    closed = light < least
    if not closed.any() or np.median(light) < CLOSED * least:
        return np.ones(len(closed), bool)
    LOGGER.warning(
        "%s: %d view(s) got no light and are left out, the first of them number %d",
        raw.name, closed.sum(), int(closed.argmax()),
    )  # fmt: skip
    return ~closed


def flat_fielded(raw: RawScan, air_border: AirBorder = "auto") -> FlatFielded:
    """Turn counts into line integrals, and keep what they were counted of.

    Pixels that do not see the beam take the value of their nearest neighbour, and so do single ones
    that died after the flat field was taken. Where a border of the images is free of the object,
    each view is scaled so that its transmission there is one: beams drift between the flat field
    and the views.

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
    blind = beam < DEAD_SHARE * median
    dead = blind | _died(raw, blind)
    light = _Transmission(raw, beam, dead)
    level = np.ones((len(raw.counts), 1, 1))
    air = _air_block(light, air_border)
    if air is not None:
        level = air.mean(axis=(1, 2))[:, None, None]
        _say_level(raw.name, float(level.mean()), air_border)
    line_integrals, signal = (np.empty(raw.counts.shape, np.float32) for _ in range(2))
    for views in raw.blocks():
        line_integrals[views] = -np.log(light.of_views(views) / level[views])
        signal[views] = np.where(dead, 0.0, raw.above_dark(views))
    return FlatFielded(line_integrals, signal, np.where(dead, 0.0, beam), level)


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
    signal = fielded.signal
    normal = np.empty(signal.size, np.float32)
    count = 0
    # Each block begins with the last view of the one before.
    for later in view_blocks(signal.shape, first=1):
        some = _normal_differences(fielded, slice(later.start - 1, later.stop))
        normal[count : count + len(some)] = some
        count += len(some)
    deviation = 1.4826 * float(np.median(normal[:count], overwrite_input=True)) if count else 0.0
    return 1.0 / deviation**2 if deviation > 0 else 0.0


def _normal_differences(fielded: FlatFielded, views: slice) -> np.ndarray:
    """Return (n,) what is left of neighbouring pixels in neighbouring views, in units of the noise of one count."""
    air = np.where(fielded.beam > 0, fielded.beam, 1.0) * fielded.level[views]
    transmission = fielded.signal[views] / air
    variance = np.maximum(transmission, 0) / air
    outer, inner, other = np.s_[..., :-2], np.s_[..., 1:-1], np.s_[..., 2:]
    curved = transmission[outer] - 2 * transmission[inner] + transmission[other]
    spread = variance[outer] + 4 * variance[inner] + variance[other]
    seen = fielded.beam > 0
    used = (seen[outer] & seen[inner] & seen[other]) & (spread[1:] > 0)
    return np.abs(np.diff(curved, axis=0))[used] / np.sqrt(spread[1:] + spread[:-1])[used]


def _died(raw: RawScan, blind: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W) of narrow groups that get no light in any view, though the flat field does not say so.

    Groups of three and more pixels along each side may be something opaque, such as a holder.

    Args:
        raw: counts and dark field.
        blind: (H, W) pixels of which the flat field says that they do not see the beam.
    """
    least = ONE_COUNT if _counted(raw) else SIXTEEN_BITS * (raw.flat - raw.dark)
    dark = np.ones(blind.shape, bool)
    for views in raw.blocks():
        dark &= (raw.above_dark(views) < least).all(axis=0)
    side = [min(3, n) for n in dark.shape]
    wide = ndimage.minimum_filter(dark.view(np.uint8), side, mode="nearest")
    wide = ndimage.maximum_filter(wide, side, mode="nearest").astype(bool)
    died = dark & ~wide & ~blind
    if died.any():
        LOGGER.warning(
            "%s: %d pixel(s) get no light in any view, though the flat field says that they see the beam; they take "
            "the value of their nearest neighbour",
            raw.name, died.sum(),
        )  # fmt: skip
    return died


class _Transmission:
    """The share of the beam that every pixel sees, above zero, a few views at a time.

    Args:
        raw: counts and dark field.
        beam: (H, W) of the flat field.
        dead: (H, W) pixels that do not see it.

    Raises:
        ValueError: no pixel of any view is brighter than the dark field.
    """

    def __init__(self, raw: RawScan, beam: np.ndarray, dead: np.ndarray) -> None:
        self.raw, self.beam = raw, np.where(dead, 1.0, beam)
        if not any((raw.counts[views] > raw.dark).any() for views in raw.blocks()):
            raise ValueError(
                f"{raw.source}: no pixel of any view is brighter than the dark field; counts, which grow with the "
                "light, are expected."
            )
        self.least = ONE_COUNT if _counted(raw) else SIXTEEN_BITS * self.beam
        self.nearest = ndimage.distance_transform_edt(
            dead, return_distances=False, return_indices=True
        )
        dark = sum(int(((raw.above_dark(v) < self.least) & ~dead).sum()) for v in raw.blocks())
        without = dark / raw.counts.size
        if without > DARK_SHARE:
            LOGGER.warning(
                "%s: %.3g %% of the pixels got no light; line integrals there are a lower bound "
                "(metal, or an exposure too short)",
                raw.name, 100 * without,
            )  # fmt: skip

    def of_views(self, views: slice) -> np.ndarray:
        """Return some views (v, H, W) float64; dead pixels have the value of their nearest neighbour."""
        seen = np.maximum(self.raw.above_dark(views), self.least) / self.beam
        return seen[:, self.nearest[0], self.nearest[1]]

    def of_parts(self, parts: Collection[tuple[slice, slice]]) -> list[np.ndarray]:
        """Return some parts of the detector, rows and columns, in all views: (V, h, w) of each."""
        # Copies, since a part of a block would keep the block.
        found = [
            [seen[:, rows, columns].copy() for rows, columns in parts]
            for seen in map(self.of_views, self.raw.blocks())
        ]
        return [np.concatenate(pieces) for pieces in zip(*found, strict=True)]


def _counted(raw: RawScan) -> bool:
    """Whether the values of a scan are whole numbers."""
    if np.issubdtype(raw.counts.dtype, np.integer):
        return True
    blocks = (raw.counts[views] for views in raw.blocks())
    return all(np.array_equal(block, np.rint(block)) for block in blocks)


def _say_level(name: str, level: float, air_border: AirBorder) -> None:
    if air_border == "auto" and level < LEAST_AIR:
        LOGGER.warning(
            "%s: the border taken for air lets through %.2f of the flat field and is scaled to 1; "
            "if the sample is wider than the detector, say air_border=none",
            name, level,
        )  # fmt: skip
    else:
        LOGGER.info("%s: transmission of air is %.3f, scaled to 1", name, level)


def _air_block(light: _Transmission, air_border: AirBorder) -> np.ndarray | None:
    """Return the transmission (V, h, w) of the border that is air, or None.

    ``"auto"`` takes the brightest one if it is flat in every view.
    """
    _, rows, columns = light.raw.counts.shape
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
        return light.of_parts([blocks[air_border]])[0]
    if air_border != "auto":
        raise ValueError(
            f"air_border is {air_border!r}; one of auto, none, {', '.join(blocks)} is expected."
        )
    if rows < 1 / BORDER_SHARE:
        # A detector of few rows has no top that could be free of the object.
        del blocks["top"], blocks["bottom"]
    found = dict(zip(blocks, light.of_parts(blocks.values()), strict=True))
    side, block = max(found.items(), key=lambda item: float(item[1].mean()))
    # Over views the beam may drift; over the parts of one view, air is even. Pixels of few photons scatter by more.
    parts = [
        part.mean(axis=(1, 2))
        for strip in np.array_split(block, min(PARTS, block.shape[1]), axis=1)
        for part in np.array_split(strip, min(PARTS, block.shape[2]), axis=2)
    ]
    variation = float((np.std(parts, axis=0) / np.mean(parts, axis=0)).max())
    if variation < AIR_VARIATION:
        return block
    LOGGER.info(
        "%s: no border of the images is even in every view, and nothing is scaled; the brightest lets through %.2f of "
        "the flat field and varies by up to %.0f %%: if it is air, say air_border=%s",
        light.raw.name, float(block.mean()), 100 * variation, side,
    )  # fmt: skip
    return None
