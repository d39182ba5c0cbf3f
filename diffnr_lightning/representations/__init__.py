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
from diffnr_lightning.representations.hash_encoding import HashEncoding
from diffnr_lightning.representations.line_transformer import LineTransformer
from diffnr_lightning.representations.neural_field import NeuralField
from diffnr_lightning.representations.ray_field import RayField
from diffnr_lightning.representations.siren import Siren
from diffnr_lightning.representations.voxel_grid import VoxelGrid

__all__ = [
    "DensityLimits",
    "GaussianCloud",
    "HashEncoding",
    "LineTransformer",
    "NeuralField",
    "RayField",
    "Representation",
    "Siren",
    "VoxelGrid",
    "clone_and_split",
    "density_at",
    "prune",
    "render_gaussians",
    "voxelise_gaussians",
]
