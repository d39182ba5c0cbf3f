"""Densities that are functions of points, rendered by summing samples along rays."""

from __future__ import annotations

import logging
from abc import abstractmethod
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffnr_lightning.draws import generator_at
from diffnr_lightning.geometry import Beam, ScanGeometry, VolumeGrid
from diffnr_lightning.representations.base import FAR_VOXELS, Representation

logger = logging.getLogger("diffnr")

# Points of a volume whose intermediate results are kept for the way back; of more, each part is computed again.
KEPT = 1 << 20

# Voxels over which the first reconstruction is averaged and from which matter reaches out, to each side.
AVERAGED, REACH = 1, 2


class RayField(Representation):
    """Represent a volume by a function of points; subclasses give `field`.

    The function sees the unit box: the grid's largest edge spans [-1, 1], shorter ones less, around
    0. Outside of the grid's box there is nothing.

    Args:
        grid: the box.
        samples: points of a ray, spread over its way through the box.
        chunk: points evaluated at one time where no gradient is asked for.
        empty: density below which there is nothing: where the first reconstruction, averaged over 3^3 voxels, stays
            below it for two voxels around, the field is 0 and is not evaluated. None evaluates it everywhere.
        segment: consecutive samples of a line that `field` needs together.

    Attributes:
        matter: (Z, Y, X) bool, where the field is evaluated; None for everywhere.
        draws: (1,) renderings with jitter since `initialise`; with the seed it decides the next jitter, and it
            is part of a checkpoint, so that a resumed run equals an uninterrupted one.

    Raises:
        ValueError: no sample, an empty chunk, or a density below which there is nothing that is not positive.

    Source: stratified samples are those of NAF (Zha et al., MICCAI 2022). Deviations: a ray begins
    and ends where it meets the box, where NAF takes two distances from the source for all rays; each
    sample stands for its stratum, which makes the jittered sum unbiased, where NAF weights samples by
    the distance to the next one and loses the ends; `empty` is ours: most of a scanned box is air, and
    the first reconstruction shows where.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        *,
        samples: int = 192,
        chunk: int = 1 << 18,
        empty: float | None = None,
        segment: int = 1,
    ) -> None:
        super().__init__(grid)
        if min(samples, chunk) < 1:
            raise ValueError(
                f"samples and chunk are {samples} and {chunk}; at least 1 is expected."
            )
        if empty is not None and not empty > 0:
            raise ValueError(f"empty is {empty}; null or a positive density is expected.")
        self.samples = samples
        self.chunk = chunk
        self.empty = empty
        self.segment = segment
        everywhere = None if empty is None else torch.ones(grid.shape, dtype=torch.bool)
        self.register_buffer("matter", everywhere)
        self.seed = 0
        self.register_buffer("draws", torch.zeros(1, dtype=torch.int64))
        # The same on the host, which would wait for a device to read it; None asks once.
        self._drawn: int | None = None

    @abstractmethod
    def field(self, points: Tensor) -> Tensor:
        """Return the density (R, S), normalised attenuation.

        Args:
            points: (R, S, 3) in the unit box, x, y, z; S consecutive points of each of R lines.
        """

    def initialise(
        self, volume: Tensor, projections: Tensor, scan: ScanGeometry, seed: int
    ) -> None:
        """Check the grid, take the seed of the jitter, find the matter; see `Representation`."""
        self.check_volume(volume)
        self.seed, self._drawn = seed, None
        self.draws.zero_()
        if self.empty is not None:
            full = (_averaged(volume.detach().float()) > self.empty).float()[None]
            self.matter = F.max_pool3d(full, 2 * REACH + 1, 1, REACH)[0] > 0
            if not self.matter.any():
                logger.warning(
                    "the first reconstruction is nowhere above empty %g, so the field is 0 everywhere and "
                    "learns nothing; lower it or check the scale of the projections",
                    self.empty,
                )

    def density(self, points: Tensor) -> Tensor:
        """Return the density at points (..., 3) in mm as (...), each a line of its own."""
        points = points.to(next(self.parameters()).dtype)
        return self._in_chunks(points.reshape(-1, 1, 3)).reshape(points.shape[:-1])

    def render(self, scan: ScanGeometry) -> Tensor:
        """Return the line integrals (V, H, W) in mm.

        Samples lie in the middles of the strata of a ray; anywhere in them, drawn anew each time,
        while the module trains with gradients.
        """
        like = next(self.parameters())
        origins, directions, entry, exit_ = self._ways(scan, like)
        if like.is_cuda:
            # To list the rays that meet the box is to wait for the device; the others get no length.
            meets = exit_ > entry
            entry, exit_ = (torch.where(meets, end, 0) for end in (entry, exit_))
            sums = self._integrate(origins, directions, entry, exit_)
            return sums.view(len(scan), *scan.detector_shape)
        met = torch.nonzero(exit_ > entry)[:, 0]
        sums = self._integrate(origins[met], directions[met], entry[met], exit_[met])
        image = torch.zeros(len(origins), device=sums.device, dtype=sums.dtype)
        return image.index_put((met,), sums).view(len(scan), *scan.detector_shape)

    def query(self, grid: VolumeGrid) -> Tensor:
        """Return the density at the voxels of a grid (Z, Y, X); rows along x are the lines."""
        like = next(self.parameters())
        points = grid.points(like.device, like.dtype)
        return self._in_chunks(points.flatten(0, 1)).view(grid.shape)

    def span(
        self, origins: Tensor, directions: Tensor, beam: Beam = "cone"
    ) -> tuple[Tensor, Tensor]:
        """Return where rays enter and leave the box, (R,) each in mm from their origins.

        Args:
            origins: (R, 3) mm; of a cone beam, what lies behind them does not count.
            directions: (R, 3) unit vectors.
            beam: rays of a parallel one come from far away, wherever their origins are.

        Returns:
            Distances; the second is not greater than the first where a ray misses the box.
        """
        low, high = (constant_like(origins, *corner) for corner in self.grid.corners_mm)
        # A direction along a face must give infinity with a sign, not NaN.
        slope = torch.where(directions == 0, torch.finfo(directions.dtype).tiny, directions)
        sides = torch.stack([(low - origins) / slope, (high - origins) / slope])  # (2, R, 3)
        entry = sides.amin(0).amax(-1)
        return entry.clamp(min=0) if beam == "cone" else entry, sides.amax(0).amin(-1)

    def _ways(self, scan: ScanGeometry, like: Tensor) -> tuple[Tensor, ...]:
        """Return origins and directions (R, 3) of the rays of all pixels, and their span (R,), like a tensor."""
        far = self.voxels_to_source(scan) > FAR_VOXELS
        # Not every device has float64.
        device, dtype = ("cpu", torch.float64) if far else (like.device, like.dtype)
        origins, directions = (rays.reshape(-1, 3) for rays in scan.rays(device, dtype))
        entry, exit_ = self.span(origins, directions, scan.beam)
        if far:
            # Rays begin where they enter, since float32 is too coarse for distances from such a source.
            entry, exit_ = (torch.where(exit_ > entry, end, 0) for end in (entry, exit_))
            origins, exit_ = origins + entry[:, None] * directions, exit_ - entry
            entry = torch.zeros_like(entry)
        return tuple(part.to(like) for part in (origins, directions, entry, exit_))

    def unit(self, points: Tensor) -> Tensor:
        """Return points (..., 3) in mm as coordinates of the unit box."""
        return (points - constant_like(points, *self.grid.centre_mm)) * (2 / max(self.grid.size_mm))

    def _integrate(
        self, origins: Tensor, directions: Tensor, entry: Tensor, exit_: Tensor
    ) -> Tensor:
        """Return the line integrals (R,) in mm between two distances of each ray."""
        stratum = (exit_ - entry) / self.samples
        offsets = self._offsets(len(origins), entry)
        sums = []
        # With gradients everything is kept anyway: one piece.
        rays = len(origins) if torch.is_grad_enabled() else max(1, self.chunk // self.samples)
        for part in torch.arange(len(origins), device=origins.device).split(max(rays, 1)):
            distance = entry[part, None] + stratum[part, None] * (
                offsets[part] if len(offsets) > 1 else offsets
            )  # (r, S)
            points = origins[part, None] + distance[..., None] * directions[part, None]
            sums.append(self._density(points).sum(1))
        return stratum * torch.cat(sums) if sums else stratum

    def _offsets(self, count: int, like: Tensor) -> Tensor:
        """Return the places of samples (R, S), or (1, S) for all rays, in strata from the entry."""
        strata = torch.arange(self.samples, device=like.device, dtype=like.dtype)
        if not (self.training and torch.is_grad_enabled()):
            return (strata + 0.5)[None]
        if self._drawn is None:
            self._drawn = int(self.draws)
        generator = generator_at(self.seed, self._drawn, device=like.device)
        self._drawn += 1
        self.draws += 1
        size = (count, self.samples)
        return strata + torch.rand(size, generator=generator, device=like.device, dtype=like.dtype)

    def _in_chunks(self, points: Tensor) -> Tensor:
        """Return the density (R, S) at points (R, S, 3) in mm, 0 outside of the box."""
        low, high = (constant_like(points, *corner) for corner in self.grid.corners_mm)
        lines = max(1, self.chunk // max(points.shape[1], 1))
        again = torch.is_grad_enabled() and points[..., 0].numel() > KEPT
        if torch.is_grad_enabled():
            lines = max(KEPT // max(points.shape[1], 1), 1) if again else max(len(points), 1)
        parts = []
        for part in points.split(lines):
            inside = ((part >= low) & (part <= high)).all(-1)
            if again:
                density = checkpoint(
                    self._density, part, use_reentrant=False, preserve_rng_state=False
                )
            else:
                density = self._density(part)
            parts.append(torch.where(inside, density, 0))
        return torch.cat(parts)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._drawn = None
        super()._load_from_state_dict(*arguments, **options)

    def _density(self, points: Tensor) -> Tensor:
        """Return the density (R, S) at points (R, S, 3) in mm, which is 0 where there is no matter."""
        if self.matter is None:
            return self.field(self.unit(points))
        rays, samples = points.shape[:2]
        missing = -samples % self.segment
        if missing:
            points = torch.cat([points, points[:, -1:].expand(-1, missing, -1)], dim=1)
        segments = points.view(-1, self.segment, 3)
        near = torch.nonzero(self._matter_at(segments).any(1))[:, 0]
        values = self.field(self.unit(segments[near]))
        density = values.new_zeros(segments.shape[:2]).index_put((near,), values)
        return density.view(rays, samples + missing)[:, :samples]

    def _matter_at(self, points: Tensor) -> Tensor:
        """Return whether there is matter in the voxels of points (..., 3) in mm, the nearest outside of the box."""
        low = constant_like(points, *self.grid.corners_mm[0])
        last = constant_like(points, *self.grid.shape[::-1]) - 1
        place = ((points - low) / constant_like(points, *self.grid.voxel_mm[::-1])).clamp(min=0)
        x, y, z = place.minimum(last).long().unbind(-1)
        return self.matter[z, y, x]


def constant_like(tensor: Tensor, *numbers: float) -> Tensor:
    """Return numbers (N,) of the type and on the device of a tensor; the device is waited for the first time alone."""
    return _on(tensor.device, tensor.dtype, *numbers)


@lru_cache(maxsize=256)
def _on(device: torch.device, dtype: torch.dtype, *numbers: float) -> Tensor:
    return torch.tensor(numbers, device=device, dtype=dtype)


def _averaged(volume: Tensor) -> Tensor:
    """Return the means (Z, Y, X) over the 3^3 voxels around each, as far as there are any."""
    window, reach = [], []
    for axis, length in enumerate(volume.shape):
        # Torch averages over no window that is longer than the volume; this one holds all of it.
        thin = length <= 2 * AVERAGED
        if thin:
            volume = volume.mean(axis, keepdim=True).expand_as(volume)
        window.append(1 if thin else 2 * AVERAGED + 1)
        reach.append(0 if thin else AVERAGED)
    return F.avg_pool3d(volume[None], window, 1, reach, count_include_pad=False)[0]
