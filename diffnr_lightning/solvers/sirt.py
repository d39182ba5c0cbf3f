"""Simultaneous iterative reconstruction (SIRT): weighted least squares, all views at once.

Source: J. Gregor, T. Benson, "Computational analysis and improvement of SIRT", IEEE TMI 2008.
"""

from __future__ import annotations

from torch import Tensor

from diffnr_lightning.consistency import Normalisation, relative_weights, simultaneous_steps
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors.slabs import Slabs
from diffnr_lightning.solvers.inputs import Progress, check_iterations, start_volume


def sirt(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 100,
    initial: Tensor | None = None,
    nonnegative: bool = True,
    relaxation: float = 1.0,
    weights: Tensor | None = None,
    power: float = 0.5,
    normalisation: Normalisation | None = None,
    slabs: Slabs | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Iterate ``x <- x + relaxation * C A^T R (b - A x)``, C and R from `consistency.normalise`.

    Few iterations from a good volume move it towards the measurements and leave what they do not
    see.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        iterations: passes over all views.
        initial: (Z, Y, X) to start from; None starts from zeros.
        nonnegative: set negative voxels to zero after every iteration.
        relaxation: length of the step, in (0, 2); 1 is safe.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs them as SIRT does, by one over their length inside the grid.
        power: that weights are raised to. 1 is the likelihood of photons alone; less respects that bright rays, too,
            are explained no better than voxels can.
        normalisation: `normalise(grid, scan, projections)` if it is known from an earlier call; with weights, that of
            the weights to their power.
        slabs: of the grid, where this process has one of them: `initial` and the volume are that one.
        progress: called with (done, total, text) after every iteration.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: shapes that disagree, non-finite input, or options out of range.
        TypeError: input that is not a tensor of floats.
    """
    check_iterations(iterations, relaxation)
    volume = start_volume(projections, slabs.grid if slabs else grid, scan, initial)
    if weights is not None:
        weights = relative_weights(weights, scan, projections, power)
    return simultaneous_steps(
        volume,
        projections,
        grid,
        scan,
        iterations=iterations,
        relaxation=relaxation,
        nonnegative=nonnegative,
        weights=weights,
        normalisation=normalisation,
        slabs=slabs,
        progress=progress,
    )
