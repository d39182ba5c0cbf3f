"""Densities that are functions of points, rendered by summing samples along rays."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations.base import Representation


class RayField(Representation):
    """Represent a volume by a function of points; subclasses give `field`.

    The function sees the unit box: the grid's largest edge spans [-1, 1], shorter ones less, around
    0. Outside of the grid's box there is nothing.

    Args:
        grid: the box.
        samples: points of a ray, spread over its way through the box.
        chunk: points evaluated at one time where no gradient is asked for.

    Attributes:
        draws: (1,) renderings with jitter so far; with the seed it decides the next jitter, and it
            is part of a checkpoint, so that a resumed run equals an uninterrupted one.

    Raises:
        ValueError: no sample, or an empty chunk.

    Source: stratified samples are those of NAF (Zha et al., MICCAI 2022). Deviations: a ray begins
    and ends where it meets the box, where NAF takes two distances from the source for all rays; each
    sample stands for its stratum, which makes the jittered sum unbiased, where NAF weights samples by
    the distance to the next one and loses the ends.
    """

    def __init__(self, grid: VolumeGrid, *, samples: int = 192, chunk: int = 1 << 18) -> None:
        super().__init__(grid)
        if min(samples, chunk) < 1:
            raise ValueError(
                f"samples and chunk are {samples} and {chunk}; at least 1 is expected."
            )
        self.samples = samples
        self.chunk = chunk
        self.seed = 0
        self.register_buffer("draws", torch.zeros(1, dtype=torch.int64))

    @abstractmethod
    def field(self, points: Tensor) -> Tensor:
        """Return the density (R, S), normalised attenuation.

        Args:
            points: (R, S, 3) in the unit box, x, y, z; S consecutive points of each of R lines.
        """

    def initialise(
        self, volume: Tensor, projections: Tensor, scan: ScanGeometry, seed: int
    ) -> None:
        """Check the grid and take the seed of the jitter; see `Representation`."""
        self.check_volume(volume)
        self.seed = seed

    def density(self, points: Tensor) -> Tensor:
        """Return the density at points (..., 3) in mm as (...), each a line of its own."""
        return self._in_chunks(points.reshape(-1, 1, 3)).reshape(points.shape[:-1])

    def render(self, scan: ScanGeometry) -> Tensor:
        """Return the line integrals (V, H, W) in mm.

        Samples lie in the middles of the strata of a ray; anywhere in them, drawn anew each time,
        while the module trains with gradients.
        """
        like = next(self.parameters())
        origins, directions = (
            rays.reshape(-1, 3) for rays in scan.rays(like.device, like.dtype)
        )  # (R, 3)
        entry, exit_ = self.span(origins, directions)  # (R,)
        met = torch.nonzero(exit_ > entry)[:, 0]
        sums = self._integrate(origins[met], directions[met], entry[met], exit_[met])
        image = torch.zeros(len(origins), device=sums.device, dtype=sums.dtype)
        return image.index_put((met,), sums).view(len(scan), *scan.detector_shape)

    def query(self, grid: VolumeGrid) -> Tensor:
        """Return the density at the voxels of a grid (Z, Y, X); rows along x are the lines."""
        like = next(self.parameters())
        points = grid.points(like.device, like.dtype)
        return self._in_chunks(points.flatten(0, 1)).view(grid.shape)

    def span(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return where rays enter and leave the box, (R,) each in mm from their origins.

        Args:
            origins: (R, 3) mm; what lies behind them does not count.
            directions: (R, 3) unit vectors.

        Returns:
            Distances; the second is not greater than the first where a ray misses the box.
        """
        low, high = (origins.new_tensor(corner) for corner in self.grid.corners_mm)
        # A direction along a face must give infinity with a sign, not NaN.
        slope = torch.where(directions == 0, torch.finfo(directions.dtype).tiny, directions)
        sides = torch.stack([(low - origins) / slope, (high - origins) / slope])  # (2, R, 3)
        entry = sides.amin(0).amax(-1).clamp(min=0)
        return entry, sides.amax(0).amin(-1)

    def unit(self, points: Tensor) -> Tensor:
        """Return points (..., 3) in mm as coordinates of the unit box."""
        return (points - points.new_tensor(self.grid.centre_mm)) * (2 / max(self.grid.size_mm))

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
            sums.append(self.field(self.unit(points)).sum(1))
        return stratum * torch.cat(sums) if sums else stratum

    def _offsets(self, count: int, like: Tensor) -> Tensor:
        """Return the places of samples (R, S), or (1, S) for all rays, in strata from the entry."""
        strata = torch.arange(self.samples, device=like.device, dtype=like.dtype)
        if not (self.training and torch.is_grad_enabled()):
            return (strata + 0.5)[None]
        generator = torch.Generator(like.device)
        generator.manual_seed(self.seed * 1_000_003 + int(self.draws))
        self.draws += 1
        size = (count, self.samples)
        return strata + torch.rand(size, generator=generator, device=like.device, dtype=like.dtype)

    def _in_chunks(self, points: Tensor) -> Tensor:
        """Return the density (R, S) at points (R, S, 3) in mm, 0 outside of the box."""
        low, high = (points.new_tensor(corner) for corner in self.grid.corners_mm)
        lines = max(1, self.chunk // max(points.shape[1], 1))
        if torch.is_grad_enabled():
            lines = max(len(points), 1)
        parts = []
        for part in points.split(lines):
            inside = ((part >= low) & (part <= high)).all(-1)
            parts.append(torch.where(inside, self.field(self.unit(part)), 0))
        return torch.cat(parts)
