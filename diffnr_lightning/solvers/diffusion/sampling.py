"""What samplers share: the steps of the schedule, the noise that they draw, and how a killed one goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import DataStep
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState, resumed
from diffnr_lightning.solvers.diffusion.slice_noise import NoiseKind, slice_noise
from diffnr_lightning.solvers.inputs import Progress


class Sampling:
    """The steps of a sampler: take noise away, fit what is left to the projections, add the noise of the next step.

    Args:
        denoiser: whose schedule and scale are taken.
        like: (Z, Y, X), whose shape, dtype and device the volumes have.
        state: to go on from and to fill, see `sampler_state`; None for a new one.
        settings: what the volume depends on beside shape, steps of the schedule and seed.
        steps: of the sampler.
        start: share of the schedule at which it starts, in (0, 1].
        seed: of all noise.
        kind: of all noise, see `slice_noise`.

    Attributes:
        times: steps of the schedule, the noisiest first; one that follows itself renews noise.
        state: the one that is filled.

    Raises:
        ValueError: no step, more than the schedule has there, or a state of other settings.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        like: Tensor,
        state: SamplerState | None,
        settings: dict[str, Any],
        *,
        steps: int,
        start: float,
        seed: int,
        kind: NoiseKind = "independent",
    ) -> None:
        self.denoiser, self.like, self.seed, self.kind = denoiser, like, seed, kind
        self.times = sampled_times(denoiser, steps, start)
        told = {"shape": list(like.shape), "times": self.times, "seed": seed}
        self.state = resumed(state, told | settings)

    def fresh(self, number: int, like: Tensor | None = None) -> Tensor:
        """Return the noise of variance 1 of a draw, for volumes or for another tensor (Z, Y, X)."""
        return slice_noise(self.kind, self.like if like is None else like, self.seed, number)

    @torch.no_grad()
    def volume(
        self,
        find: Callable[[Tensor, int], Tensor],
        data: DataStep,
        *,
        initial: Tensor | None,
        eta: float | Sequence[float],
        noise: float | None = None,
        spread: float = 1.0,
        corrected: bool = False,
        fitted: Sequence[bool] | None = None,
        proximity: float = 0.0,
        fresh: Callable[[int], Tensor] | None = None,
        carried: Callable[[Tensor, int], Tensor] | None = None,
        kept: Callable[[], dict[str, Any]] | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Return the fitted estimate of the last step, (Z, Y, X) in unit.

        Args:
            find: of a noisy volume (Z, Y, X) on the denoiser's scale and the number of the step, the noise in it.
            data: brings estimates to the projections.
            initial: (Z, Y, X) in unit to start from; None starts from noise alone.
            eta: share of fresh noise in that of the next step, one or one for each step.
            noise: of a ray of mean weight, in unit times mm, which holds volumes to the prior's estimate; None does
                not.
            spread: deviation of voxels under the prior, in unit, above which no estimate is uncertain; used with
                `noise`.
            corrected: take the old noise from the fitted estimate instead of the prior's.
            fitted: whether the estimate of a step is brought to the projections; None brings each.
            proximity: of volumes to the prior's estimate, see `DataStep`, where `noise` does not say it.
            fresh: of the number of a draw, noise (Z, Y, X); None takes that of `Sampling.fresh`.
            carried: of a noisy volume and the number of the step, the noise that goes on to the next step; None takes
                what was found.
            kept: what else goes into the state after every step.
            progress: called with (done, total, text) after every step.

        Source: see `dds`.
        """
        schedule, (low, high) = self.denoiser.schedule, self.denoiser.scale
        times, fresh = self.times, fresh or self.fresh
        noisy = self.first_noisy(data, initial, fresh)
        for index in range(self.state["done"], len(times)):
            step = times[index]
            old = find(noisy, index)
            estimate = (schedule.estimate(noisy, old, step) - low) / (high - low)
            if fitted is None or fitted[index]:
                if noise is not None:
                    deviation = float(schedule.deviation[step] / schedule.signal[step])
                    deviation /= high - low
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
            self.keep(index + 1, noisy, data, estimate, **({} if kept is None else kept()))
            if progress is not None:
                progress(index + 1, len(times), f"step {step} of the schedule")
        return self.state["estimate"].to(data.back)

    def first_noisy(
        self, data: DataStep, initial: Tensor | None, fresh: Callable[[int], Tensor]
    ) -> Tensor:
        """Return the noisy volume (Z, Y, X) to go on with; `data` goes on with what it had. See `volume`."""
        if self.state["done"] > 0:
            stored = (self.state[name].to(data.back) for name in ("noisy", "steep", "dual"))
            noisy, data.steep, data.dual = stored
            return noisy
        low, high = self.denoiser.scale
        clean = torch.zeros_like(data.back)
        if initial is not None:
            clean = low + (high - low) * initial.to(data.back).contiguous()
        return self.denoiser.schedule.add_noise(clean, fresh(0), self.times[0])

    def keep(self, done: int, noisy: Tensor, data: DataStep, estimate: Tensor, **more: Any) -> None:
        """Fill the state after a step, for `first_noisy`."""
        kept = {"noisy": noisy, "steep": data.steep, "dual": data.dual, "estimate": estimate}
        self.state.update(done=done, **kept, **more)


def sampled_times(denoiser: nn.Module, steps: int, start: float) -> list[int]:
    """Return the steps of the schedule that a sampler takes, the noisiest first.

    Args:
        denoiser: whose schedule it is.
        steps: how many.
        start: share of the schedule at which they start, in (0, 1].

    Raises:
        ValueError: no step, or more than the schedule has there.
    """
    schedule = denoiser.schedule
    return schedule.timesteps(steps, max(round(start * schedule.steps), 1))


def like_weights(noisy: Tensor, denoiser: nn.Module) -> Tensor:
    """Return a noisy volume (Z, Y, X) in the dtype of a denoiser's weights; as it is where it has none."""
    weights = denoiser.parameters() if isinstance(denoiser, nn.Module) else ()
    return noisy.to(next((weight.dtype for weight in weights), noisy.dtype))


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
