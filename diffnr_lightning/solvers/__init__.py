"""Classical reconstruction as plain functions of (projections, grid, scan)."""

from diffnr_lightning.solvers.asd_pocs import asd_pocs
from diffnr_lightning.solvers.fdk import analytic, fbp, fdk
from diffnr_lightning.solvers.ramp import ramp_filter
from diffnr_lightning.solvers.residual import backprojected_residual
from diffnr_lightning.solvers.sart import sart
from diffnr_lightning.solvers.sirt import sirt
from diffnr_lightning.solvers.total_variation import total_variation, total_variation_gradient

__all__ = [
    "analytic",
    "asd_pocs",
    "backprojected_residual",
    "fbp",
    "fdk",
    "ramp_filter",
    "sart",
    "sirt",
    "total_variation",
    "total_variation_gradient",
]
