"""How far a volume agrees with measured projections, and steps that bring it nearer to them."""

from diffnr_lightning.consistency.alignment import align
from diffnr_lightning.consistency.misfit import best_share, misfit
from diffnr_lightning.consistency.normalisation import (
    Normalisation,
    normalise,
    relative_weights,
)
from diffnr_lightning.consistency.simultaneous import simultaneous_steps

__all__ = [
    "Normalisation",
    "align",
    "best_share",
    "misfit",
    "normalise",
    "relative_weights",
    "simultaneous_steps",
]
