"""Preconditioning: what a network sees of noisy images and what its output stands for, so that both are of size 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.priors.denoisers.noise_schedule import NoiseSchedule


class Preconditioning(NamedTuple):
    """Mean and deviation of clean voxels, from which follow the best linear estimate of a clean voxel and its error.

    A network is shown the noisy image, centred and divided by its deviation, and answers how far the clean image is
    from that linear estimate, in units of the estimate's error.

    Attributes:
        mean: of clean voxels, on the scale of the network.
        deviation: of clean voxels from it, positive.

    Source: T. Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, table 1
    and equation 7. Deviation: images are centred too, since most voxels are air; noise levels are told by steps.
    """

    mean: float
    deviation: float

    def entering(self, noisy: Tensor, step: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return what the network sees of noisy images (N, C, *size) at steps (N,)."""
        signal, noise = schedule.levels(step, noisy)
        return (noisy - signal * self.mean) / self._size(signal, noise)

    def leaving(
        self, output: Tensor, noisy: Tensor, step: Tensor, schedule: NoiseSchedule
    ) -> Tensor:
        """Return ``signal * noise - deviation * clean`` (N, C, *size), that the network's output stands for.

        Args:
            output: of the network.
            noisy: images at the steps, as they are before `entering`.
            step: (N,).
            schedule: one that preserves the variance.
        """
        signal, noise = schedule.levels(step, noisy)
        size = self._size(signal, noise)
        linear = signal * (1 - self.deviation**2) / size**2 * (noisy - signal * self.mean)
        return noise * (linear - self.mean) - self.deviation / size * output

    def weights(self, step: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return (N,) by what squared errors of `leaving` are multiplied to be those of the network's output."""
        signal, noise = schedule.levels(step, torch.empty(0, device=step.device))
        return (self._size(signal, noise) / self.deviation) ** 2

    def _size(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Deviation of noisy voxels."""
        return (noise**2 + (signal * self.deviation) ** 2).sqrt()


def preconditioned(
    given: tuple[float, float] | None, schedule: NoiseSchedule
) -> Preconditioning | None:
    """Return the preconditioning of a network.

    Args:
        given: mean and deviation of clean voxels; None for none.
        schedule: of the network.

    Raises:
        ValueError: a deviation that is not positive, or a schedule and prediction that cannot be preconditioned.
    """
    if given is None:
        return None
    found = Preconditioning(*map(float, given))
    if not found.deviation > 0:
        raise ValueError(
            f"voxels is {tuple(given)}; the mean and the positive deviation of clean voxels are expected."
        )
    kept = schedule.signal**2 + schedule.deviation**2
    if schedule.prediction != "v_prediction" or not torch.allclose(kept, torch.ones_like(kept)):
        raise ValueError(
            f"voxels is {tuple(given)} and the prediction {schedule.prediction}; v_prediction and a schedule that "
            "preserves the variance are expected of a network whose input and output are scaled."
        )
    return found
