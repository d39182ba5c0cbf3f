"""What a denoiser is shown in its training: clean images, noise, and what it is told beside their sum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffnr_lightning.batches import CleanPatches, CleanSlices
from diffnr_lightning.priors import NoiseSchedule
from diffnr_lightning.volume_patches import cut_patches, patch_coordinates, whole_in_patch


class NoiseExample(NamedTuple):
    """Images and noise, still apart.

    Attributes:
        clean: (N, C, *size) on the scale of the denoiser.
        noise: (N, C, *size) of variance 1.
        told: arguments of the denoiser, by name, that do not depend on the step.
        whole: of patches, the clean volume they are of and its noise, (1, 1, *size) each; None of slices.
    """

    clean: Tensor
    noise: Tensor
    told: dict[str, Tensor]
    whole: tuple[Tensor, Tensor] | None = None

    def noisy(self, schedule: NoiseSchedule, step: Tensor | int) -> tuple[Tensor, dict[str, Any]]:
        """Return the noisy images (N, C, *size) at a step, one or (N,), and the arguments of the denoiser."""
        told = dict(self.told)
        if self.whole is not None:
            clean, noise = (part.expand_as(self.clean) for part in self.whole)
            told["context"] = schedule.add_noise(clean, noise, step)
        return schedule.add_noise(self.clean, self.noise, step), told


def noise_example(
    batch: CleanSlices | CleanPatches, denoiser: nn.Module, generator: torch.Generator
) -> NoiseExample:
    """Draw noise for clean slices or patches.

    A slice that fills its stack brings one noise with it. Noise is drawn for the whole volume of patches, which see it
    in their context too.

    Args:
        batch: attenuation in [0, 1].
        denoiser: whose `scale` is taken, and whose `patch`.
        generator: of the noise, on any device.
    """
    low, high = denoiser.scale
    clean = low + (high - low) * batch.clean
    noise = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean.device)
    if isinstance(batch, CleanSlices):
        alike = (batch.gap == 0)[:, None, None, None]
        noise = torch.where(alike, noise[:, :1], noise)
        return NoiseExample(clean, noise, {"gap": batch.gap, "coordinates": batch.coordinates})
    size = denoiser.patch
    # Resampling is linear: clean volume and noise may be resampled apart.
    coarse = tuple(whole_in_patch(part[None, None], size) for part in (clean, noise))
    places = patch_coordinates(batch.corner, clean.shape, size)
    cut = (cut_patches(part, batch.corner, size) for part in (clean, noise))
    return NoiseExample(*cut, {"coordinates": places}, coarse)
