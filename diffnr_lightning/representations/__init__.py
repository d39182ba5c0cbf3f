"""Learnable volumes: what is optimised for a scan."""

from diffnr_lightning.representations.base import Representation
from diffnr_lightning.representations.gaussian_cloud import GaussianCloud
from diffnr_lightning.representations.gaussian_density import (
    DensityLimits,
    clone_and_split,
    prune,
)
from diffnr_lightning.representations.gaussian_render import (
    density_at,
    render_gaussians,
    voxelise_gaussians,
)
from diffnr_lightning.representations.voxel_grid import VoxelGrid

__all__ = [
    "DensityLimits",
    "GaussianCloud",
    "Representation",
    "VoxelGrid",
    "clone_and_split",
    "density_at",
    "prune",
    "render_gaussians",
    "voxelise_gaussians",
]
