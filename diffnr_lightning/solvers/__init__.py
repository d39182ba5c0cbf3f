"""Classical reconstruction as plain functions of (projections, grid, scan)."""

from diffnr_lightning.solvers.fdk import analytic, fbp, fdk, ramp_filter

__all__ = ["analytic", "fbp", "fdk", "ramp_filter"]
