"""How samplers adapt a denoiser to the projections: by what slabs of slices leave unexplained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import LeastSquares, unrolled_fit
from diffnr_lightning.draws import generator_at
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.diffusion.slice_stacks import predicted_noise, single_slices


class SlabLoss:
    """What slabs of neighbouring slices leave of the projections, where the other slices are held.

    In a cone beam a ray meets many slices; a slab is compared with what the others leave of the rays through it.

    Args:
        fit: the least squares of the whole volume.
        scale: one over the largest eigenvalue of its ``A^T W A``.
        denoiser: of single slices.
        iterations: of conjugate gradients on a slab before it is compared; 0 compares what the denoiser returns.
        proximity: of these to what the denoiser returns, see `unrolled_fit`.
        variation: weight of the mean total variation in slices, in unit a voxel.
    """

    def __init__(
        self,
        fit: LeastSquares,
        scale: float,
        denoiser: nn.Module,
        *,
        iterations: int,
        proximity: float = 0.0,
        variation: float = 0.0,
    ) -> None:
        self.fit, self.scale, self.denoiser = fit, scale, denoiser
        self.iterations, self.proximity, self.variation = iterations, proximity, variation
        self._rows: dict[tuple[int, int], slice] = {}

    def hold(self, volume: Tensor) -> None:
        """Hold the slices of a volume (Z, Y, X) in unit for the losses that follow."""
        self.volume, self.shown = volume, self.fit.shown(volume)

    def __call__(self, noisy: Tensor, step: int, place: slice) -> Tensor:
        """Return the loss () of the slices of a place, whose gradient reaches the denoiser.

        Args:
            noisy: (Z, Y, X) on the denoiser's scale.
            step: of the schedule.
            place: of the slab, with start and stop.
        """
        slab, (low, high) = noisy[place], self.denoiser.scale
        noise = predicted_noise(slab, step, self.denoiser, single_slices(len(slab)), len(slab))
        clean = (self.denoiser.schedule.estimate(slab, noise, step) - low) / (high - low)
        fit = self._fit(place)
        options = {"iterations": self.iterations, "proximity": self.proximity}
        fitted = unrolled_fit(fit, clean, scale=self.scale, **options)
        # In the unit of voxels, so that it means the same for all scans and slabs.
        loss = self.scale * (fit.weights * fitted.residual.square()).sum() / slab.numel()
        if self.variation > 0:
            steps = (torch.diff(fitted.volume, dim=axis).abs().mean() for axis in (1, 2))
            loss = loss + self.variation * sum(steps)
        return loss

    def _fit(self, place: slice) -> LeastSquares:
        """Return the least squares of a slab alone."""
        held = self.volume[place]
        grid = self.fit.grid.crop((place.start, 0, 0), held.shape)
        if (key := (place.start, place.stop)) not in self._rows:
            met = project(torch.ones_like(held), grid, self.fit.scan).amax(dim=(0, 2)) > 0
            rows = torch.nonzero(met).flatten().tolist() or [0]
            self._rows[key] = slice(rows[0], rows[-1] + 1)
        rows = self._rows[key]
        scan = self.fit.scan.window(rows)
        left = self.fit.projections[:, rows] - self.shown[:, rows] + project(held, grid, scan)
        return LeastSquares(left, grid, scan, self.fit.weights[:, rows])


def drawn_slabs(count: int, slices: int, number: int, seed: int, step: int) -> list[slice]:
    """Return places of slabs, drawn from (seed, step).

    Args:
        count: slices of the volume.
        slices: of a slab; all where there are fewer.
        number: of slabs.
        seed: of the run.
        step: number of the step in it.
    """
    generator = generator_at(seed, step)
    slices = min(slices, count)
    starts = torch.randint(count - slices + 1, (number,), generator=generator).tolist()
    return [slice(start, start + slices) for start in starts]


def side_by_side(count: int, slices: int) -> list[slice]:
    """Return places of slabs that fill a volume of some slices."""
    return [slice(start, min(start + slices, count)) for start in range(0, count, slices)]


def check_adaptation(denoiser: nn.Module, *, rate: float, updates: int, slices: int) -> None:
    """Refuse what no denoiser is adapted with.

    Raises:
        ValueError: a denoiser that does not take single slices, or a number that makes no sense.
    """
    if denoiser.dimensions != 2 or not denoiser.alone:
        raise ValueError(
            f"the denoiser is one of {denoiser.channels} channels and {denoiser.dimensions} dimensions that was not "
            "trained on single slices; one that was is expected."
        )
    if not rate > 0.0 or min(updates, slices) < 1:
        raise ValueError(
            f"rate is {rate}, updates {updates} and slices {slices}; a positive number and at least one of each are "
            "expected."
        )
