"""Photon and electronic noise of simulated projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

# Linear attenuation of water at 60 keV in 1/mm (mass attenuation 0.2059 cm2/g at 1 g/cm3).
# Source: Hubbell & Seltzer, NISTIR 5632, tables of X-ray mass attenuation coefficients.
MU_WATER_PER_MM = 0.0206
# Counts below one photon have no logarithm worth taking; a starved pixel reads as one photon.
LEAST_COUNT = 1.0
# Numpy draws Poisson numbers of expectations up to 9.2e18.
MOST_PHOTONS = 1e18


@dataclass(frozen=True)
class Noise:
    """Describe the noise of a simulated scan.

    Args:
        mode: ``"physical"`` (counts follow the object's true attenuation, whatever the window),
            ``"tigre"`` (that toolbox's rule on the windowed density, whose counts never fall below
            photons/e; for reproducing tables made with it) or ``"none"``.
        photons: unattenuated photons a pixel and view, from 1 to 1e18.
        electronic: standard deviation of the read-out noise in photons.
        peak_line_integral: dimensionless line integral given to the densest ray of a volume that
            is not in HU, whose true attenuation is not known.

    Raises:
        ValueError: a photon count, deviation or line integral that makes no sense.
    """

    mode: Literal["physical", "tigre", "none"] = "physical"
    photons: float = 1e5
    electronic: float = 10.0
    peak_line_integral: float = 3.0

    def __post_init__(self) -> None:
        if self.mode not in ("physical", "tigre", "none"):
            raise ValueError(
                f"noise mode is {self.mode!r}; 'physical', 'tigre' or 'none' is expected."
            )
        if not LEAST_COUNT <= self.photons <= MOST_PHOTONS:
            raise ValueError(
                f"noise photons is {self.photons}; a number from {LEAST_COUNT:g} to {MOST_PHOTONS:g} is expected."
            )
        if not 0 <= self.electronic < np.inf:
            raise ValueError(
                f"noise electronic is {self.electronic}; zero or a positive number is expected."
            )
        if not 0 < self.peak_line_integral < np.inf:
            raise ValueError(
                f"noise peak_line_integral is {self.peak_line_integral}; a positive number is "
                "expected."
            )


def attenuation_scale(
    projections: np.ndarray, noise: Noise, window_hu: tuple[float, float] | None
) -> float:
    """Return the factor from line integrals in widths of the window (times mm) to true ones.

    Args:
        projections: (V, H, W) noise-free line integrals; looked at only without a window.
        noise: gives the line integral of the densest ray where the unit is unknown.
        window_hu: HU of the values 0 and 1. An HU is a thousandth of water's attenuation.
    """
    if window_hu is not None:
        return MU_WATER_PER_MM * (window_hu[1] - window_hu[0]) / 1000.0
    return noise.peak_line_integral / float(projections.max())


class Measured(NamedTuple):
    """What a noisy detector says of line integrals.

    Attributes:
        line_integrals: with noise, in the unit that they came in.
        counts: photons behind them, float64, the read-out noise in them.
        scale: factor from that unit to the exponent of the photons' attenuation.
    """

    line_integrals: np.ndarray
    counts: np.ndarray
    scale: float


def photon_noise(
    line_integrals: np.ndarray, noise: Noise, generator: np.random.Generator
) -> Measured:
    """Return noisy line integrals: Poisson counts plus Gaussian read-out noise, then -log.

    Args:
        line_integrals: dimensionless, any shape.
        noise: photons and read-out noise.
        generator: random numbers.

    Source: counts = Poisson(I0 exp(-p)) + N(0, sigma); to first order the result has the variance
    (I0 exp(-p) + sigma^2) / (I0 exp(-p))^2.
    """
    counts = generator.poisson(noise.photons * np.exp(-line_integrals.astype(np.float64)))
    counts = counts + noise.electronic * generator.standard_normal(line_integrals.shape)
    return Measured(-np.log(np.maximum(counts, LEAST_COUNT) / noise.photons), counts, 1.0)


def tigre_noise(projections: np.ndarray, noise: Noise, generator: np.random.Generator) -> Measured:
    """Return projections with the noise of the TIGRE toolbox, in the unit they came in.

    The exponent is normalised by the maximum of the whole stack and negative results are set to
    zero, so the noise depends on which views are in the stack and is far too small behind dense
    objects. It is here because published tables used it.

    Source: CTnoise.add of TIGRE; the same formula with this package's random numbers.
    """
    largest = float(projections.max())
    measured = photon_noise(projections / largest, noise, generator)
    clipped = np.maximum(measured.line_integrals * largest, 0.0)
    return Measured(clipped, measured.counts, 1.0 / largest)
