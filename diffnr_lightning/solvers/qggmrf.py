"""The prior of model-based iterative reconstruction, and the scales that it is measured in.

Source: J.-B. Thibault, K. Sauer, C. Bouman, J. Hsieh, "A three-dimensional statistical approach to improved image
quality for multislice helical CT", Med. Phys. 2007 (q-GGMRF); C. Bouman, "Foundations of Computational Imaging", SIAM
2022, table 8.1. Names and automatic scales are those of mbirjax: p is the power of small differences, q that of large
ones (svmbir exchanges the two).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, nominal_orbit

# Each of the six voxels that share a face has this share.
_NEIGHBOUR = 1.0 / 6.0
# Differences in units of T sigma_x below which the curvature is that at them, where p < 2 makes it infinite at 0.
_LEAST = 1e-4
# Of sigma_x in the typical value of the volume.
_SIGMA_SHARE = 0.2
# Rays show the object where their line integral is at least this share of the median of those clear of the background.
_OBJECT_SHARE = 0.25
_SAMPLED_VIEWS = 20
_BINS = 400
_PEAK_FOOT = 0.1


class QGGMRF(NamedTuple):
    """``sum over neighbours b rho(D)``, ``rho(D) = (|D| / sigma_x)^p / p / (1 + (|D| / (T sigma_x))^(p - q))``.

    Attributes:
        sigma_x: of the differences D, in the unit of the volume.
        p: power of differences much smaller than T sigma_x.
        q: power of larger ones.
        corner: T.
        ratios: what differences along z, y and x are multiplied by.
    """

    sigma_x: float
    p: float = 2.0
    q: float = 1.2
    corner: float = 1.0
    ratios: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def value(self, volume: Tensor) -> float:
        """Return the prior's cost of a volume (Z, Y, X)."""
        total = 0.0
        for _, _, steps in self._neighbours(volume):
            powers = self._relative(steps).pow_(self.p - self.q).add_(1.0)
            costs = steps.abs_().div_(self.sigma_x).pow_(self.p).div_(powers)
            total += float(costs.sum(dtype=torch.float64))
        return total * _NEIGHBOUR / self.p

    def slope_and_curvature(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient (Z, Y, X) and the diagonal of a quadratic bound that touches the cost at the volume.

        The bound is separable: it bounds the cost with all voxels moved at once, and is twice the sum of the
        curvatures with their neighbours.
        """
        slope, curvature = torch.zeros_like(volume), torch.zeros_like(volume)
        for axis, ratio, steps in self._neighbours(volume):
            last = volume.shape[axis] - 1
            bend = self._bend(steps).mul_(_NEIGHBOUR * ratio)
            pull = steps.mul_(bend)
            slope.narrow(axis, 1, last).add_(pull)
            slope.narrow(axis, 0, last).sub_(pull)
            bend.mul_(2.0 * ratio)
            curvature.narrow(axis, 1, last).add_(bend)
            curvature.narrow(axis, 0, last).add_(bend)
        return slope, curvature

    def _neighbours(self, volume: Tensor) -> Iterator[tuple[int, float, Tensor]]:
        """Yield every axis, its ratio, and the differences along it."""
        for axis, ratio in enumerate(self.ratios):
            yield axis, ratio, torch.diff(volume, dim=axis).mul_(ratio)

    def _relative(self, steps: Tensor) -> Tensor:
        """Return the sizes of differences in units of T sigma_x."""
        return steps.abs().div_(self.corner * self.sigma_x)

    def _bend(self, steps: Tensor) -> Tensor:
        """Return ``rho'(D) / D``."""
        relative = self._relative(steps)
        front = self.corner ** (self.p - 2.0) / self.sigma_x**2
        if self.p != 2.0:
            relative.clamp_(min=_LEAST)
            front = front * relative.pow(self.p - 2.0)
        powers = relative.pow_(self.p - self.q)
        return (powers * (self.q / self.p)).add_(1.0).mul_(front).div_(powers.add_(1.0).square_())


def automatic_sigmas(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor,
    snr_db: float,
    sharpness: float,
) -> tuple[float, float]:
    """Return sigma_y, the noise of a ray of weight 1, in unit times mm, and sigma_x of the prior, in unit.

    ``sigma_y = 10^(-snr_db / 20) rms(b) sqrt(voxel / (pixel / magnification))`` and
    ``sigma_x = 0.2 * 2^sharpness mean|b| / L`` over the rays that show the object, with L the length of a typical ray.

    Args:
        projections: (V, H, W).
        grid: the voxels; those of a slice make L and the size of a voxel.
        scan: the views.
        weights: (V, H, W).
        snr_db: signal to noise of the projections.
        sharpness: more makes less of the prior.
    """
    every = max(len(scan) // min(_SAMPLED_VIEWS, len(scan)), 1)
    shown, known = projections[::every].double(), weights[::every].double()
    object_ = _shows_object(shown)
    if not object_.any():
        object_ = torch.ones_like(object_)
    level, squares = shown.abs()[object_].mean(), (known * shown.square())[object_].mean()
    nominal = nominal_orbit(scan)
    pitch = nominal.orbit.pixel_mm[1] / nominal.orbit.magnification
    _, height, width = grid.size_mm
    length = min(2.0 * height * width / (height + width), 2.0 * nominal.field_radius_mm)
    relative = (grid.voxel_mm[1] * grid.voxel_mm[2]) ** 0.5 / pitch
    sigma_y = 10.0 ** (-snr_db / 20.0) * float(squares) ** 0.5 * relative**0.5
    return sigma_y, _SIGMA_SHARE * 2.0**sharpness * float(level) / length


def _shows_object(projections: Tensor) -> Tensor:
    """Return (V, H, W) which rays pass through more than the background, whose line integrals make a peak near 0."""
    low, high = float(projections.min()), float(projections.max())
    everything = torch.ones_like(projections, dtype=torch.bool)
    if high <= low:
        return everything
    counts = torch.histc(projections, _BINS, low, high)
    width = (high - low) / _BINS
    zero = min(max(int(-low / width), 0), _BINS - 1)
    peak = _nearest_peak(counts, zero)
    outside = (counts < _PEAK_FOOT * counts[peak]).nonzero()[:, 0]
    before, after = outside[outside < peak], outside[outside > peak]
    left = low + width * (float(before[-1]) + 1.0 if len(before) else 0.0)
    right = low + width * (float(after[0]) if len(after) else _BINS)
    threshold = right + (right - left)
    if high < threshold:
        return everything
    return projections >= _OBJECT_SHARE * projections[projections >= threshold].median()


def _nearest_peak(counts: Tensor, place: int) -> int:
    """Return which local maximum of a histogram is the nearest to a place."""
    padded = torch.nn.functional.pad(counts, (1, 1), value=-1.0)
    peaks = ((counts >= padded[:-2]) & (counts >= padded[2:]) & (counts > 0)).nonzero()[:, 0]
    return int(peaks[(peaks - place).abs().argmin()])
