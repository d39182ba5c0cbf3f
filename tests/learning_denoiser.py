"""A stand-in for trained denoisers that can be adapted."""

import torch
from gaussian_denoiser import GaussianDenoiser
from torch import Tensor, nn


class LearningDenoiser(GaussianDenoiser):
    """Knows that voxels are independent and normal, and has a layer that adds nothing before it is adapted."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.mid_block = nn.Conv2d(2, 1, 3, padding=1)
        nn.init.zeros_(self.mid_block.weight)
        nn.init.zeros_(self.mid_block.bias)
        self.requires_grad_(False)

    def learned(self, noisy: Tensor) -> Tensor:
        """A filter of the noisy image and a constant, added to the clean one, less where there is little noise."""
        return self.mid_block(torch.cat((noisy, torch.ones_like(noisy)), dim=1))

    def predict(self, noisy, step, told=None):
        ratio = float(self.schedule.signal[step] / self.schedule.deviation[step])
        return super().predict(noisy, step, told) - min(ratio, 1.0) * self.learned(noisy)
