"""3D Gaussians: parameters and density control, rendered into views and summed into voxels."""
