"""Learnable volumes: what is optimised for a scan."""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "base": ["Representation"],
        "gaussian_cloud": ["GaussianCloud"],
        "gaussian_density": ["DensityLimits", "clone_and_split", "prune"],
        "gaussian_render": ["density_at", "render_gaussians", "voxelise_gaussians"],
        "hash_encoding": ["HashEncoding"],
        "line_transformer": ["LineTransformer"],
        "neural_field": ["NeuralField"],
        "ray_field": ["RayField"],
        "siren": ["Siren"],
        "voxel_grid": ["VoxelGrid"],
    },
)
