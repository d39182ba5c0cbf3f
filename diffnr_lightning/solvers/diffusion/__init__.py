"""Reconstruction by sampling with a denoiser of several steps, as functions of (projections, grid, scan, denoiser)."""

from diffnr_lightning.solvers.diffusion.blend import blend
from diffnr_lightning.solvers.diffusion.ddip3d import ddip3d
from diffnr_lightning.solvers.diffusion.dds import dds
from diffnr_lightning.solvers.diffusion.diffusion_mbir import diffusion_mbir
from diffnr_lightning.solvers.diffusion.dinr import dinr
from diffnr_lightning.solvers.diffusion.patches import patches
from diffnr_lightning.solvers.diffusion.scd import scd
from diffnr_lightning.solvers.diffusion.tpdm import tpdm

__all__ = ["blend", "ddip3d", "dds", "diffusion_mbir", "dinr", "patches", "scd", "tpdm"]
