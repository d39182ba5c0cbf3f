"""What every prior of several steps promises: a noisy image and its step in, the noise in it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from diffnr_lightning.priors.denoisers.noise_schedule import NoiseSchedule


@runtime_checkable
class Denoiser(Protocol):
    """A network (or function) that predicts noise; the samplers of `solvers.diffusion` know nothing else of it.

    A prior of one step, see `Prior`, repairs; a denoiser is asked many times, at falling levels of noise. One of
    patches has their edge in voxels too, ``patch``.

    Attributes:
        channels: slices of a stack, which are the channels of one image; 1 for patches.
        dimensions: 2 for slices, 3 for patches of volumes.
        gaps: how many gaps between the slices of a stack it tells apart: 0, a slice alone, then 1, the neighbours, and
            so on; 0 where it is not told.
        alone: whether it was trained on slices alone, which are accepted as one channel then even where `channels` is
            more.
        schedule: what its steps mean.
        scale: its values for attenuation 0 and 1.
    """

    channels: int
    dimensions: int
    gaps: int
    alone: bool
    schedule: NoiseSchedule
    scale: tuple[float, float]

    def predict(
        self, noisy: Tensor, step: Tensor | int, told: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return the noise in images; differentiable where the denoiser is.

        Args:
            noisy: (N, C, *size) ``signal * clean + deviation * noise`` of the schedule, on the denoiser's scale; two
                or three sizes, as `dimensions` says.
            step: of the schedule, one or (N,); 0 is the least noisy.
            told: what else is known, by name; what a denoiser does not use it passes over. ``gap``: slices from one
                channel to the next, one or (N,), 1 where it is missing. ``coordinates``: (N, dimensions, *size) places
                of the pixels, slowest axis first, -1 and 1 at the first and the last of the slice or volume, which is
                meant where they are missing. ``context``: (N, C, *size) the whole noisy volume, at the size of a patch.

        Returns:
            (N, C, *size) of variance 1, on the denoiser's scale.
        """
        ...


def watch(denoiser: Denoiser, seen: Callable[[int], None]) -> None:
    """Let a denoiser tell how many pixels it is shown whenever it is asked.

    Slices that it sees in several stacks, and the margins of patches, count as often as they are seen.

    Args:
        denoiser: changed in place.
        seen: called with the number before the denoiser answers.
    """
    predict = denoiser.predict

    def told(noisy: Tensor, *further: Any, **named: Any) -> Tensor:
        seen(noisy.numel())
        return predict(noisy, *further, **named)

    denoiser.predict = told
