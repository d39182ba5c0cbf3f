"""What a denoiser in training is shown: stacks of slices, and patches of volumes, as functions of (seed, iteration)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from diffnr_lightning.batches import CleanPatches, CleanSlices
from diffnr_lightning.planes import PLANE_NAMES, PLANES, PlaneName, plane_axis

# A slice whose largest value is below this shows air alone.
EMPTY = 1e-2
# Slices that are looked at until one shows something.
LOOKS = 32
LEFT_RIGHT = 2


def neighbours(volume: Tensor, axis: int, index: int, gap: int, channels: int) -> Tensor:
    """Return slices of a volume around one, those beyond its ends being its outermost.

    Args:
        volume: (Z, Y, X).
        axis: that slices follow each other along.
        index: of the slice in the middle.
        gap: slices from one to the next.
        channels: how many.

    Returns:
        (channels, H, W) float32.
    """
    steps = gap * (torch.arange(channels) - channels // 2)
    places = (index + steps).clamp(0, volume.shape[axis] - 1)
    return volume.index_select(axis, places).movedim(axis, 0).float()


def window(
    stack: Tensor,
    corner: tuple[int, int],
    size: int,
    magnified: float = 1.0,
    mirrored: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cut a square out of slices that may be magnified about their centre; beyond them is air.

    Args:
        stack: (C, H, W).
        corner: row and column of its first pixel, which may lie outside.
        size: its edge in pixels.
        magnified: by how much the slices are magnified before.
        mirrored: whether their columns are reversed before.

    Returns:
        (C, size, size), and the row and column of its pixels, (2, size, size), -1 at the centre of the first row or
        column of the slices and 1 at that of the last.
    """
    rows, columns = (
        2 * (first + torch.arange(size, dtype=torch.float32)) / (count - 1) - 1
        for first, count in zip(corner, stack.shape[1:], strict=True)
    )
    coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    seen = coordinates.flip(0).movedim(0, -1) / magnified
    if mirrored:
        seen = seen * torch.tensor([-1.0, 1.0])
    return F.grid_sample(stack[None], seen[None], align_corners=True)[0], coordinates


class StackDraws(Dataset[CleanSlices]):
    """Random stacks of slices; an item is the batch of an iteration.

    Args:
        volumes: (Z, Y, X) in [0, 1], by name.
        length: batches of the run.
        batch_size: stacks of the largest crop in a batch; of smaller ones there are as many as have as many pixels.
        channels: slices of a stack.
        gaps: between them, one of which is drawn for each stack; 0 repeats one slice.
        crops: edges in pixels, one of which is drawn for each batch.
        planes: of slicing.
        zoom: range of the magnification of every other stack.
        reach: pixels by which a crop may reach beyond the slice, into air.
        flips: whether left and right are exchanged at random.
        empty_share: probability of keeping a drawn slice that shows nothing.
        chances: (N,) of the volumes to be drawn; None for equal ones.
        seed: of all draws.
        rank: number of this process.
        world_size: processes that share the run.
    """

    def __init__(
        self,
        volumes: Mapping[str, Tensor],
        length: int,
        *,
        batch_size: int,
        channels: int,
        gaps: Sequence[int],
        crops: Sequence[int],
        planes: Sequence[PlaneName] = PLANE_NAMES,
        zoom: tuple[float, float] = (0.8, 1.1),
        reach: int = 8,
        flips: bool = True,
        empty_share: float = 0.1,
        chances: np.ndarray | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.volumes = list(volumes.values())
        self.length, self.batch_size, self.channels = length, batch_size, channels
        self.gaps, self.crops, self.planes = tuple(gaps), tuple(crops), tuple(planes)
        self.zoom, self.reach, self.flips = zoom, reach, flips
        self.empty_share, self.chances = empty_share, chances
        self.seed, self.rank, self.world_size = seed, rank, world_size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, iteration: int) -> CleanSlices:
        """Return the batch of an iteration."""
        rng = np.random.default_rng((self.seed, iteration * self.world_size + self.rank))
        crop = int(rng.choice(self.crops))
        count = self.batch_size * (max(self.crops) // crop) ** 2
        stacks = [self._stack(crop, rng) for _ in range(count)]
        return CleanSlices(*(torch.stack(part) for part in zip(*stacks, strict=True)))

    def _stack(self, crop: int, rng: np.random.Generator) -> CleanSlices:
        volume = self.volumes[rng.choice(len(self.volumes), p=self.chances)]
        axis = plane_axis(self.planes[rng.integers(len(self.planes))])
        gap = self.gaps[rng.integers(len(self.gaps))]
        for _ in range(LOOKS):
            index = int(rng.integers(volume.shape[axis]))
            if rng.random() < self.empty_share or volume.select(axis, index).amax() > EMPTY:
                break
        stack = neighbours(volume, axis, index, gap, self.channels)
        magnified = float(np.exp(rng.uniform(*np.log(self.zoom)))) if rng.random() < 0.5 else 1.0
        mirrored = self.flips and rng.random() < 0.5
        if mirrored and axis == LEFT_RIGHT:
            stack = stack.flip(0)
        corner = tuple(
            int(rng.integers(-self.reach, max(count - crop + self.reach, -self.reach) + 1))
            for count in stack.shape[1:]
        )
        columns_are_left_right = PLANES[axis].columns == LEFT_RIGHT
        clean, coordinates = window(
            stack, corner, crop, magnified, mirrored and columns_are_left_right
        )
        return CleanSlices(clean.clamp(0, 1), torch.tensor(gap), coordinates)


class HeldOutStacks(Dataset[CleanSlices]):
    """Middles of evenly spaced slices of volumes, always the same; an item is the batch of one volume and plane.

    Args:
        volumes: (Z, Y, X) in [0, 1], by name.
        slices: of each volume and plane; the gaps take turns.
        channels: slices of a stack.
        gaps: between them.
        crop: edge of the square around the middle.
        planes: of slicing.
    """

    def __init__(
        self,
        volumes: Mapping[str, Tensor],
        *,
        slices: int,
        channels: int,
        gaps: Sequence[int],
        crop: int,
        planes: Sequence[PlaneName] = PLANE_NAMES,
    ) -> None:
        self.blocks = [
            (volume, plane_axis(plane)) for volume in volumes.values() for plane in planes
        ]
        self.slices, self.channels, self.gaps, self.crop = slices, channels, tuple(gaps), crop

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, item: int) -> CleanSlices:
        volume, axis = self.blocks[item]
        places = ((torch.arange(self.slices) + 0.5) * volume.shape[axis] / self.slices).long()
        gaps = [self.gaps[place % len(self.gaps)] for place in range(self.slices)]
        cut = []
        for index, gap in zip(places.tolist(), gaps, strict=True):
            stack = neighbours(volume, axis, index, gap, self.channels)
            corner = tuple((count - self.crop) // 2 for count in stack.shape[1:])
            cut.append(window(stack, corner, self.crop))
        clean, coordinates = (torch.stack(part) for part in zip(*cut, strict=True))
        return CleanSlices(clean, torch.tensor(gaps), coordinates)


class PatchDraws(Dataset[CleanPatches]):
    """A random volume and random patches of it; an item is the batch of an iteration.

    A patch lies where a tiling with a random offset would put it: one that would reach beyond the volume is moved
    inside, so that voxels near the faces are seen as often as they are predicted.

    Args:
        volumes: (Z, Y, X) in [0, 1], by name.
        length: batches of the run.
        batch_size: patches in a batch.
        size: edge of a patch in voxels.
        flips: whether left and right are exchanged at random.
        chances: (N,) of the volumes to be drawn; None for equal ones.
        seed: of all draws.
        rank: number of this process.
        world_size: processes that share the run.
    """

    def __init__(
        self,
        volumes: Mapping[str, Tensor],
        length: int,
        *,
        batch_size: int,
        size: int,
        flips: bool = True,
        chances: np.ndarray | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.volumes = list(volumes.values())
        self.length, self.batch_size, self.size, self.flips = length, batch_size, size, flips
        self.chances, self.seed, self.rank, self.world_size = chances, seed, rank, world_size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, iteration: int) -> CleanPatches:
        """Return the batch of an iteration."""
        rng = np.random.default_rng((self.seed, iteration * self.world_size + self.rank))
        volume = self.volumes[rng.choice(len(self.volumes), p=self.chances)].float()
        if self.flips and rng.random() < 0.5:
            volume = volume.flip(LEFT_RIGHT)
        corners = [
            rng.integers(1 - self.size, count, self.batch_size).clip(0, count - self.size)
            for count in volume.shape
        ]
        return CleanPatches(volume, torch.from_numpy(np.stack(corners, axis=1)))


class HeldOutPatches(Dataset[CleanPatches]):
    """Volumes and patches spread evenly over them, always the same; an item is the batch of one volume.

    Args:
        volumes: (Z, Y, X) in [0, 1], by name.
        size: edge of a patch in voxels.
        along: patches along each edge of a volume.
    """

    def __init__(self, volumes: Mapping[str, Tensor], *, size: int, along: int = 2) -> None:
        self.volumes, self.size, self.along = list(volumes.values()), size, along

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, item: int) -> CleanPatches:
        volume = self.volumes[item].float()
        shares = (torch.arange(self.along) + 0.5) / self.along
        places = [(shares * (count - self.size + 1)).long() for count in volume.shape]
        return CleanPatches(volume, torch.cartesian_prod(*places).reshape(-1, 3))
