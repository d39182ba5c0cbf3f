"""DiffusionMBIR: predictor, corrector, and one sweep of total variation on the noisy volume, in every step."""

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
def diffusion_mbir(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    denoiser: nn.Module,
    *,
    steps: int = 200,
    snr: float = 0.16,
    cg_iterations: int = 1,
    coupling: float = 0.025,
    threshold: float = 0.004,
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
    """Sample a volume that a prior of axial slices and the projections agree on, by a predictor and a corrector.

    Every step takes noise out of all slices (predictor), renews some of what is left (corrector), and brings the noisy
    volume itself, not its clean estimate as `dds` does, to the projections by a `DataStep` with total variation
    between slices.

    Args:
        projections: (V, H, W) line integrals in unit times mm, where the prior's attenuation is 0 to 1 unit.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        denoiser: predicts noise of slices or of stacks of them, see `priors.Denoiser`; on the device of the
            projections.
        steps: of the sampler, each two evaluations of the denoiser on all slices. The paper has 2000.
        snr: of the corrector, which renews twice this share of the noise; 0 leaves it and its evaluations out.
        cg_iterations: of conjugate gradients in every step.
        coupling: of the total variation between slices, see `DataStep`; 0 for none.
        threshold: differences between slices that it takes away, in unit.
        stacks: slices that the denoiser sees together, see `dds`.
        slice_noise_kind: independent noise, or correlated between slices, which jitter less.
        initial: (Z, Y, X) in unit to start from, with noise; None starts from noise alone.
        start: share of the schedule at which it starts, in (0, 1]; less keeps more of `initial`, in fewer useful steps.
        batch_size: stacks that the denoiser sees at once.
        nonnegative: set negative voxels to zero at the end.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs all alike.
        power: that weights are raised to, see `cgls`.
        seed: of all noise; step and seed determine it.
        state: as of `dds`.
        progress: called with (done, total, text) after every step.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: shapes that disagree, non-finite input, options out of range, a denoiser that does not fit, or a
            state of other settings.
        TypeError: input that is not a tensor of floats.

    Source: H. Chung, D. Ryu, M. T. McCann, M. L. Klasky, J. C. Ye, "Solving 3D inverse problems using pre-trained 2D
    diffusion models", CVPR 2023, algorithm of the fast form (variables shared by all steps). Deviations: volumes are
    divided by the signal of the schedule, which makes any schedule the variance-exploding one of the paper; the
    predictor is ancestral, which is exact for steps of any length and the paper's for short ones; the corrector is a
    Langevin step to first order, keeps the amount of noise exactly and comes at the level that the predictor reached;
    the last predictor adds no noise and has no corrector; a sweep begins with the shrunk differences of the noisy
    volume, since those of the step before have more noise, which few steps would hand on; see `DataStep`.
    """
    check_stacks(denoiser, stacks)
    check_sampling(start=start, batch_size=batch_size, snr=snr)
    check_counts(steps=steps, cg_iterations=cg_iterations)
    check_amounts(coupling=coupling, threshold=threshold)
    first = start_volume(projections, grid, scan, initial)
    settings = {"snr": snr, "cg_iterations": cg_iterations, "power": power, "coupling": coupling}
    settings |= {"threshold": threshold, "stacks": stacks, "slice_noise": slice_noise_kind}
    sampling = Sampling(
        denoiser, first, state, settings, steps=steps, start=start, seed=seed, kind=slice_noise_kind
    )
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    data = DataStep(fit, iterations=cg_iterations, coupling=coupling, threshold=threshold)
    schedule, (low, high), times = denoiser.schedule, denoiser.scale, sampling.times
    calls = 2 if snr > 0.0 else 1

    def found(noisy: Tensor, step: int, number: int) -> tuple[Tensor, Tensor]:
        """Return the clean estimate and the noise."""
        seen = stacks_of_step(stacks, denoiser, len(noisy), seed, number)
        noise = predicted_noise(noisy, step, denoiser, seen, batch_size)
        return schedule.estimate(noisy, noise, step), noise

    noisy = sampling.first_noisy(data, initial, sampling.fresh)
    for index in range(sampling.state["done"], steps):
        step, signal = times[index], 1.0
        clean, noise = found(noisy, step, calls * index)
        estimate, noisy = (clean - low) / (high - low), clean
        if index + 1 < steps:
            after = times[index + 1]
            eta, signal = schedule.ancestral(step, after), float(schedule.signal[after])
            noisy = schedule.ddim_step(clean, noise, after, sampling.fresh(2 * index + 1), eta)
            if snr > 0.0:
                clean, noise = found(noisy, after, 2 * index + 1)
                noisy = schedule.ddim_step(
                    clean, noise, after, sampling.fresh(2 * index + 2), 2.0 * snr
                )
        volume = (noisy / signal - low) / (high - low)
        data.renew(volume)
        fitted = data(volume)
        if index + 1 == steps:
            estimate = _corrected(fitted, fit)
        noisy = signal * (low + (high - low) * fitted)
        sampling.keep(index + 1, noisy, data, estimate)
        if progress is not None:
            progress(index + 1, steps, f"step {step} of the schedule")
    volume = sampling.state["estimate"].to(first)
    return volume.clamp(min=0.0) if nonnegative else volume


def _corrected(volume: Tensor, fit: LeastSquares) -> Tensor:
    """Return a volume (Z, Y, X) after a step of algebraic reconstruction; itself where no ray meets the grid."""
    curvature = fit.curvature()
    if not curvature.any():
        return volume
    return volume + fit.pull(fit.projections - fit.shown(volume)) / curvature
