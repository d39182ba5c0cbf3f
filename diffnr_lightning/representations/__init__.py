"""Learnable volumes: what is optimised for a scan.

`base.py` holds what each of them promises; `voxel_grid.py` is the simplest. What is hot has three sources: a torch
reference, numba kernels for the CPU and Triton kernels for CUDA.

| what | reference | numba | Triton |
|---|---|---|---|
| `gaussians/`: rotations | poses | shape | shape_triton |
| splat into views | render | splat_kernels | splat_triton, pinhole_triton |
| exact line integrals | lines | line_kernels | lines_triton, trace_triton |
| sum into voxels | render | voxel_kernels | voxel_triton, ellipsoid_triton |
| `fields/`: hash encoding | hash_encoding | hash_kernels | hash_triton |
| NAF's network | network_kernels | network_kernels | network_triton |

`gaussians/bins_triton` tells which Gaussians meet which cells, `cloud` holds their parameters, `density` and
`statistics` their density control, `checks` and `poses` what the kernels are given. Fields of points are rendered by
`fields/ray_field`: neural_field (NAF), line_transformer (SAX-NeRF), siren; tiny_cuda runs NAF's encoding and
plain_network by tiny-cuda-nn.
"""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "base": ["Representation"],
        "gaussians.cloud": ["GaussianCloud"],
        "gaussians.density": ["DensityLimits", "clone_and_split", "prune"],
        "gaussians.render": ["density_at", "render_gaussians", "voxelise_gaussians"],
        "fields.hash_encoding": ["HashEncoding"],
        "fields.line_transformer": ["LineTransformer"],
        "fields.neural_field": ["NeuralField"],
        "fields.ray_field": ["RayField"],
        "fields.siren": ["Siren"],
        "voxel_grid": ["VoxelGrid"],
    },
)
