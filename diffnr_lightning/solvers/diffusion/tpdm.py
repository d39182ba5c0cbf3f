"""TPDM: two perpendicular priors of slices, axial ones that are held to the projections and coronal ones, in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import DataStep, LeastSquares
from diffnr_lightning.draws import generator_at
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
def tpdm(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    denoiser: nn.Module,
    *,
    steps: int = 200,
    every: float = 2.7,
    snr: float = 0.16,
    cg_iterations: int = 1,
    noise: float | None = None,
    spread: float = 1.0,
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
    """Sample a volume that a prior of axial slices, a prior of coronal slices and the projections agree on.

    Every step renews some of the noise (corrector) and takes some out (predictor), in axial slices or in coronal ones.
    The clean estimates of axial ones are brought to the projections by a `DataStep`; the last step is axial.

    Args:
        projections: (V, H, W) line integrals in unit times mm, where the prior's attenuation is 0 to 1 unit.
        grid: voxels of the volume that is wanted; it need not be a cube.
        scan: the views, in any poses.
        denoiser: predicts noise of slices of both planes, or of stacks of them, see `priors.Denoiser`; on the device of
            the projections.
        steps: of the sampler, each two evaluations of the denoiser on all slices of a plane. The paper has 2000.
        every: one step in so many is coronal: in turn where it is a whole number, at random otherwise.
        snr: of the corrector, which renews twice this share of the noise; 0 leaves it and its evaluations out.
        cg_iterations: of conjugate gradients after each evaluation on axial slices.
        noise: of a ray of mean weight, in unit times mm, see `dds`; None lets the few iterations alone hold the prior.
        spread: deviation of voxels under the prior, in unit, see `dds`.
        stacks: slices that the denoiser sees together, see `dds`.
        slice_noise_kind: independent noise, or correlated between the slices of the plane.
        initial: (Z, Y, X) in unit to start from, with noise; None starts from noise alone.
        start: share of the schedule at which it starts, in (0, 1]; less keeps more of `initial`, in fewer useful steps.
        batch_size: stacks that the denoiser sees at once.
        nonnegative: set negative voxels to zero at the end.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs all alike.
        power: that weights are raised to, see `cgls`.
        seed: of all noise and of the planes; step and seed determine them.
        state: as of `dds`.
        progress: called with (done, total, text) after every evaluation.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: shapes that disagree, non-finite input, options out of range, a denoiser that does not fit, or a
            state of other settings.
        TypeError: input that is not a tensor of floats.

    Source: S. Lee, H. Chung, M. Park, J. Park, W.-S. Ryu, J. C. Ye, "Improving 3D imaging with pre-trained
    perpendicular 2D diffusion models", ICCV 2023. Deviations: one network for both planes; iterations of conjugate
    gradients from the clean estimate take the place of the gradient of the norm of the residual through the network,
    whose length depends on the slices of a batch, and which a cone beam would take through all slices at once;
    predictor and corrector are those of `diffusion_mbir`; the predictor's fresh noise is kept, where the released loop
    goes on with its mean, which has less noise than the equation; the last step is axial.
    """
    check_stacks(denoiser, stacks)
    check_sampling(start=start, spread=spread, batch_size=batch_size, snr=snr)
    check_counts(steps=steps, cg_iterations=cg_iterations)
    check_amounts(noise=noise or 0.0)
    if not 1.0 < every < math.inf:
        raise ValueError(f"every is {every}; a number above 1 is expected.")
    first = start_volume(projections, grid, scan, initial)
    settings = {"every": every, "snr": snr, "cg_iterations": cg_iterations, "power": power}
    settings |= {"noise": noise, "spread": spread, "stacks": stacks}
    settings |= {"slice_noise": slice_noise_kind}
    sampling = Sampling(
        denoiser, first, state, settings, steps=steps, start=start, seed=seed, kind=slice_noise_kind
    )
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    data = DataStep(fit, iterations=cg_iterations)
    coronal = [_is_coronal(every, seed, index) for index in range(steps - 1)] + [False]
    shares = [denoiser.schedule.ancestral(*pair) for pair in pairwise(sampling.times)] + [0.0]
    calls = 1
    if snr > 0.0:
        # A corrector is a step to the same level.
        calls = 2
        sampling.times = [step for step in sampling.times for _ in range(calls)]
        shares = [share for predictor in shares for share in (2.0 * snr, predictor)]
    planes = [plane for plane in coronal for _ in range(calls)]
    turns = _turns(planes)

    def turned(volume: Tensor, index: int) -> Tensor:
        """Return a volume with the slices of the plane of an evaluation in front, or back."""
        return volume.transpose(0, 1).contiguous() if planes[index] else volume

    def find(noisy: Tensor, index: int) -> Tensor:
        slices = turned(noisy, index)
        seen = stacks_of_step(stacks, denoiser, len(slices), seed, index, turns[index])
        step = sampling.times[index]
        return turned(predicted_noise(slices, step, denoiser, seen, batch_size), index)

    def fresh(number: int) -> Tensor:
        index = max(number - 1, 0)
        return turned(sampling.fresh(number, turned(first, index)), index)

    volume = sampling.volume(
        find,
        data,
        initial=initial,
        eta=shares,
        noise=noise,
        spread=spread,
        fitted=[not plane for plane in planes],
        fresh=fresh,
        progress=progress,
    )
    return volume.clamp(min=0.0) if nonnegative else volume


def _turns(planes: Sequence[bool]) -> list[int]:
    """Return the number of every evaluation among those of its plane."""
    return [list(planes[:index]).count(plane) for index, plane in enumerate(planes)]


def _is_coronal(every: float, seed: int, index: int) -> bool:
    """Return whether a step is coronal."""
    if every == int(every):
        return index % int(every) == int(every) - 1
    generator = generator_at(seed, index)
    return float(torch.rand((), generator=generator)) < 1.0 / every
