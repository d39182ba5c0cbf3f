"""ClipDiscriminator: judges slices by what a frozen CLIP sees in them, on three levels."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from diffnr_lightning.losses import AdversarialKind, DiffAugment
from diffnr_lightning.losses.clip_vision import CLIP, ClipVision, load_clip

BLUR = (0.125, 0.375, 0.375, 0.125)
"""Binomial filter that is applied along both axes before every second place is dropped."""


class ClipDiscriminator(nn.Module):
    """Discriminator with three trained heads on a frozen CLIP; unconditional.

    One head each looks at the maps after a third and after two thirds of CLIP's blocks (4 and 8 of
    12), one at the final embedding. Spectral normalisation bounds all layers of the heads.

    Attributes:
        adversarial_kind: loss that it is trained with, see `losses.discriminator_adversarial`.
        vision: the frozen tower; may be cast to bfloat16, the heads stay as they are.

    Args:
        model: CLIP, by its name on the Hugging Face hub or as a folder written by
            `save_pretrained`.
        width: channels within the heads.
        augment: change the slices at random while training, see `losses.DiffAugment`.

    Raises:
        ImportError: transformers is not installed.
        OSError: the model is neither in the folder nor to be had from the hub.
        ValueError: width below 1, or files that are no CLIP of three blocks or more.

    Source: Kumari et al., Ensembling off-the-shelf models for GAN training, CVPR 2022, with the
        CLIP heads of its code, as pix2pix-turbo uses them; Zhang, Making convolutional networks
        shift-invariant again, 2019, for the blur (its size is not given there for this use).
    """

    adversarial_kind: AdversarialKind = "multilevel_sigmoid"

    def __init__(self, model: str | Path = CLIP, width: int = 256, augment: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width is {width}; expected a positive number of channels.")
        self.vision = ClipVision(load_clip(model))
        if self.vision.depth < 3:
            raise ValueError(
                f"the CLIP model {str(model)!r} has {self.vision.depth} blocks; expected three or "
                "more, one for each head: name a larger one."
            )
        self.taps = (self.vision.depth // 3, 2 * self.vision.depth // 3)
        self.augment = DiffAugment() if augment else None
        self.map_heads = nn.ModuleList(_map_head(self.vision.width, width) for _ in self.taps)
        self.embedding_head = nn.Sequential(
            spectral_norm(nn.Linear(self.vision.channels, width)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(width, 1)),
        )

    def forward(self, degraded: Tensor, candidate: Tensor) -> list[Tensor]:
        """Scores (logits) of the candidate on each level, higher for clean ones.

        Args:
            degraded: not looked at; here so that discriminators can take each other's place.
            candidate: (N, H, W), clean or repaired, in [0, 1] or a little outside.

        Returns:
            two of (N, h, w) and one of (N, 1), in float32.

        Raises:
            ValueError: an array that is not (N, H, W).
        """
        if self.augment is not None and self.training:
            candidate = (self.augment(2 * candidate - 1) + 1) / 2
        seen = self.vision(candidate, "area", self.taps)
        # The estimate of a spectral norm is no work for bfloat16, which autocast would choose.
        with torch.autocast(candidate.device.type, enabled=False):
            scores = [head(m)[:, 0] for head, m in zip(self.map_heads, seen.maps, strict=True)]
            return [*scores, self.embedding_head(seen.embedding)]


def _map_head(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, width, 3, padding=1)),
        nn.LeakyReLU(0.2),
        _Blur(),
        spectral_norm(nn.Conv2d(width, 1, 1, stride=2)),
    )


class _Blur(nn.Module):
    """Binomial filter of four taps; zeros about the map keep its size."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel: Tensor
        row = torch.tensor(BLUR)
        self.register_buffer("kernel", torch.outer(row, row), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        channels = maps.shape[1]
        kernel = self.kernel.expand(channels, 1, -1, -1)
        return F.conv2d(F.pad(maps, (1, 2, 1, 2)), kernel, groups=channels)
