"""Pairs of degraded and clean slices, as finetuning draws them from curated scans."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffnr_lightning.batches import SlicePair, VolumePair
from diffnr_lightning.data.datamodules import IterationSampler
from diffnr_lightning.data.pair_files import ScanPairs, open_pairs, write_pairs
from diffnr_lightning.planes import PLANE_NAMES, PlaneName, plane_axis

__all__ = [
    "HeldOutSlices",
    "HeldOutVolumes",
    "ScanPairs",
    "SlicePairData",
    "SlicePairDataset",
    "open_pairs",
    "write_pairs",
]


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


def _position(volume: Tensor, axis: int, index: int) -> float:
    return 2 * index / max(volume.shape[axis] - 1, 1) - 1


class SlicePairDataset(Dataset[SlicePair]):
    """Random crops of random slices; item i is drawn from (seed, i) alone.

    So a run that resumes at item i sees the very items it would have seen. Processes that share a
    run take turns along the same sequence of draws.

    Args:
        scans: curated scans to draw from, each equally often.
        length: items.
        seed: of the draws.
        crop: edge of the crop in pixels.
        context: neighbouring slices on each side.
        planes: planes of slicing, each equally often.
        zoom: range of the magnification (log-uniform, half of the items stay at 1), applied to both
            slices alike; a crop that does not fit in the slice is magnified until it does.
        gain: range of the factor on the intensities of both slices.
        empty_share: probability of keeping a drawn slice that shows nothing; otherwise another is
            drawn, up to 32 times.
        dropout: probability of hiding the projections, and, apart from that, the number of views and
            the residual.
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
        empty_share: float = 0.05,
        dropout: float = 0.15,
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
        self.empty_share = empty_share
        self.dropout = dropout
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> SlicePair:
        channels = 2 * self.context + 1
        rng = np.random.default_rng((self.seed, item * self.world_size + self.rank))
        scan = self.scans[rng.integers(len(self.scans))]
        snapshot = rng.integers(len(scan.degraded))
        degraded = scan.degraded[snapshot]
        axis = plane_axis(self.planes[rng.integers(len(self.planes))])
        for _ in range(32):
            index = int(rng.integers(degraded.shape[axis]))
            if rng.random() < self.empty_share or scan.clean.select(axis, index).amax() > 1e-3:
                break
        slices = torch.cat(
            (
                _stack(degraded, axis, index, self.context),
                scan.clean.select(axis, index)[None],
                _residual(scan, snapshot, axis, index, self.context),
            )
        )
        slices = self._cropped(slices, rng) * rng.uniform(*self.gain)
        degraded, clean, residual = slices.split((channels, 1, channels))
        shown = rng.random(3) >= self.dropout
        return SlicePair(
            degraded=degraded.clamp(0, 1),
            clean=clean.clamp(0, 1),
            biplanar=scan.biplanar.float() * float(shown[0]),
            position=torch.tensor(_position(scan.clean, axis, index), dtype=torch.float32),
            plane=torch.tensor(axis),
            views=torch.tensor(float(scan.info["views"]) * float(shown[1])),
            residual=residual * float(shown[2]),
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
        axes = [axis for axis in (1, 2) if rng.random() < 0.5]
        return square.flip(axes) if axes else square


class HeldOutSlices(Dataset[SlicePair]):
    """Whole slices of curated scans, always the same: one item is a batch from one snapshot.

    Args:
        scans: held-out scans.
        slices: evenly spaced slices of each snapshot and plane that show something.
        context: neighbouring slices on each side.
        planes: planes of slicing.
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
            for plane in planes
        ]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, item: int) -> SlicePair:
        scan, snapshot, axis = self.blocks[item]
        others = tuple(other for other in range(3) if other != axis)
        filled = torch.nonzero(scan.clean.amax(dim=others) > 1e-3).flatten()
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
            biplanar=scan.biplanar.float().expand(len(chosen), -1, -1, -1),
            position=torch.tensor([_position(degraded, axis, index) for index in chosen]),
            plane=torch.full((len(chosen),), axis),
            views=torch.full((len(chosen),), float(scan.info["views"])),
            residual=torch.stack(
                [_residual(scan, snapshot, axis, index, self.context) for index in chosen]
            ).float(),
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
        )


class SlicePairData(lightning.LightningDataModule):
    """Training crops and held-out slices from pairs folders; one epoch is the whole run.

    The Trainer is given `max_epochs=1`: the run ends when `iterations` batches are drawn. It
    resumes where the module's `iteration` stands.

    Args:
        folders: written by `diffnr curate`.
        iterations: batches of the run.
        held_out: patterns (fnmatch) of the case names that are kept for validation.
        batch_size: crops in a training batch.
        crop: edge of a crop in pixels.
        context: neighbouring slices on each side, as the prior's.
        planes: planes of slicing in training.
        zoom: range of the magnification.
        gain: range of the factor on the intensities.
        empty_share: probability of keeping a drawn slice that shows nothing.
        dropout: probability of hiding the projections, the number of views and the residual, each.
        validation: on evenly spaced slices of the held-out scans, or on whole volumes.
        validation_slices: slices of each held-out snapshot and plane.
        validation_planes: planes of slicing in validation.
        seed: of the draws.
        workers: processes that prepare batches; 0 prepares them in the training process.

    Raises:
        ValueError: a range, share or size that makes no sense.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        iterations: int,
        held_out: Sequence[str] = (),
        batch_size: int = 8,
        crop: int = 96,
        context: int = 1,
        planes: Sequence[PlaneName] = PLANE_NAMES,
        zoom: tuple[float, float] = (0.8, 1.25),
        gain: tuple[float, float] = (0.9, 1.1),
        empty_share: float = 0.05,
        dropout: float = 0.15,
        validation: Literal["slices", "volumes"] = "slices",
        validation_slices: int = 8,
        validation_planes: Sequence[PlaneName] = ("axial",),
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        for name, count in (
            ("folders", len(folders)),
            ("iterations", iterations),
            ("batch_size", batch_size),
            ("crop", crop),
            ("validation_slices", validation_slices),
            ("planes", len(planes)),
            ("validation_planes", len(validation_planes)),
        ):
            if count < 1:
                raise ValueError(f"{name} is or has the length {count}; expected at least 1.")
        for name, (low, high) in (("zoom", zoom), ("gain", gain)):
            if not 0 < low <= high:
                raise ValueError(f"{name} is ({low}, {high}); expected 0 < low <= high.")
        if not 0 <= empty_share <= 1 or not 0 <= dropout <= 1:
            raise ValueError(
                f"empty_share is {empty_share} and dropout {dropout}; expected shares in [0, 1]."
            )
        self.folders = [Path(folder) for folder in folders]
        self.iterations = iterations
        self.held_out = tuple(held_out)
        self.batch_size = batch_size
        self.context = context
        self.drawing = {
            "seed": seed,
            "crop": crop,
            "context": context,
            "planes": tuple(planes),
            "zoom": zoom,
            "gain": gain,
            "empty_share": empty_share,
            "dropout": dropout,
        }
        self.validate_on = validation
        self.validation_slices = validation_slices
        self.validation_planes = tuple(validation_planes)
        self.workers = workers
        self.training: list[ScanPairs] = []
        self.validation: list[ScanPairs] = []

    def setup(self, stage: str) -> None:
        """Map the files and split them by case.

        Raises:
            FileNotFoundError: a folder without pairs.
            ValueError: a damaged file, biplanar pairs of several sizes, a pattern that no case has,
                or nothing left to train on.
        """
        scans = [scan for folder in self.folders for scan in open_pairs(folder).values()]
        sizes = sorted({tuple(scan.biplanar.shape) for scan in scans})
        if len(sizes) > 1:
            raise ValueError(
                f"the pairs folders hold biplanar projections of the shapes {sizes}; curate all of "
                "them with the same size."
            )
        cases = {str(scan.info["case"]) for scan in scans}
        for pattern in self.held_out:
            if not any(fnmatch(case, pattern) for case in cases):
                raise ValueError(
                    f"held_out has {pattern!r}, which no curated case matches; the cases are "
                    f"{', '.join(sorted(cases))}."
                )
        held_out = [any(fnmatch(str(s.info["case"]), p) for p in self.held_out) for s in scans]
        self.training = [s for s, held in zip(scans, held_out, strict=True) if not held]
        self.validation = [s for s, held in zip(scans, held_out, strict=True) if held]
        if not self.training:
            raise ValueError("held_out matches every curated case; leave some to train on.")

    def train_dataloader(self) -> DataLoader[SlicePair]:
        """Batches of random crops from the module's iteration on."""
        total = self.iterations * self.batch_size
        done = self.trainer.lightning_module.iteration * self.batch_size
        return DataLoader(
            SlicePairDataset(
                self.training,
                total,
                rank=self.trainer.global_rank,
                world_size=self.trainer.world_size,
                **self.drawing,
            ),
            batch_size=self.batch_size,
            sampler=IterationSampler(total, start=done),
            num_workers=self.workers,
        )

    def val_dataloader(self) -> DataLoader[SlicePair | VolumePair] | list[Any]:
        """One batch for each held-out snapshot (and plane); processes share them whole."""
        if not self.validation:
            return []
        held_out: Dataset[Any] = (
            HeldOutVolumes(self.validation)
            if self.validate_on == "volumes"
            else HeldOutSlices(
                self.validation,
                slices=self.validation_slices,
                context=self.context,
                planes=self.validation_planes,
            )
        )
        mine = range(self.trainer.global_rank, len(held_out), self.trainer.world_size)
        # Every process validates something, lest the others wait for its scores for ever.
        return DataLoader(held_out, batch_size=None, sampler=list(mine) or [0])
