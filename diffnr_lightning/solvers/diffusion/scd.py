"""Steerable conditional diffusion (SCD): a denoiser that is adapted to the projections of each batch of slices."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import DataStep, LeastSquares
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.diffusion.adaptation import SlabLoss, check_adaptation, side_by_side
from diffnr_lightning.solvers.diffusion.lora import adapted
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState, begun
from diffnr_lightning.solvers.diffusion.sampling import Sampling, check_sampling
from diffnr_lightning.solvers.diffusion.slice_noise import NoiseKind
from diffnr_lightning.solvers.diffusion.slice_stacks import predicted_noise, single_slices
from diffnr_lightning.solvers.initial import first_volume
from diffnr_lightning.solvers.inputs import Progress, check_amounts, check_counts, start_volume

# Steps at the end of the schedule before all of which the denoiser is adapted.
LAST = 4


@torch.no_grad()
def scd(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    denoiser: nn.Module,
    *,
    steps: int = 100,
    eta: float = 0.2,
    cg_iterations: int = 3,
    proximity: float = 3e-4,
    rank: int = 12,
    updates: int = 18,
    rate: float = 3e-4,
    every: int = 5,
    slices: int = 16,
    variation: float = 1.5e-3,
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
    """Sample a volume by a prior of something else, which LoRA adapts to the projections of each batch of slices.

    Every batch has a LoRA of its own, which is trained before every few steps: on what is left unexplained of the rays
    through the batch after a few conjugate gradients, and on their total variation. The adapted denoiser says what is
    clean, and the one without LoRA the noise that is kept. The denoiser is left as it was.

    Args:
        projections: (V, H, W) line integrals in unit times mm, where the prior's attenuation is 0 to 1 unit.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        denoiser: predicts noise of single slices, see `priors.Denoiser`, such as one of ellipses.
        steps: of the sampler.
        eta: share of the noise of an ancestral step that is fresh, as in DDIM; 1 is that of DDPM.
        cg_iterations: of conjugate gradients in every step and update.
        proximity: of volumes to what the denoiser returns, see `DataStep`.
        rank: of a LoRA.
        updates: of it before a step.
        rate: of these.
        every: steps from one adaptation to the next; the last four steps are all adapted for.
        slices: neighbouring ones of a batch.
        variation: weight of the mean total variation in slices beside the data term, in which the projections count as
            if ``A^T W A`` had the largest eigenvalue 1.
        slice_noise_kind: as of `dds`.
        initial: (Z, Y, X) in unit to start from, with noise; None starts from noise alone.
        start: share of the schedule at which it starts, in (0, 1]; less keeps more of `initial`.
        batch_size: slices that the denoiser sees at once where it is not trained.
        nonnegative: set negative voxels to zero at the end.
        weights: (V, H, W) statistical weights of the rays; None weighs all alike.
        power: that weights are raised to, see `cgls`.
        seed: of all noise and first weights.
        state: as of `dds`; it holds every LoRA with its moments.
        progress: called with (done, total, text) after every step.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ImportError: peft is not installed.
        ValueError: shapes that disagree, non-finite input, options out of range, a denoiser that does not fit, or a
            state of other settings.
        TypeError: input that is not a tensor of floats.

    Source: R. Barbano, A. Denker, H. Chung et al., "Steerable conditional diffusion for out-of-distribution adaptation
    in medical image reconstruction", IEEE TMI 2025; numbers are those of the released example (60 views, 1 % noise),
    of which 0.2, the weight of the data, is a proximity of 3e-4 where the projections count as above, and 1e-3, that of
    the variation, is 1.5e-3. Deviations: batches of slices have a LoRA together, which are compared where the
    other slices are held; conjugate gradients fit the whole volume; their result is returned and not what the denoiser
    says last; no dropout.
    """
    check_adaptation(denoiser, rate=rate, updates=updates, slices=slices)
    check_sampling(eta=eta, start=start, spread=1.0, batch_size=batch_size)
    check_counts(steps=steps, cg_iterations=cg_iterations, every=every)
    check_amounts(proximity=proximity, variation=variation)
    # In the first step, what other slices are held at where there is nothing to start from.
    first = (start_volume if begun(state) else first_volume)(projections, grid, scan, initial)
    settings = {"eta": eta, "cg_iterations": cg_iterations, "power": power, "proximity": proximity}
    settings |= {"rank": rank, "updates": updates, "rate": rate, "every": every, "slices": slices}
    settings |= {"variation": variation, "slice_noise": slice_noise_kind}
    sampling = Sampling(
        denoiser, first, state, settings, steps=steps, start=start, seed=seed, kind=slice_noise_kind
    )
    state, times = sampling.state, sampling.times
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    data = DataStep(fit, iterations=cg_iterations)
    options = {"iterations": cg_iterations, "proximity": proximity, "variation": variation}
    loss = SlabLoss(fit, data.scale, denoiser, **options)
    places = side_by_side(grid.shape[0], slices)

    with adapted(denoiser, rank, seed) as adapter:
        untrained: dict[str, Any] = {"lora": adapter.values(), "moments": None}
        batches = [dict(kept) for kept in state.get("batches", [untrained] * len(places))]

        def noise_of(noisy: Tensor, index: int) -> Tensor:
            seen = single_slices(len(noisy))
            return predicted_noise(noisy, times[index], denoiser, seen, batch_size)

        def find(noisy: Tensor, index: int) -> Tensor:
            tuned = index % every == 0 or index >= steps - LAST
            if tuned:
                loss.hold(state["estimate"].to(first) if index else first)
            found = []
            for place, batch in zip(places, batches, strict=True):
                adapter.load(batch["lora"])
                if tuned:
                    batch["moments"] = adapter.tune(
                        lambda _, place=place: loss(noisy, times[index], place),
                        updates=updates,
                        rate=rate,
                        moments=batch["moments"],
                    )
                    batch["lora"] = adapter.values()
                found.append(noise_of(noisy[place], index))
            return torch.cat(found)

        def unadapted(noisy: Tensor, index: int) -> Tensor:
            with adapter.left_aside():
                return noise_of(noisy, index)

        volume = sampling.volume(
            find,
            data,
            initial=initial,
            eta=[eta * denoiser.schedule.ancestral(*pair) for pair in pairwise(times)],
            proximity=proximity,
            carried=unadapted,
            kept=lambda: {"batches": [dict(batch) for batch in batches]},
            progress=progress,
        )
    return volume.clamp(min=0.0) if nonnegative else volume
