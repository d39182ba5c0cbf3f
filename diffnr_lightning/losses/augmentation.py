"""DiffAugment: random changes of the images a discriminator sees, which gradients pass through."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DiffAugment(nn.Module):
    """Random colour, translation and cutout, drawn anew for each image from torch's generator.

    Shown to the discriminator on real and on generated images alike, they keep it from learning a
    small data set by heart. Real and generated images need not share what is drawn.

    Args:
        brightness: largest shift of an image's brightness; images are in [-1, 1].
        contrast: largest change of the factor by which values are spread about the image's mean.
        translation: largest shift of an image along an axis, as a share of its edge.
        cutout: edge of the blanked rectangle, as a share of the image's edge.

    Raises:
        ValueError: a negative strength, or a share above 1.

    Source: Zhao et al., Differentiable augmentation for data-efficient GAN training, NeurIPS 2020,
        and its defaults: brightness 0.5, contrast 0.5 to 1.5, translation 1/8, cutout 1/2.
        Deviation: its random saturation is left out; it changes nothing in a gray image.
    """

    def __init__(
        self,
        brightness: float = 0.5,
        contrast: float = 0.5,
        translation: float = 0.125,
        cutout: float = 0.5,
    ) -> None:
        super().__init__()
        strengths = (brightness, contrast, translation, cutout)
        if min(strengths) < 0 or max(strengths[1:]) > 1:
            raise ValueError(
                f"DiffAugment got brightness={brightness}, contrast={contrast}, "
                f"translation={translation}, cutout={cutout}; expected none negative and the last "
                "three at most 1."
            )
        self.brightness = brightness
        self.contrast = contrast
        self.translation = translation
        self.cutout = cutout

    def forward(self, images: Tensor) -> Tensor:
        """Change each image at random; differentiable in the images.

        Args:
            images: (N, H, W) in [-1, 1].

        Returns:
            (N, H, W), not clipped; pixels that were shifted in or blanked are 0 (mid-gray).

        Raises:
            ValueError: an array that is not (N, H, W).
        """
        if images.dim() != 3:
            raise ValueError(
                f"DiffAugment got shape {tuple(images.shape)}; images (N, H, W) are expected."
            )
        return self._cut_out(self._translated(self._recoloured(images)))

    def _recoloured(self, images: Tensor) -> Tensor:
        shift, spread = 2 * torch.rand(2, len(images), 1, 1, device=images.device) - 1
        images = images + self.brightness * shift
        mean = images.mean(dim=(1, 2), keepdim=True)
        return mean + (1 + self.contrast * spread) * (images - mean)

    def _translated(self, images: Tensor) -> Tensor:
        count, height, width = images.shape
        far_y, far_x = (round(self.translation * edge) for edge in (height, width))
        rows, columns = (
            torch.arange(edge, device=images.device)
            + torch.randint(0, 2 * far + 1, (count, 1), device=images.device)
            for edge, far in ((height, far_y), (width, far_x))
        )
        padded = F.pad(images, (far_x, far_x, far_y, far_y))
        shifted = padded.gather(1, rows[:, :, None].expand(-1, -1, padded.shape[2]))
        return shifted.gather(2, columns[:, None].expand(-1, height, -1))

    def _cut_out(self, images: Tensor) -> Tensor:
        """Blank a rectangle with its centre anywhere in the image, so partly outside at times."""
        count, height, width = images.shape
        in_rows, in_columns = (
            _within(edge, round(self.cutout * edge), count, images.device)
            for edge in (height, width)
        )
        return images.masked_fill(in_rows[:, :, None] & in_columns[:, None], 0)


def _within(edge: int, length: int, count: int, device: torch.device) -> Tensor:
    """Mark `length` neighbours about a random centre in each of `count` rows; (count, edge) bool."""
    # An even length lies centred between two pixels: one more place keeps the draw symmetric.
    centre = torch.randint(0, edge + 1 - length % 2, (count, 1), device=device)
    places = torch.arange(edge, device=device)
    start = centre - length // 2
    return (places >= start) & (places < start + length)
