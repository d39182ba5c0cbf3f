"""Patch diffusion: the prior denoises cubes that see the whole volume coarsely, conjugate gradients fit the volume."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import DataStep, LeastSquares
from diffnr_lightning.draws import generator_at
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState
from diffnr_lightning.solvers.diffusion.sampling import Sampling, check_sampling, like_weights
from diffnr_lightning.solvers.inputs import (
    Progress,
    check_amounts,
    check_counts,
    start_volume,
)
from diffnr_lightning.volume_patches import (
    TilePatch,
    cut_patches,
    patch_coordinates,
    patch_tiling,
    whole_in_patch,
)


@torch.no_grad()
def patches(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    denoiser: nn.Module,
    *,
    steps: int = 50,
    eta: float = 0.85,
    cg_iterations: int = 5,
    tilings: int = 1,
    noise: float | None = None,
    spread: float = 1.0,
    corrected: bool = False,
    initial: Tensor | None = None,
    start: float = 1.0,
    batch_size: int = 8,
    nonnegative: bool = True,
    weights: Tensor | None = None,
    power: float = 0.5,
    seed: int = 0,
    state: SamplerState | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Sample a volume that a prior of 3D patches and the projections agree on.

    Every step tiles the volume by patches from a random offset, predicts the noise in each from the patch, the whole
    noisy volume on its grid and the places of its voxels, takes it away, brings the clean estimate to the projections
    by a `DataStep`, and adds the noise of the next step. No seam is at the same place twice.

    Args:
        projections: (V, H, W) line integrals in unit times mm, where the prior's attenuation is 0 to 1 unit.
        grid: voxels of the volume that is wanted, along each axis no fewer than a patch has. The prior is told shares
            of the whole volume, so that it should have about as many voxels as those of its training.
        scan: the views, in any poses.
        denoiser: predicts noise of patches, see `priors.Denoiser`; on the device of the projections.
        steps: of the sampler, each an evaluation of the denoiser on all patches of every tiling.
        eta: share of fresh noise in that of the next step.
        cg_iterations: of conjugate gradients in every step; more fit the noise of the projections.
        tilings: of every step, whose noise is averaged.
        noise: of a ray of mean weight, in unit times mm, which holds volumes to the prior's estimate; None lets the
            few iterations alone do so.
        spread: deviation of voxels under the prior, in unit, above which no estimate is uncertain; used with `noise`.
        corrected: take the old noise from the fitted estimate instead of the prior's, see `dds`.
        initial: (Z, Y, X) in unit to start from, with noise; None starts from noise alone.
        start: share of the schedule at which it starts, in (0, 1]; less keeps more of `initial`, in fewer useful steps.
        batch_size: patches that the denoiser sees at once.
        nonnegative: set negative voxels to zero at the end.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs all alike.
        power: that weights are raised to, see `cgls`.
        seed: of all noise and offsets; step and seed determine them.
        state: as of `dds`.
        progress: called with (done, total, text) after every step.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: shapes that disagree, non-finite input, options out of range, a denoiser of slices, a volume that is
            smaller than a patch, or a state of other settings.
        TypeError: input that is not a tensor of floats.

    Source: B. Yang et al., "Local patches meet global context: scalable 3D diffusion priors for computed tomography
    reconstruction", arXiv 2512.18161: one tiling a step, by patches side by side. Deviations: patches at the faces are
    moved inside the volume, as in training, where the paper pads it with zeros; the data step and the noise of the next
    step are those of `dds`, as the paper's number of conjugate gradients is not known; `tilings`.
    """
    if denoiser.dimensions != 3:
        raise ValueError(
            f"the denoiser is one of {denoiser.dimensions} dimensions; one of patches of volumes is expected."
        )
    size = denoiser.patch
    if min(grid.shape) < size:
        raise ValueError(
            f"the volume has the shape {tuple(grid.shape)} and a patch of the denoiser an edge of {size} voxels; no "
            "edge shorter than that is expected."
        )
    check_sampling(eta=eta, start=start, spread=spread, batch_size=batch_size)
    check_counts(steps=steps, cg_iterations=cg_iterations, tilings=tilings)
    check_amounts(noise=noise or 0.0)
    first = start_volume(projections, grid, scan, initial)
    held = {"noise": noise, "spread": spread, "corrected": corrected}
    settings = {"eta": eta, "cg_iterations": cg_iterations, "power": power, "tilings": tilings}
    settings |= {"patch": size, **held}
    sampling = Sampling(denoiser, first, state, settings, steps=steps, start=start, seed=seed)
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    data = DataStep(fit, iterations=cg_iterations)

    def find(noisy: Tensor, index: int) -> Tensor:
        generator = generator_at(seed, index)
        offsets = torch.randint(size, (tilings, 3), generator=generator).tolist()
        found, step = torch.zeros_like(noisy), sampling.times[index]
        for offset in offsets:
            tiling = patch_tiling(noisy.shape, size, offset)
            found += noise_in_patches(noisy, step, denoiser, tiling, batch_size)
        return found / tilings

    volume = sampling.volume(find, data, initial=initial, eta=eta, progress=progress, **held)
    return volume.clamp(min=0.0) if nonnegative else volume


def noise_in_patches(
    noisy: Tensor, step: int, denoiser: nn.Module, tiling: list[TilePatch], batch_size: int
) -> Tensor:
    """Return the noise (Z, Y, X) that a denoiser finds in the patches of a tiling.

    Args:
        noisy: (Z, Y, X), on the denoiser's scale; of any precision, which is that of the noise.
        step: of the schedule.
        denoiser: of patches, see `priors.Denoiser`.
        tiling: see `patch_tiling`.
        batch_size: patches at once.
    """
    size, found = denoiser.patch, torch.empty_like(noisy)
    seen = like_weights(noisy, denoiser)
    whole = whole_in_patch(seen[None, None], size)
    for begin in range(0, len(tiling), batch_size):
        batch = tiling[begin : begin + batch_size]
        corner = torch.tensor([tile.corner for tile in batch], device=noisy.device)
        told = {
            "context": whole.expand(len(batch), -1, -1, -1, -1),
            "coordinates": patch_coordinates(corner, noisy.shape, size),
        }
        parts = denoiser.predict(cut_patches(seen, corner, size), step, told)
        for tile, part in zip(batch, parts, strict=True):
            found[tile.owned] = part[0][tile.inside]
    return found
