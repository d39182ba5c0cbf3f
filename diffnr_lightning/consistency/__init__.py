"""How far a volume agrees with measured projections, and steps that bring it nearer to them."""

from diffnr_lightning.consistency.alignment import align
from diffnr_lightning.consistency.misfit import best_share, misfit
from diffnr_lightning.consistency.normalisation import Weights, normalise
from diffnr_lightning.consistency.simultaneous import simultaneous_steps

__all__ = ["Weights", "align", "best_share", "misfit", "normalise", "simultaneous_steps"]
