"""Classical reconstruction as plain functions of (projections, grid, scan)."""

from diffnr_lightning.solvers.alignment import align
from diffnr_lightning.solvers.asd_pocs import asd_pocs
from diffnr_lightning.solvers.discrepancy import best_share, misfit
from diffnr_lightning.solvers.fdk import analytic, fbp, fdk, ramp_filter
from diffnr_lightning.solvers.normalisation import Weights, normalise
from diffnr_lightning.solvers.residual import backprojected_residual
from diffnr_lightning.solvers.sart import sart
from diffnr_lightning.solvers.sirt import sirt
from diffnr_lightning.solvers.total_variation import total_variation, total_variation_gradient

__all__ = [
    "Weights",
    "align",
    "analytic",
    "asd_pocs",
    "backprojected_residual",
    "best_share",
    "fbp",
    "fdk",
    "misfit",
    "normalise",
    "ramp_filter",
    "sart",
    "sirt",
    "total_variation",
    "total_variation_gradient",
]
