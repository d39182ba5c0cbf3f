"""A volume in slabs along z, one for each process, and the projector pair of the whole.

Projection is linear: what a ray meets is the sum of what it meets in each slab. The projections are held by
every process, and the volume by none.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import backproject, choose_backend, project


class Whole(NamedTuple):
    """The projector pair of a volume in one piece: what `Slabs` is for one in several.

    Attributes:
        grid: voxels of the volume.
        scan: the views.
    """

    grid: VolumeGrid
    scan: ScanGeometry

    def project(self, volume: Tensor) -> Tensor:
        """Return the projections (V, H, W) of a volume (Z, Y, X)."""
        return project(volume, self.grid, self.scan)

    def backproject(self, projections: Tensor) -> Tensor:
        """Return the adjoint (Z, Y, X) of projections (V, H, W)."""
        return backproject(projections, self.grid, self.scan)

    def largest(self, volume: Tensor) -> Tensor:
        """Return the largest value of a volume, ()."""
        return volume.max()


class Slabs:
    """Divide a volume in slabs along z among the processes of a group.

    Every process makes one, of the same arguments, and calls the same methods in the same order. It holds its own slab
    and all projections: losses of projections are those of the whole in each, and their gradients are right for the
    slab. Losses of voxels are to be summed over the processes by whoever wants their value. A representation is asked
    for a slab by `query(slabs.grid)`.

    Args:
        grid: voxels of the whole volume.
        scan: the views, in any poses.
        group: of `torch.distributed`; None takes all processes.

    Attributes:
        grid: voxels of the slab of this process.
        slices: z slices of the whole volume that they are.

    Raises:
        ValueError: more processes than slices.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        scan: ScanGeometry,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        rank, count = distributed.get_rank(group), distributed.get_world_size(group)
        if count > grid.shape[0]:
            raise ValueError(
                f"the group has {count} processes and the grid {grid.shape[0]} slices; at most one process for each "
                "slice is expected."
            )
        self._whole, self._scan, self._group, self._rank = grid, scan, group, rank
        ends = [k * grid.shape[0] // count for k in range(count + 1)]
        self._slices = [slice(*pair) for pair in itertools.pairwise(ends)]
        self.slices = self._slices[rank]
        self.grid = self._part(rank)
        self._rows = _rows_that_see(scan, self.grid)
        self._seen = scan.window(self._rows)

    def project(self, slab: Tensor) -> Tensor:
        """Return the projections of the whole volume.

        Args:
            slab: (Z', Y, X) of this process, any density.

        Returns:
            (V, H, W) in the unit of the volume times mm, the same in all processes.
        """
        part = project(slab, self.grid, self._seen, self._backend(slab))
        below = self._scan.detector_shape[0] - self._rows.stop
        return _Sum.apply(F.pad(part, (0, 0, self._rows.start, below)), self._group)

    def backproject(self, projections: Tensor) -> Tensor:
        """Return this process's slab (Z', Y, X) of the adjoint of `project`.

        Args:
            projections: (V, H, W), the same in all processes.
        """
        rows = _Share.apply(projections, self._group)[:, self._rows].contiguous()
        return backproject(rows, self.grid, self._seen, self._backend(projections))

    def largest(self, slab: Tensor) -> Tensor:
        """Return the largest value of the whole volume, ()."""
        largest = slab.detach().max()
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, self._group)
        return largest

    def gathered(self, slab: Tensor) -> Tensor | None:
        """Return the whole volume (Z, Y, X) on the CPU of the first process, None in the others.

        A device holds one more slab meanwhile.
        """
        parts = []
        for number in range(len(self._slices)):
            own = number == self._rank
            part = slab.detach().contiguous() if own else slab.new_empty(self._part(number).shape)
            source = (
                number if self._group is None else distributed.get_global_rank(self._group, number)
            )
            distributed.broadcast(part, source, self._group)
            if self._rank == 0:
                parts.append(part.cpu())
        return torch.cat(parts) if parts else None

    def _part(self, number: int) -> VolumeGrid:
        part = self._slices[number]
        return self._whole.crop(
            (part.start, 0, 0), (part.stop - part.start, *self._whole.shape[1:])
        )

    def _backend(self, like: Tensor) -> str:
        """Return the backend that serves the whole volume, which a thin slab alone might not ask for."""
        return choose_backend(self._whole, self._scan, like.device, like.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the same for each part of it."""

    @staticmethod
    def forward(ctx: FunctionCtx, part: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = part.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return _Share.apply(gradient, ctx.group), None


class _Share(torch.autograd.Function):
    """What all processes have alike, whose gradient is the sum of what each of them makes of it."""

    @staticmethod
    def forward(ctx: FunctionCtx, shared: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return shared.view_as(shared)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradient, ctx.group), None


def _rows_that_see(scan: ScanGeometry, grid: VolumeGrid) -> slice:
    """Return the detector rows whose rays may meet the voxels of a grid or the zeros next to them, at least one.

    The shadow of a box is the convex hull of those of its corners, where all of them lie between source and detector
    or beyond; elsewhere all rows are returned.
    """
    rows = scan.detector_shape[0]
    low, high = (np.asarray(corner) for corner in grid.corners_mm)
    half = 0.5 * np.asarray(grid.voxel_mm[::-1])  # interpolation reaches the next voxel's centre
    corners = np.array(list(itertools.product(*zip(low - half, high + half, strict=True))))
    if scan.beam == "cone":
        start, ray = scan.source_mm[:, None], corners - scan.source_mm[:, None]
    else:
        start, ray = corners[None], np.broadcast_to(scan.direction[:, None], (len(scan), 8, 3))
    # The pixel (row, column) and the length t of the ray: detector + row v + column u = start + t ray.
    steps = (
        np.broadcast_to(scan.v_mm[:, None], ray.shape),
        np.broadcast_to(scan.u_mm[:, None], ray.shape),
    )
    matrix = np.stack([*steps, -ray], axis=-1)
    reach = np.broadcast_to(start - scan.detector_mm[:, None], ray.shape)[..., None]
    if (np.abs(np.linalg.det(matrix)) < 1e-12).any():
        return slice(0, rows)
    row, _, length = np.moveaxis(np.linalg.solve(matrix, reach)[..., 0], -1, 0)
    if scan.beam == "cone" and (length <= 0).any():
        return slice(0, rows)
    row = row + 0.5 * (rows - 1)
    first = min(max(int(np.floor(row.min())) - 1, 0), rows - 1)
    return slice(first, min(max(int(np.ceil(row.max())) + 2, first + 1), rows))
