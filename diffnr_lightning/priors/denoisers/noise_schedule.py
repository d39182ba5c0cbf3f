"""How much noise the steps of a diffusion hold, and how an image goes from one step to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS = ("epsilon", "v_prediction", "sample")
PRESERVING = ("DDPMScheduler", "DDIMScheduler")
EXPLODING = "ScoreSdeVeScheduler"
# Cosine schedules: shift at step 0 and largest beta.
_SHIFT, _LARGEST_BETA = 0.008, 0.999


class NoiseSchedule(NamedTuple):
    """Steps 0 (least noisy) to T - 1, at which an image is ``signal * clean + deviation * noise``.

    Attributes:
        signal: (T,) float64, on the CPU.
        deviation: (T,) of the noise, float64, on the CPU; it rises relative to the signal.
        prediction: what the network that was trained with it returns: the noise (epsilon), the clean image (sample)
            or ``signal * noise - deviation * clean`` (v_prediction).

    Source: J. Ho, A. Jain, P. Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020 (variance preserving);
    Y. Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021 (variance
    exploding); T. Salimans, J. Ho, "Progressive distillation for fast sampling of diffusion models", ICLR 2022 (v).
    """

    signal: Tensor
    deviation: Tensor
    prediction: Prediction = "epsilon"

    @classmethod
    def from_scheduler(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Return the schedule of a scheduler of diffusers.

        Args:
            config: of a DDPMScheduler, DDIMScheduler or ScoreSdeVeScheduler. What it does not say is as there.

        Raises:
            ValueError: another scheduler, a schedule or prediction that is not known, numbers out of range.
        """
        name = config.get("_class_name", PRESERVING[0])
        steps = config.get("num_train_timesteps", 2000 if name == EXPLODING else 1000)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(
                f"num_train_timesteps is {steps!r}; a whole number of at least 1 is expected."
            )
        if name == EXPLODING:
            return cls.exploding(
                config.get("sigma_min", 0.01), config.get("sigma_max", 1348.0), steps
            )
        if name not in PRESERVING:
            raise ValueError(
                f"the scheduler is a {name}; one of {', '.join((*PRESERVING, EXPLODING))} is expected."
            )
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction_type is {prediction!r}; one of {', '.join(PREDICTIONS)} is expected."
            )
        if config.get("rescale_betas_zero_snr"):
            raise ValueError(
                "rescale_betas_zero_snr is set; a schedule whose last step keeps some signal is expected, since the "
                "clean image is computed from the noise."
            )
        betas = _betas(config, steps)
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError(
                f"the betas reach from {float(betas.min()):.4g} to {float(betas.max()):.4g}; numbers between 0 and 1 "
                "are expected."
            )
        kept = torch.cumprod(1.0 - betas, dim=0)
        return cls(kept.sqrt(), (1.0 - kept).sqrt(), prediction)

    @classmethod
    def exploding(
        cls, least: float = 0.01, most: float = 378.0, steps: int = 2000
    ) -> NoiseSchedule:
        """Return a schedule that keeps the signal and whose noise grows geometrically.

        Args:
            least: deviation of the noise at step 0.
            most: at the last step.
            steps: T.

        Raises:
            ValueError: not 0 < least < most, or fewer than two steps.
        """
        if not 0.0 < least < most < float("inf") or steps < 2:
            raise ValueError(
                f"the noise goes from {least} to {most} in {steps} steps; 0 < least < most and at least 2 steps are "
                "expected."
            )
        shares = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
        deviation = least * (most / least) ** shares
        return cls(torch.ones_like(deviation), deviation)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.signal)

    @property
    def alpha_bar(self) -> Tensor:
        """(T,) energy of the signal; 1 where the variance explodes."""
        return self.signal.square()

    def timesteps(self, count: int, below: int | None = None) -> list[int]:
        """Return steps, evenly spaced and falling to 0, of which the first is the noisiest.

        Args:
            count: how many.
            below: the first is the last of them below this one; None is T, all of the schedule.

        Raises:
            ValueError: fewer than one step, or more than there are.
        """
        below = self.steps if below is None else below
        if not 1 <= count <= below <= self.steps:
            raise ValueError(
                f"{count} steps below step {below} of {self.steps} are asked for; at least one, and no more than there "
                "are, is expected."
            )
        return [index * below // count for index in reversed(range(count))]

    def add_noise(self, clean: Tensor, noise: Tensor, step: Tensor | int) -> Tensor:
        """Return images (N, C, *size) as they are at a step, one or (N,), given noise of variance 1."""
        signal, deviation = self.levels(step, clean)
        return signal * clean + deviation * noise

    def estimate(self, noisy: Tensor, noise: Tensor, step: Tensor | int) -> Tensor:
        """Return the clean images (N, C, *size) of noisy ones and predicted noise, the mean of what they may be.

        Source: B. Efron, "Tweedie's formula and selection bias", J. Am. Stat. Assoc. 2011.
        """
        signal, deviation = self.levels(step, noisy)
        return (noisy - deviation * noise) / signal

    def noise(self, noisy: Tensor, clean: Tensor, step: Tensor | int) -> Tensor:
        """Return the noise of noisy images (N, C, *size) whose clean ones are known; the inverse of `estimate`."""
        signal, deviation = self.levels(step, noisy)
        return (noisy - signal * clean) / deviation

    def target(self, clean: Tensor, noise: Tensor, step: Tensor | int) -> Tensor:
        """Return what the network is to return, of the shape of the images (N, C, *size)."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        signal, deviation = self.levels(step, clean)
        return signal * noise - deviation * clean

    def noise_of(self, output: Tensor, noisy: Tensor, step: Tensor | int) -> Tensor:
        """Return the noise that a network's output for noisy images (N, C, *size) stands for."""
        if self.prediction == "epsilon":
            return output
        if self.prediction == "sample":
            return self.noise(noisy, output, step)
        signal, deviation = self.levels(step, noisy)
        return (signal * output + deviation * noisy) / (signal**2 + deviation**2)

    def ddim_step(
        self, estimate: Tensor, noise: Tensor, after: int | None, fresh: Tensor | None, eta: float
    ) -> Tensor:
        """Return images at a less noisy step, from the clean estimate and noise that is partly new.

        Args:
            estimate: (N, C, *size) clean.
            noise: predicted, of the same shape.
            after: the next step; None returns the estimate.
            fresh: noise of variance 1 of the same shape; None where eta is 0.
            eta: share of the fresh noise, in [0, 1]: the variance is ``eta^2`` fresh and ``1 - eta^2`` old.

        Source: H. Chung, S. Lee, J. C. Ye, "Decomposed diffusion sampler for accelerating large-scale inverse
        problems", ICLR 2024. In J. Song, C. Meng, S. Ermon, "Denoising diffusion implicit models", ICLR 2021,
        eta scales the variance of an ancestral step instead, which is less.
        """
        if after is None:
            return estimate
        if eta > 0.0:
            noise = eta * fresh + (1.0 - eta**2) ** 0.5 * noise
        return self.add_noise(estimate, noise, after)

    def ancestral(self, step: int, after: int) -> float:
        """Return the eta of `ddim_step` with which a step to a less noisy one is exact for one clean image.

        It is the step of ancestral sampling, and that of the reverse diffusion where both lie close together.

        Source: J. Ho, A. Jain, P. Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, eq. 6 and 7.
        """
        left = float(self.deviation[after] / self.signal[after])
        return max(1.0 - (left * float(self.signal[step] / self.deviation[step])) ** 2, 0.0) ** 0.5

    def levels(self, step: Tensor | int, like: Tensor) -> tuple[Any, Any]:
        """Return signal and deviation of a step, as numbers or as (N, 1, ...) of the dtype of images.

        Args:
            step: one, or (N,).
            like: images (N, C, *size) that they are to be multiplied with, on their device.
        """
        if not isinstance(step, Tensor):
            return float(self.signal[step]), float(self.deviation[step])
        rows = torch.stack((self.signal, self.deviation)).to(like)[:, step.to(like.device)]
        return tuple(rows.reshape(2, *step.shape, *(1,) * (like.ndim - step.ndim)))


def _betas(config: Mapping[str, Any], steps: int) -> Tensor:
    """Return the variance that each step adds, (T,) float64."""
    if (trained := config.get("trained_betas")) is not None:
        return torch.as_tensor(trained, dtype=torch.float64)
    first, last = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    name = config.get("beta_schedule", "linear")
    if name == "linear":
        return torch.linspace(first, last, steps, dtype=torch.float64)
    if name == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64).square()
    if name == "squaredcos_cap_v2":
        # A. Nichol, P. Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021, eq. 17.
        shares = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
        kept = torch.cos((shares + _SHIFT) / (1.0 + _SHIFT) * torch.pi / 2.0).square()
        return (1.0 - kept[1:] / kept[:-1]).clamp(max=_LARGEST_BETA)
    raise ValueError(
        f"beta_schedule is {name!r}; one of linear, scaled_linear and squaredcos_cap_v2 is expected."
    )
