"""Decomposed diffusion sampling (DDS): the prior denoises slices, conjugate gradients fit the whole volume."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import DataStep, LeastSquares
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState
from diffnr_lightning.solvers.diffusion.sampling import Sampling, check_sampling
from diffnr_lightning.solvers.diffusion.slice_noise import NoiseKind
from diffnr_lightning.solvers.diffusion.slice_stacks import (
    StackKind,
    check_stacks,
    predicted_noise,
    stacks_of_step,
)
from diffnr_lightning.solvers.inputs import (
    Progress,
    check_amounts,
    check_counts,
    start_volume,
)


@torch.no_grad()
def dds(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    denoiser: nn.Module,
    *,
    steps: int = 50,
    eta: float = 0.85,
    cg_iterations: int = 5,
    coupling: float = 0.025,
    threshold: float = 0.004,
    noise: float | None = None,
    spread: float = 1.0,
    corrected: bool = False,
    slicewise: bool = False,
    stacks: StackKind | None = None,
    slice_noise_kind: NoiseKind = "independent",
    initial: Tensor | None = None,
    start: float = 1.0,
    batch_size: int = 16,
    nonnegative: bool = True,
    weights: Tensor | None = None,
    power: float = 0.5,
    seed: int = 0,
    state: SamplerState | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Sample a volume that a prior of axial slices and the projections agree on.

    Every step predicts the noise of all slices, takes it away, brings the clean estimate to the projections by a
    `DataStep` with total variation between slices, and adds the noise of the next step. Without coupling this is the
    method for slices, fitted jointly.

    Args:
        projections: (V, H, W) line integrals in unit times mm, where the prior's attenuation is 0 to 1 unit.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        denoiser: predicts noise of slices or of stacks of them, see `priors.Denoiser`; on the device of the
            projections.
        steps: of the sampler, each an evaluation of the denoiser on all slices.
        eta: share of fresh noise in that of the next step. The paper has 0.15, 0.5 and 0.8 for 20, 50 and 100 steps of
            slices, 0.85 for volumes.
        cg_iterations: of conjugate gradients in every step; more fit the noise of the projections.
        coupling: of the total variation between slices, see `DataStep`; 0 for none.
        threshold: differences between slices that it takes away, in unit. The paper has ten times as much for limited
            angles.
        noise: of a ray of mean weight, in unit times mm, which holds volumes to the prior's estimate; None lets the
            few iterations alone do so, as the paper does where the projections have no noise.
        spread: deviation of voxels under the prior, in unit, above which no estimate is uncertain; used with `noise`.
        corrected: take the old noise from the fitted estimate instead of the prior's; steps then follow the posterior
            whatever their number, where the paper's fit the projections more in every step.
        slicewise: solve each slice by conjugate gradients of its own, as the paper's method for slices does; for
            parallel beams whose rows see a slice each, without coupling.
        stacks: slices that the denoiser sees together: single, centred (all neighbours of every slice), adjacent (side
            by side, from a random offset) or alternating (jumping and adjacent in turn); None takes single ones where
            the denoiser accepts them, adjacent ones otherwise.
        slice_noise_kind: independent noise, or correlated between slices, which jitter less.
        initial: (Z, Y, X) in unit to start from, with noise; None starts from noise alone.
        start: share of the schedule at which it starts, in (0, 1]; less keeps more of `initial`, in fewer useful steps.
        batch_size: stacks that the denoiser sees at once.
        nonnegative: set negative voxels to zero at the end.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs all alike.
        power: that weights are raised to, see `cgls`.
        seed: of all noise; step and seed determine it.
        state: filled after every step, before `progress` is called; with the state of a killed call, for instance from
            `torch.load`, the sampler goes on and ends with an equal volume. Its `estimate` is a preview.
        progress: called with (done, total, text) after every step.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: shapes that disagree, non-finite input, options out of range, a denoiser that does not fit, or a
            state of other settings.
        TypeError: input that is not a tensor of floats.

    Source: H. Chung, S. Lee, J. C. Ye, "Decomposed diffusion sampler for accelerating large-scale inverse problems",
    ICLR 2024, algorithm for 3D. Deviations: see `DataStep`; the last step but one keeps its noise. `noise` follows
    Y. Zhu et al., "Denoising diffusion models for plug-and-play image restoration", CVPRW 2023 (DiffPIR), bounded as in
    J. Song et al., "Pseudoinverse-guided diffusion models for inverse problems", ICLR 2023.
    """
    check_stacks(denoiser, stacks)
    check_sampling(eta=eta, start=start, spread=spread, batch_size=batch_size)
    check_counts(steps=steps, cg_iterations=cg_iterations)
    check_amounts(coupling=coupling, threshold=threshold, noise=noise or 0.0)
    first = start_volume(projections, grid, scan, initial)
    settings = {"eta": eta, "cg_iterations": cg_iterations, "power": power, "coupling": coupling}
    settings |= {"threshold": threshold, "noise": noise, "spread": spread, "corrected": corrected}
    settings |= {"slicewise": slicewise, "stacks": stacks, "slice_noise": slice_noise_kind}
    sampling = Sampling(
        denoiser, first, state, settings, steps=steps, start=start, seed=seed, kind=slice_noise_kind
    )
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    data = DataStep(
        fit, iterations=cg_iterations, coupling=coupling, threshold=threshold, slicewise=slicewise
    )

    def find(noisy: Tensor, index: int) -> Tensor:
        seen = stacks_of_step(stacks, denoiser, len(noisy), seed, index)
        return predicted_noise(noisy, sampling.times[index], denoiser, seen, batch_size)

    held = {"noise": noise, "spread": spread, "corrected": corrected}
    volume = sampling.volume(find, data, initial=initial, eta=eta, progress=progress, **held)
    return volume.clamp(min=0.0) if nonnegative else volume
