"""DiffusionBlend: a prior of stacks of neighbouring slices, whose stacks differ from step to step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.diffusion.dds import dds


def blend(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    denoiser: nn.Module,
    *,
    jumping: bool = True,
    steps: int = 200,
    coupling: float = 2.5e-6,
    threshold: float = 0.05,
    **options: Any,
) -> Tensor:
    """Sample a volume that a prior of stacks of slices and the projections agree on.

    Args:
        projections: (V, H, W) line integrals in unit times mm, where the prior's attenuation is 0 to 1 unit.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        denoiser: of stacks of slices, see `priors.Denoiser`; where `jumping`, one that was told their gap in training.
        jumping: DiffusionBlend++: in every second step, the first among them, the slices of a stack lie as far apart
            as a stack has slices, in the others side by side from a random offset. False is DiffusionBlend: each
            slice in the centre of its neighbours, which takes as many evaluations as there are slices.
        steps: of the sampler.
        coupling: of the total variation between slices, see `DataStep`; as little as in the paper, since the prior
            knows neighbours.
        threshold: differences between slices that it takes away, in unit.
        options: further ones of `dds`, all but `stacks`.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: as `dds`, or a denoiser of single slices.
        TypeError: input that is not a tensor of floats.

    Source: B. Song, J. Hu, Z. Luo, J. Fessler, L. Shen, "DiffusionBlend: learning 3D image prior through position-aware
    diffusion score blending for 3D computed tomography reconstruction", NeurIPS 2024. Deviations: those of `dds`.
    """
    if denoiser.channels < 2:
        raise ValueError(
            f"the denoiser sees {denoiser.channels} slice at once; one of stacks of slices is expected, or `dds`."
        )
    stacks = "alternating" if jumping else "centred"
    return dds(
        projections,
        grid,
        scan,
        denoiser,
        steps=steps,
        coupling=coupling,
        threshold=threshold,
        stacks=stacks,
        **options,
    )
