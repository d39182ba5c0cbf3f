"""Classical reconstruction as plain functions of (projections, grid, scan)."""

from diffnr_lightning.solvers.asd_pocs import asd_pocs
from diffnr_lightning.solvers.cgls import cgls
from diffnr_lightning.solvers.circular import near_circle
from diffnr_lightning.solvers.fdk import analytic, fbp, fdk
from diffnr_lightning.solvers.fista_tv import fista_tv
from diffnr_lightning.solvers.initial import initial_volume
from diffnr_lightning.solvers.mbir import mbir
from diffnr_lightning.solvers.ramp import ramp_filter
from diffnr_lightning.solvers.residual import (
    ResidualEvidence,
    backprojected_residual,
    residual_evidence,
)
from diffnr_lightning.solvers.sart import sart
from diffnr_lightning.solvers.sbtv import sbtv
from diffnr_lightning.solvers.sirt import sirt
from diffnr_lightning.solvers.surroundings import Surroundings, surroundings
from diffnr_lightning.solvers.total_variation import total_variation, total_variation_gradient
from diffnr_lightning.solvers.truncation import meets_the_ends, object_radius, scan_truncation
from diffnr_lightning.solvers.weighted_tv import weighted_tv

__all__ = [
    "ResidualEvidence",
    "Surroundings",
    "analytic",
    "asd_pocs",
    "backprojected_residual",
    "cgls",
    "fbp",
    "fdk",
    "fista_tv",
    "initial_volume",
    "mbir",
    "meets_the_ends",
    "near_circle",
    "object_radius",
    "ramp_filter",
    "residual_evidence",
    "sart",
    "sbtv",
    "scan_truncation",
    "sirt",
    "surroundings",
    "total_variation",
    "total_variation_gradient",
    "weighted_tv",
]
