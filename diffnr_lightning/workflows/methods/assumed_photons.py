"""The photons behind the projections of a case: those that it knows, or assumed ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from diffnr_lightning.data import Case
from diffnr_lightning.data.case_folder.metadata import simulated_noise
from diffnr_lightning.data.noise import MU_WATER_PER_MM, Noise
from diffnr_lightning.photons import PhotonCounts

logger = logging.getLogger("diffnr")


# Photons without object, a pixel and view, by which rays weigh that were simulated without noise.
MUCH_LIGHT = 1e6


# No detector tells exp(-20), two photons of 1e9, from nothing: line integrals beyond are in another unit.
LARGEST_EXPONENT = 20.0


def photons_of(case: Case, assumed: float | None) -> PhotonCounts | None:
    """Return the photons behind the projections, in the case's unit, and say where they are from.

    A scan that was simulated without noise gets those of much light, so that its rays weigh as they would there: all
    alike, those that voxels resolve least would count as much as the others, and repairs could not be held to the
    projections by a level of noise.

    Args:
        case: what is reconstructed.
        assumed: photons without object where the case knows none; None leaves it at that.

    Raises:
        ValueError: an assumed number that is not positive.

    Source: of four volumes of the development set without noise DiffNR gains 0.02 to 0.45 dB by 1e6 photons over rays
    that weigh alike (`experiments/less_noise`); `weighted_tv` loses 0.5 and 1.0 dB of the two heads among them.
    """
    if assumed is not None and not 0 < assumed < math.inf:
        raise ValueError(f"photons is {assumed}; a positive number is expected.")
    if case.photons is not None:
        if assumed is not None:
            logger.warning(
                "%s knows its photons; the %g that are assumed are not used", case.name, assumed
            )
        return case.photons
    noise = simulated_noise(case.provenance)
    noiseless = noise.get("mode") == "none"
    if assumed is None and noiseless:
        logger.info(
            "%s was simulated without noise: its rays weigh as those of %g photons (--photons assumes another number, "
            "--weights uniform weighs them alike)",
            case.name,
            MUCH_LIGHT,
        )
        assumed = MUCH_LIGHT
    if assumed is None:
        logger.info(
            "%s does not know its photons: all rays weigh alike (--photons assumes a number)",
            case.name,
        )
        return None
    return PhotonCounts.assumed(case.projections, assumed, _attenuation_of_unit(case, noise))


def _attenuation_of_unit(case: Case, noise: Mapping[str, Any]) -> float:
    """Return what a line integral of the case's unit times mm attenuates, as an exponent.

    A simulated volume that is not in HU gets what its noise would have been made by (`Noise`), and so does a case of
    others whose unit is not known: its truth is from 0 to about 1 as it was stored, or no ray would get through.
    Measured projections are line integrals already.
    """
    if case.window_hu is not None:
        return MU_WATER_PER_MM * (case.window_hu[1] - case.window_hu[0]) / 1000.0
    densest = noise.get("peak_line_integral", Noise.peak_line_integral)
    largest = float(case.projections.max())
    if noise:
        return densest / largest
    divided_by = case.provenance.get("normalised_by")
    as_stored = divided_by or 1.0
    normalised = case.volume is not None and divided_by is None
    known = not normalised and as_stored * largest <= LARGEST_EXPONENT
    if known or case.provenance.get("kind") == "measured":
        return as_stored
    logger.warning(
        "%s does not say in which unit its projections are: photons are assumed as if its densest ray had a line "
        "integral of %g",
        case.name,
        densest,
    )
    return densest / largest
