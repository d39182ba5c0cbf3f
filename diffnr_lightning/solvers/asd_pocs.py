"""ASD-POCS: ordered-subset data steps alternating with steepest descent of the total variation.

Source: E. Y. Sidky, X. Pan, "Image reconstruction in circular cone-beam computed tomography by
constrained, total-variation minimization", Phys. Med. Biol. 2008.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffnr_lightning.consistency import relative_weights
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import lay_out
from diffnr_lightning.solvers.inputs import (
    Progress,
    check_amounts,
    check_iterations,
    start_volume,
)
from diffnr_lightning.solvers.sart import ordered_subsets, subset_pass
from diffnr_lightning.solvers.total_variation import total_variation_gradient

# Sidky and Pan's constants: the descent shrinks by _SHRINK whenever it moved the volume further
# than _LARGEST times the data step did while the data misfit was above its tolerance.
_SHRINK = 0.95
_LARGEST = 0.95
# Rounds the corner of the total variation at zero gradient, as a share of the largest voxel after
# the first data step. (Sidky and Pan have a constant in the unit of their volumes.)
_SMOOTHING = 1e-4
_LEAST_SMOOTHING = 1e-18  # its square is the smallest that float32 holds with all digits


@torch.no_grad()
def asd_pocs(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 20,
    tv_iterations: int = 10,
    tv_weight: float = 0.005,
    tolerance: float = 0.0,
    subsets: int | None = None,
    relaxation: float = 1.0,
    decay: float = 0.95,
    initial: Tensor | None = None,
    weights: Tensor | None = None,
    power: float = 0.5,
    progress: Progress | None = None,
) -> Tensor:
    """Look for the non-negative volume of least total variation that explains the projections.

    Scaling the projections scales the volume: no constant depends on the unit.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        iterations: pairs of a pass over all views and a descent of the total variation.
        tv_iterations: steps of each descent.
        tv_weight: length of one of the `tv_iterations` steps, as a fraction of the length of the
            first data step; more smooths more.
        tolerance: norm of the residual, as a fraction of the norm of the projections, below which
            the descent is not held back: about the noise of the measurement.
        subsets: as in `sart`.
        relaxation: length of the data steps of the first pass, in (0, 2).
        decay: factor on the relaxation after every pass.
        initial: (Z, Y, X) to start from; None starts from zeros.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs them as SART does.
        power: that weights are raised to. 1 is the likelihood of photons alone; less respects that bright rays, too,
            are explained no better than voxels can.
        progress: called with (done, total, text) after every iteration.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: shapes that disagree, non-finite input, or options out of range.
        TypeError: input that is not a tensor of floats.
    """
    check_iterations(iterations, relaxation)
    check_amounts(tv_weight=tv_weight, tolerance=tolerance)
    if tv_iterations < 0:
        raise ValueError(f"tv_iterations is {tv_iterations}; at least 0 is expected.")
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay is {decay}; a factor in (0, 1] is expected.")
    volume = lay_out(start_volume(projections, grid, scan, initial), grid, scan)
    squares = projections.square()
    if weights is not None:
        weights = relative_weights(weights, scan, projections, power)
        squares *= weights
    parts = ordered_subsets(projections, grid, scan, subsets, weights)
    allowed = tolerance * float(squares.sum()) ** 0.5
    length = smoothing = 0.0
    for done in range(1, iterations + 1):
        before = volume.clone()
        misfit = subset_pass(volume, grid, parts, relaxation, nonnegative=True)
        data_step = float((volume - before).norm())
        if done == 1:
            length = tv_weight * data_step
            # The floor is for projections of nothing, whose total variation has no slope anyway.
            smoothing = max(_SMOOTHING * float(volume.abs().max()), _LEAST_SMOOTHING)
        before.copy_(volume)
        for _ in range(tv_iterations):
            gradient = total_variation_gradient(volume, grid.voxel_mm, smoothing)
            share = length / gradient.norm().double().clamp_min(1e-30)
            volume.addcmul_(gradient, share.to(volume.dtype), value=-1.0)
        tv_step = float((volume - before).norm())
        if tv_step > _LARGEST * data_step and misfit > allowed:
            length *= _SHRINK
        relaxation *= decay
        if progress is not None:
            progress(done, iterations, f"residual {misfit:.4g}")
    return volume.clamp_(min=0.0).contiguous()
