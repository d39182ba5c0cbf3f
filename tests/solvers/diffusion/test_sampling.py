"""Samplers compute in the precision of the projections, and ask denoisers in that of their weights."""

import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.priors import CompactDenoiser, PatchDenoiser
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import VoxelGrid
from diffnr_lightning.solvers import diffusion

GRID = VolumeGrid((8, 8, 8), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(3),
    source_to_axis_mm=60.0,
    source_to_detector_mm=90.0,
    detector_shape=(12, 12),
    pixel_mm=2.5,
)
ADAPTED = {"updates": 1, "rank": 2}
# `blend` is `dds` with other stacks.
SAMPLERS = {
    "dds": {},
    "diffusion_mbir": {},
    "tpdm": {},
    "patches": {},
    "scd": ADAPTED,
    "ddip3d": ADAPTED,
    "dinr": ADAPTED | {"first_iterations": 2, "iterations": 2},
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_projections_of_double_precision_are_sampled_by_a_denoiser_of_single(name):
    denoiser = CompactDenoiser(1, (8, 16), gaps=0)
    if name == "patches":
        denoiser = PatchDenoiser(4, (8, 16), embedding=16)
    denoiser.eval().requires_grad_(False)
    further = [VoxelGrid(GRID)] if name == "dinr" else []
    initial = torch.full(GRID.shape, 0.5, dtype=torch.float64)
    options = SAMPLERS[name] | {"steps": 2, "start": 0.05, "initial": initial}
    sampler, projections = getattr(diffusion, name), project(initial, GRID, SCAN)
    volume = sampler(projections, GRID, SCAN, denoiser, *further, **options)
    assert volume.dtype == torch.float64
    assert volume.isfinite().all()
    assert next(denoiser.parameters()).dtype == torch.float32
