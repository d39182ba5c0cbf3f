"""Stand-ins for trained denoisers whose answers are known in closed form."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffnr_lightning.priors import NoiseSchedule


class GaussianDenoiser(nn.Module):
    """Knows that voxels are independent and normal, and remembers what it was asked.

    Args:
        mean: of the clean images in attenuation, broadcastable to (N, C, H, W).
        variance: in attenuation; inf knows nothing and finds no noise.
        scale: its values for attenuation 0 and 1.
        schedule: what its steps mean; None is that of DDPM.
    """

    dimensions = 2

    def __init__(
        self,
        mean: Tensor | float = 0.0,
        variance: float = float("inf"),
        scale: tuple[float, float] = (-1.0, 1.0),
        channels: int = 1,
        gaps: int = 0,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        super().__init__()
        low, high = scale
        self.mean, self.variance = low + (high - low) * mean, (high - low) ** 2 * variance
        self.scale, self.channels, self.gaps = scale, channels, gaps
        self.alone = channels == 1 or gaps > 0
        self.schedule = schedule or NoiseSchedule.from_scheduler({})
        self.asked: list[tuple[int, int, int]] = []

    def predict(
        self, noisy: Tensor, step: Tensor | int, told: Mapping[str, Any] | None = None
    ) -> Tensor:
        signal, deviation = float(self.schedule.signal[step]), float(self.schedule.deviation[step])
        self.asked.append((noisy.shape[1], step, (told or {}).get("gap", 1)))
        if self.variance == float("inf"):
            return torch.zeros_like(noisy)
        known, noise = self.variance * signal, deviation**2
        clean = (known * noisy + noise * self.mean) / (known * signal + noise)
        return (noisy - signal * clean) / deviation
