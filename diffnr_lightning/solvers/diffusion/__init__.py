"""Reconstruction by sampling with a denoiser of several steps, as functions of (projections, grid, scan, denoiser)."""

from diffnr_lightning.solvers.diffusion.blend import blend
from diffnr_lightning.solvers.diffusion.dds import dds
from diffnr_lightning.solvers.diffusion.diffusion_mbir import diffusion_mbir
from diffnr_lightning.solvers.diffusion.patches import patches
from diffnr_lightning.solvers.diffusion.tpdm import tpdm

__all__ = ["blend", "dds", "diffusion_mbir", "patches", "tpdm"]
