"""Learnable volumes: what is optimised for a scan.

`base.py` holds what each of them promises. What is hot has three sources: a torch reference, numba kernels for the CPU
and Triton kernels for CUDA.

| what | reference | numba | Triton |
|---|---|---|---|
| Gaussians: rotations | gaussian_poses | gaussian_shape | gaussian_shape_triton |
| splat into views | gaussian_render | gaussian_splat_kernels | gaussian_splat_triton, gaussian_pinhole_triton |
| exact line integrals | gaussian_lines | gaussian_line_kernels | gaussian_lines_triton, gaussian_trace_triton |
| sum into voxels | gaussian_render | gaussian_voxel_kernels | gaussian_voxel_triton, gaussian_ellipsoid_triton |
| hash encoding | hash_encoding | hash_kernels | hash_triton |
| NAF's network | network_kernels | network_kernels | network_triton |

gaussian_bins_triton tells which Gaussians meet which cells. gaussian_cloud holds their parameters, gaussian_density
and gaussian_statistics their density control, gaussian_checks and gaussian_poses what the kernels are given. Fields of
points are rendered by ray_field: neural_field (NAF), line_transformer (SAX-NeRF), siren; tiny_cuda runs NAF's encoding
and plain_network by tiny-cuda-nn. voxel_grid is the simplest representation.
"""

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
