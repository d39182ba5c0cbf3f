"""The steps of samplers: take noise away, fit what is left to the projections, add the noise of the next step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import DataStep
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState
from diffnr_lightning.solvers.problem import Progress


@torch.no_grad()
def denoising_steps(
    find: Callable[[Tensor, int], Tensor],
    fresh: Callable[[int], Tensor],
    denoiser: nn.Module,
    data: DataStep,
    times: Sequence[int],
    state: SamplerState,
    *,
    initial: Tensor | None,
    eta: float | Sequence[float],
    noise: float | None = None,
    spread: float = 1.0,
    corrected: bool = False,
    fitted: Sequence[bool] | None = None,
    proximity: float = 0.0,
    carried: Callable[[Tensor, int], Tensor] | None = None,
    kept: Callable[[], dict[str, Any]] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return the fitted estimate of the last step, (Z, Y, X) in unit.

    Args:
        find: of a noisy volume (Z, Y, X) on the denoiser's scale and the number of the step, the noise in it.
        fresh: of the number of a draw, noise (Z, Y, X) of variance 1.
        denoiser: whose schedule and scale are taken.
        data: brings estimates to the projections.
        times: steps of the schedule, the noisiest first; one that follows itself renews noise.
        state: see `sampler_state`; `resumed` with the settings.
        initial: (Z, Y, X) in unit to start from; None starts from noise alone.
        eta: share of fresh noise in that of the next step, one or one for each step.
        noise: of a ray of mean weight, in unit times mm, which holds volumes to the prior's estimate; None does not.
        spread: deviation of voxels under the prior, in unit, above which no estimate is uncertain; used with `noise`.
        corrected: take the old noise from the fitted estimate instead of the prior's.
        fitted: whether the estimate of a step is brought to the projections; None brings each.
        proximity: of volumes to the prior's estimate, see `DataStep`, where `noise` does not say it.
        carried: of a noisy volume and the number of the step, the noise that goes on to the next step; None takes what
            was found.
        kept: what else goes into the state after every step.
        progress: called with (done, total, text) after every step.

    Source: see `dds`.
    """
    schedule, (low, high) = denoiser.schedule, denoiser.scale
    noisy = first_noisy(fresh, denoiser, data, times[0], state, initial)
    for index in range(state["done"], len(times)):
        step = times[index]
        old = find(noisy, index)
        estimate = (schedule.estimate(noisy, old, step) - low) / (high - low)
        if fitted is None or fitted[index]:
            if noise is not None:
                deviation = float(schedule.deviation[step] / schedule.signal[step]) / (high - low)
                proximity = data.proximity(noise, (deviation**-2 + spread**-2) ** -0.5)
            estimate = data(estimate, proximity)
        if index + 1 < len(times):
            clean = low + (high - low) * estimate
            if corrected:
                old = schedule.noise(noisy, clean, step)
            elif carried is not None:
                old = carried(noisy, index)
            share = eta if isinstance(eta, (int, float)) else eta[index]
            noisy = schedule.ddim_step(clean, old, times[index + 1], fresh(index + 1), share)
        keep(state, index + 1, noisy, data, estimate, **({} if kept is None else kept()))
        if progress is not None:
            progress(index + 1, len(times), f"step {step} of the schedule")
    return state["estimate"].to(data.back)


def first_noisy(
    fresh: Callable[[int], Tensor],
    denoiser: nn.Module,
    data: DataStep,
    step: int,
    state: SamplerState,
    initial: Tensor | None,
) -> Tensor:
    """Return the noisy volume (Z, Y, X) to go on with; `data` goes on with what it had. See `denoising_steps`."""
    if state["done"] > 0:
        stored = (state[name].to(data.back) for name in ("noisy", "steep", "dual"))
        noisy, data.steep, data.dual = stored
        return noisy
    low, high = denoiser.scale
    clean = torch.zeros_like(data.back) if initial is None else low + (high - low) * initial
    return denoiser.schedule.add_noise(clean, fresh(0), step)


def keep(
    state: SamplerState, done: int, noisy: Tensor, data: DataStep, estimate: Tensor, **more: Any
) -> None:
    """Fill the state after a step, for `first_noisy`."""
    state.update(
        done=done, noisy=noisy, steep=data.steep, dual=data.dual, estimate=estimate, **more
    )


def check_sampling(
    *, start: float, batch_size: int, eta: float = 0.0, spread: float = 1.0, snr: float = 0.0
) -> None:
    """Refuse options that nothing can be sampled with.

    Raises:
        ValueError: naming the first such one.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta is {eta}; a number from 0 to 1 is expected.")
    if not 0.0 < start <= 1.0:
        raise ValueError(f"start is {start}; a share of the schedule in (0, 1] is expected.")
    if not spread > 0.0:
        raise ValueError(f"spread is {spread}; a positive number is expected.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least one is expected.")
    if not 0.0 <= snr <= 0.5:
        raise ValueError(f"snr is {snr}; a number from 0 to 0.5 is expected.")
