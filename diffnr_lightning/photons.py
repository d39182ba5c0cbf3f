"""Counted photons behind projections: the weight of every ray, and how well a volume explains the counts."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The variance of a count is its expectation, which is estimated from the neighbours too: weights that follow
# the noise of their own ray prefer rays that were counted high, that is, low line integrals.
_NEIGHBOURS = 3
# Pixels that are averaged at once.
_AT_ONCE = 1 << 27
# An L1 loss of noise alone wants 1/2. A representation has errors of its own besides, which know nothing of photons
# (chi-square of 4 to 44 on the development volumes), and then half of that serves better. Gaussians at 64^3, 24 views,
# pt_3 with 1e5 and 1e4.5 photons, PSNR for the powers 0, 1/4 and 1/2: 38.87, 39.22, 38.55 dB and 37.93, 38.76, 38.07 dB
# (1/2 limited to the mean over the object: 38.82 and 38.41; with a constant variance added, at best 38.70 of 38.76).
_POWER = 0.25


class PhotonCounts(NamedTuple):
    """What a detector counted in the views of a scan.

    Attributes:
        counts: (V, H, W) photons; read-out noise may make them negative.
        air: photons expected without the object that the volume shows, (V, H, W); 1 in the place of V, H or W where it
            is the same along them.
        electronic: standard deviation of the read-out noise in photons.
        scale: factor from the projections' unit times mm to dimensionless line integrals.
        origin: whether photons were counted, or computed from projections and an assumed number without object.
    """

    counts: Tensor
    air: Tensor
    electronic: float = 0.0
    scale: float = 1.0
    origin: Literal["counted", "assumed"] = "counted"

    @classmethod
    def assumed(cls, projections: Tensor, photons: float, scale: float = 1.0) -> PhotonCounts:
        """Return the counts that noise-free projections would have had.

        Args:
            projections: (V, H, W) line integrals in unit times mm.
            photons: without object, a pixel and view.
            scale: factor from the projections' unit times mm to dimensionless line integrals.

        Raises:
            ValueError: a number of photons or a scale that is not positive.
        """
        for name, value in (("photons", photons), ("scale", scale)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; a positive number is expected.")
        air = projections.new_full((1, 1, 1), photons)
        return cls(air * torch.exp(-scale * projections), air, 0.0, scale, "assumed")

    def of_views(self, views: Tensor | slice) -> PhotonCounts:
        """Return the counts of some views."""
        air = self.air[views] if len(self.air) == len(self.counts) else self.air
        return self._replace(counts=self.counts[views], air=air)

    def to(self, device: torch.device | str) -> PhotonCounts:
        """Return the same counts on another device."""
        return self._replace(counts=self.counts.to(device), air=self.air.to(device))

    def in_units_of(self, intensity: float) -> PhotonCounts:
        """Return the counts behind projections that were divided by `intensity`."""
        return self._replace(scale=self.scale * intensity)

    def weights(self) -> Tensor:
        """Return the statistical weight of every ray: one over the variance of its line integral.

        Returns:
            (V, H, W) not negative, in (unit times mm)^-2; 0 for rays without light.

        Source: K. Sauer, C. Bouman, IEEE Trans. Signal Processing 1993; with read-out noise the variance of
        -log(y / I0) is to first order (y + sigma^2) / y^2.
        """
        # Pixels that never see the beam are dead: they count nothing, and say nothing of their neighbours.
        seen = (self.air > 0).to(self.counts).expand(-1, *self.counts.shape[1:])
        tiny = torch.finfo(self.counts.dtype).tiny
        expected = _local_mean(self.counts * seen).clamp_min(0.0) / _local_mean(seen).clamp_min(
            tiny
        )
        variance = (expected + self.electronic**2).clamp_min(tiny)
        return (self.scale**2 * expected.square() / variance) * seen

    def chi_square(self, projections: Tensor) -> Tensor:
        """Return the mean of the squared, normalised difference from the expected counts of every view.

        It is 1 within sqrt(2 / (H W)) for the projections of the true object. In the domain of counts it stays so
        behind thick objects, where the logarithm of few counts is biased. Pixels that do not see the beam are left out.

        Args:
            projections: (V, H, W) of a volume, in unit times mm.

        Returns:
            (V,) float64; nan where no pixel sees the beam.
        """
        expected = self.air.double() * torch.exp(-self.scale * projections.double())
        variance = (expected + self.electronic**2).clamp_min(torch.finfo(torch.float32).tiny)
        squares = (self.counts.double() - expected).square() / variance
        return mean_of_rays(squares, (self.air > 0).expand_as(squares))


def _local_mean(images: Tensor) -> Tensor:
    """Return the means (V, H, W) over the neighbourhood of every pixel; beyond the border are its outermost pixels.

    CUDA pads no more than 2^31 pixels at once, so that it is done piece by piece.
    """
    views = max(1, _AT_ONCE // max(images[:1].numel(), 1))
    means = images.new_empty(images.shape)
    for part, mean in zip(images.split(views), means.split(views), strict=True):
        padded = F.pad(part[:, None], (_NEIGHBOURS // 2,) * 4, mode="replicate")
        mean.copy_(F.avg_pool2d(padded, _NEIGHBOURS, 1)[:, 0])
    return means


def mean_of_rays(values: Tensor, rays: Tensor) -> Tensor:
    """Return the mean (V,) of values (V, H, W) over some rays of every view.

    Args:
        values: of all rays.
        rays: (V, H, W) bool, those that count; of a view without any the mean is nan.
    """
    share = rays.double().mean(dim=(1, 2))
    return torch.where(rays, values, 0.0).mean(dim=(1, 2)) / share


def ray_factors(weights: Tensor, projections: Tensor) -> Tensor:
    """Return what the differences of rendered from measured projections are multiplied by in an L1 loss.

    The mean over the lengths of object that the rays pass is 1: rates, and the balance with other terms of a loss,
    stay what they are without weights. Weights that are all alike give ones. Where nothing is passed, all
    rays are in the mean.

    Args:
        weights: (V, H, W) statistical weights, of which only the ratios matter.
        projections: (V, H, W) measured.

    Returns:
        (V, H, W) not negative; 0 for rays without light.
    """
    factors = weights.clamp_min(0.0).pow(_POWER)
    lengths = projections.clamp_min(0.0)
    lengths = torch.where((factors * lengths).any(), lengths, 1.0)
    mean = (factors.double() * lengths).sum() / lengths.double().sum()
    return factors / mean.clamp_min(torch.finfo(factors.dtype).tiny).to(factors)
