"""How far a volume agrees with measured projections, and steps that bring it nearer to them."""

from diffnr_lightning.consistency.agreement import Agreement, agree, unexplained
from diffnr_lightning.consistency.alignment import align
from diffnr_lightning.consistency.conjugate_gradients import conjugate_gradients
from diffnr_lightning.consistency.data_step import DataStep
from diffnr_lightning.consistency.discrepancy import discrepancy, unresolved_variance
from diffnr_lightning.consistency.least_squares import LeastSquares
from diffnr_lightning.consistency.misfit import misfit
from diffnr_lightning.consistency.normalisation import (
    Normalisation,
    noise_of_mean_weight,
    normalise,
    relative_weights,
)
from diffnr_lightning.consistency.simultaneous import simultaneous_steps
from diffnr_lightning.consistency.smoothing import smoothed
from diffnr_lightning.consistency.unrolled import FittedEstimate, unrolled_fit
from diffnr_lightning.consistency.visible_part import (
    VisiblePart,
    energy_of,
    visible_part,
    with_unseen_of,
)

__all__ = [
    "Agreement",
    "DataStep",
    "FittedEstimate",
    "LeastSquares",
    "Normalisation",
    "VisiblePart",
    "agree",
    "align",
    "conjugate_gradients",
    "discrepancy",
    "energy_of",
    "misfit",
    "noise_of_mean_weight",
    "normalise",
    "relative_weights",
    "simultaneous_steps",
    "smoothed",
    "unexplained",
    "unresolved_variance",
    "unrolled_fit",
    "visible_part",
    "with_unseen_of",
]
