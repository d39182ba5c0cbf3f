"""Slices that finetuning draws from curated scans, and those that it is judged by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from diffnr_lightning.batches import SlicePair, VolumePair
from diffnr_lightning.data.pairs.files import ScanPairs
from diffnr_lightning.planes import PLANE_NAMES, PlaneName, plane_axis

# A slice whose largest value is not above this shows air alone.
EMPTY = 1e-3
# Slices that are looked at until one shows something.
LOOKS = 32


def _stack(volume: Tensor, axis: int, index: int, context: int) -> Tensor:
    """Slice with its neighbours, (2 context + 1, H, W); the outermost slice is repeated."""
    last = volume.shape[axis] - 1
    indices = [min(max(index + offset, 0), last) for offset in range(-context, context + 1)]
    return torch.stack([volume.select(axis, i) for i in indices])


def _residual(scan: ScanPairs, snapshot: int, axis: int, index: int, context: int) -> Tensor:
    """As `_stack`, of the backprojected residual; zeros where it was not kept."""
    if scan.residual is None:
        return torch.zeros_like(_stack(scan.degraded[snapshot], axis, index, context))
    return _stack(scan.residual[snapshot], axis, index, context)


def _noise(scan: ScanPairs, axis: int, index: int) -> Tensor:
    """Standard deviation of the noise in a slice of the residual, (1, H, W); zeros where it is not known."""
    if scan.noise is None:
        return torch.zeros_like(scan.clean.select(axis, index)[None])
    return scan.noise.select(axis, index)[None]


def _planes_of(scan: ScanPairs, planes: Sequence[PlaneName]) -> Sequence[PlaneName]:
    """Planes that a scan is sliced along, of those that are wanted; projections lie along the first axis alone."""
    return ("axial",) if scan.info.get("kind") == "projections" else planes


def _position(volume: Tensor, axis: int, index: int) -> float:
    return 2 * index / max(volume.shape[axis] - 1, 1) - 1


class SlicePairDataset(Dataset[SlicePair]):
    """Random crops of random slices; item i is drawn from (seed, i) alone.

    So a run that resumes at item i sees the very items it would have seen. Processes that share a
    run take turns along the same sequence of draws.

    Args:
        scans: curated scans to draw from.
        length: items.
        seed: of the draws.
        crop: edge of the crop in pixels.
        context: neighbouring slices on each side.
        planes: planes of slicing, each equally often; pairs of projections are not sliced but drawn one by one.
        zoom: range of the magnification (log-uniform, half of the items stay at 1), applied to both
            slices alike; a crop that does not fit in the slice is magnified until it does.
        gain: range of the factor on the intensities of both slices.
        flips: whether squares are mirrored along rows and columns, each at every second draw.
        empty_share: probability of keeping a drawn slice that shows nothing; otherwise another is
            drawn, up to 32 times.
        dropout: probability of hiding the projections, and, apart from that, the number of views,
            the residual and its noise, each.
        chances: (N,) chance of every scan to be drawn, see `shares.drawing_chances`; None draws each
            equally often.
        rank: number of this process.
        world_size: processes that share the run.
    """

    def __init__(
        self,
        scans: Sequence[ScanPairs],
        length: int,
        *,
        seed: int = 0,
        crop: int = 96,
        context: int = 1,
        planes: Sequence[PlaneName] = PLANE_NAMES,
        zoom: tuple[float, float] = (0.8, 1.25),
        gain: tuple[float, float] = (0.9, 1.1),
        flips: bool = True,
        empty_share: float = 0.05,
        dropout: float = 0.15,
        chances: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.scans = list(scans)
        self.length = length
        self.seed = seed
        self.crop = crop
        self.context = context
        self.planes = tuple(planes)
        self.zoom = zoom
        self.gain = gain
        self.flips = flips
        self.empty_share = empty_share
        self.dropout = dropout
        self.chances = chances
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> SlicePair:
        channels = 2 * self.context + 1
        rng = np.random.default_rng((self.seed, item * self.world_size + self.rank))
        scan = self.scans[rng.choice(len(self.scans), p=self.chances)]
        snapshot = rng.integers(len(scan.degraded))
        degraded = scan.degraded[snapshot]
        planes = _planes_of(scan, self.planes)
        axis = plane_axis(planes[rng.integers(len(planes))])
        for _ in range(LOOKS):
            index = int(rng.integers(degraded.shape[axis]))
            if rng.random() < self.empty_share or scan.clean.select(axis, index).amax() > EMPTY:
                break
        slices = torch.cat(
            (
                _stack(degraded, axis, index, self.context),
                scan.clean.select(axis, index)[None],
                _residual(scan, snapshot, axis, index, self.context),
                _noise(scan, axis, index),
            )
        )
        slices = self._cropped(slices, rng) * rng.uniform(*self.gain)
        degraded, clean, residual, noise = slices.split((channels, 1, channels, 1))
        kept = rng.random(4) >= self.dropout
        return SlicePair(
            degraded=degraded.clamp(0, 1),
            clean=clean.clamp(0, 1),
            biplanar=scan.biplanar.float() * float(kept[0]),
            position=torch.tensor(_position(scan.clean, axis, index), dtype=torch.float32),
            plane=torch.tensor(axis),
            views=torch.tensor(float(scan.info["views"]) * float(kept[1])),
            residual=residual * float(kept[2]),
            noise=noise * float(kept[3]),
        )

    def _cropped(self, slices: Tensor, rng: np.random.Generator) -> Tensor:
        """Random square of the slices, magnified and flipped at random, (C, crop, crop) float32."""
        height, width = slices.shape[-2:]
        magnified = np.exp(rng.uniform(*np.log(self.zoom))) if rng.random() < 0.5 else 1.0
        edge = min(max(round(self.crop / magnified), 1), height, width)
        top, left = rng.integers(height - edge + 1), rng.integers(width - edge + 1)
        square = slices[:, top : top + edge, left : left + edge].float()
        if edge != self.crop:
            square = F.interpolate(
                square[None], size=(self.crop, self.crop), mode="bilinear", align_corners=False
            )[0]
        axes = [axis for axis in (1, 2) if self.flips and rng.random() < 0.5]
        return square.flip(axes) if axes else square


class HeldOutSlices(Dataset[SlicePair]):
    """Whole slices of curated scans, always the same: one item is a batch from one snapshot.

    Args:
        scans: held-out scans.
        slices: evenly spaced slices of each snapshot and plane that show something.
        context: neighbouring slices on each side.
        planes: planes of slicing, as of `SlicePairDataset`.
    """

    def __init__(
        self,
        scans: Sequence[ScanPairs],
        *,
        slices: int = 8,
        context: int = 1,
        planes: Sequence[PlaneName] = ("axial",),
    ) -> None:
        self.scans = list(scans)
        self.slices = slices
        self.context = context
        self.blocks = [
            (scan, snapshot, plane_axis(plane))
            for scan in self.scans
            for snapshot in range(len(scan.degraded))
            for plane in _planes_of(scan, planes)
        ]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, item: int) -> SlicePair:
        scan, snapshot, axis = self.blocks[item]
        others = tuple(other for other in range(3) if other != axis)
        filled = torch.nonzero(scan.clean.amax(dim=others) > EMPTY).flatten()
        if not len(filled):
            filled = torch.arange(scan.clean.shape[axis])
        # Midpoints of equal parts of the range, so that the outermost slices do not dominate.
        picks = (torch.arange(self.slices) + 0.5) * len(filled) / self.slices
        chosen = filled[picks.long()].unique().tolist()
        degraded = scan.degraded[snapshot]
        return SlicePair(
            degraded=torch.stack(
                [_stack(degraded, axis, index, self.context) for index in chosen]
            ).float(),
            clean=scan.clean.movedim(axis, 0)[chosen, None].float(),
            biplanar=scan.biplanar.float().expand(len(chosen), *scan.biplanar.shape),
            position=torch.tensor([_position(degraded, axis, index) for index in chosen]),
            plane=torch.full((len(chosen),), axis),
            views=torch.full((len(chosen),), float(scan.info["views"])),
            residual=torch.stack(
                [_residual(scan, snapshot, axis, index, self.context) for index in chosen]
            ).float(),
            noise=torch.stack([_noise(scan, axis, index) for index in chosen]).float(),
        )


class HeldOutVolumes(Dataset[VolumePair]):
    """Whole volumes of curated scans, always the same: one item is one snapshot.

    Args:
        scans: held-out scans.
    """

    def __init__(self, scans: Sequence[ScanPairs]) -> None:
        self.snapshots = [(scan, place) for scan in scans for place in range(len(scan.degraded))]

    def __len__(self) -> int:
        return len(self.snapshots)

    def __getitem__(self, item: int) -> VolumePair:
        scan, place = self.snapshots[item]
        return VolumePair(
            degraded=scan.degraded[place].float(),
            clean=scan.clean[:].float(),
            biplanar=scan.biplanar[:].float(),
            views=torch.tensor(float(scan.info["views"])),
            residual=torch.zeros(scan.clean.shape)
            if scan.residual is None
            else scan.residual[place].float(),
            noise=torch.zeros(scan.clean.shape) if scan.noise is None else scan.noise[:].float(),
        )
