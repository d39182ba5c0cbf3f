"""Deep diffusion image prior in 3D (DDIP3D): a denoiser that is adapted to the projections of one volume."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import DataStep, LeastSquares
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.diffusion.adaptation import SlabLoss, check_adaptation, drawn_slabs
from diffnr_lightning.solvers.diffusion.lora import adapted
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState, begun
from diffnr_lightning.solvers.diffusion.sampling import Sampling, check_sampling
from diffnr_lightning.solvers.diffusion.slice_noise import NoiseKind
from diffnr_lightning.solvers.diffusion.slice_stacks import predicted_noise, single_slices
from diffnr_lightning.solvers.initial import first_volume
from diffnr_lightning.solvers.inputs import Progress, check_amounts, check_counts, start_volume


@torch.no_grad()
def ddip3d(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    denoiser: nn.Module,
    *,
    steps: int = 50,
    eta: float = 0.85,
    cg_iterations: int = 5,
    coupling: float = 0.0,
    threshold: float = 0.02,
    rank: int = 4,
    updates: int = 10,
    rate: float = 1e-3,
    slices: int = 3,
    tuning_iterations: int = 1,
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
    """Sample a volume by a prior of something else, which one LoRA for all slices adapts to the projections.

    The steps are those of `dds`, and before each of them LoRA and biases of the denoiser are trained on slabs of
    slices: on what these leave unexplained of the rays through them after `tuning_iterations` of conjugate gradients.
    The denoiser is left as it was.

    Args:
        projections: (V, H, W) line integrals in unit times mm, where the prior's attenuation is 0 to 1 unit.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        denoiser: predicts noise of single slices, see `priors.Denoiser`, such as one of ellipses.
        steps: of the sampler.
        eta: share of fresh noise in that of the next step.
        cg_iterations: of conjugate gradients in every step.
        coupling: of the total variation between slices, see `DataStep`; 0 for none. The paper's variant with it has
            0.00125.
        threshold: differences between slices that it takes away, in unit.
        rank: of the LoRA.
        updates: of it before every step but that at the end of the schedule.
        rate: of these.
        slices: neighbouring ones, in a random place, of an update.
        tuning_iterations: of conjugate gradients on what the denoiser returns, in an update.
        slice_noise_kind: as of `dds`.
        initial: (Z, Y, X) in unit to start from, with noise; None takes that of `initial_volume`.
        start: share of the schedule at which it starts, in (0, 1].
        batch_size: slices that the denoiser sees at once.
        nonnegative: set negative voxels to zero at the end.
        weights: (V, H, W) statistical weights of the rays; None weighs all alike.
        power: that weights are raised to, see `cgls`.
        seed: of all noise, slabs and first weights.
        state: as of `dds`; it holds the LoRA.
        progress: called with (done, total, text) after every step.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ImportError: peft is not installed.
        ValueError: shapes that disagree, non-finite input, options out of range, a denoiser that does not fit, or a
            state of other settings.
        TypeError: input that is not a tensor of floats.

    Source: H. Chung, J. C. Ye, "Deep diffusion image prior for efficient OOD adaptation in 3D inverse problems",
    ECCV 2024. Deviations: those of `dds`; slices of an update are neighbours in all cases and are compared where the
    others are held, so that any geometry serves; biases are trained where a layer has LoRA, not in normalisations; no
    dropout and no weight decay; with total variation one sweep of ADMM in a step, of the paper's five, and none in an
    update.
    """
    check_adaptation(denoiser, rate=rate, updates=updates, slices=slices)
    check_sampling(eta=eta, start=start, spread=1.0, batch_size=batch_size)
    check_counts(steps=steps, cg_iterations=cg_iterations)
    check_amounts(coupling=coupling, threshold=threshold, tuning_iterations=tuning_iterations)
    first = (start_volume if begun(state) else first_volume)(projections, grid, scan, initial)
    settings = {"eta": eta, "cg_iterations": cg_iterations, "power": power, "coupling": coupling}
    settings |= {"threshold": threshold, "rank": rank, "updates": updates, "rate": rate}
    settings |= {"slices": slices, "tuning_iterations": tuning_iterations}
    settings |= {"slice_noise": slice_noise_kind}
    sampling = Sampling(
        denoiser, first, state, settings, steps=steps, start=start, seed=seed, kind=slice_noise_kind
    )
    state = sampling.state
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    data = DataStep(fit, iterations=cg_iterations, coupling=coupling, threshold=threshold)
    loss = SlabLoss(fit, data.scale, denoiser, iterations=tuning_iterations)

    with adapted(denoiser, rank, seed, biases=True) as adapter:
        if "lora" in state:
            adapter.load(state["lora"])

        def find(noisy: Tensor, index: int) -> Tensor:
            step = sampling.times[index]
            if step > 0:
                places = drawn_slabs(len(noisy), slices, updates, seed, index)
                loss.hold(state["estimate"].to(first) if index else first)
                adapter.tune(
                    lambda number: loss(noisy, step, places[number]), updates=updates, rate=rate
                )
            return predicted_noise(noisy, step, denoiser, single_slices(len(noisy)), batch_size)

        volume = sampling.volume(
            find,
            data,
            initial=first,
            eta=eta,
            kept=lambda: {"lora": adapter.values()},
            progress=progress,
        )
    return volume.clamp(min=0.0) if nonnegative else volume
