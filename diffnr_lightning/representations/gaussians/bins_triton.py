"""Which Gaussians meet which cells of an image or a grid, on the GPU: kernels and their launch.

A tile of pixels sums the Gaussians that meet it, so that no two programs write the same pixel. It
finds them in two steps, of which none can run out of room and none asks the device for a number:

1. `bin_boxes`: a program for each cell (64 pixels or voxels an edge) and each segment of 4,096
   Gaussians writes those of its segment whose box meets its cell, in their order, to a list of its
   own. The list has a place for each Gaussian of the segment: the worst case is what is allocated.
2. The kernels that sum test the lists of the cell around their tile once more and keep the hits
   of a block of candidates in a scratch of their own, again with a place for each.

Sorting keys (tile, Gaussian), as renderers of Gaussians mostly do, makes lists for tiles at once.
But their length is known to the device alone: it is either waited for, or the buffer is bounded by
a guess and overflows now and then. Here 50,000 Gaussians and a view of 256^2 take 3.2 MB of lists
and about 1 M tests in the first step, 3 M in the second (counted in `paper_launches` of the two
files), less than one pass of a radix sort over the 460,000 keys. Sums run in the order of the
Gaussians.

Boxes (N, 6), int32: first and last column, row, slice; a first column NEVER says that a Gaussian
is not seen. An image has one slice.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffnr_lightning.triton_kernels import PaperLaunch

if TYPE_CHECKING:
    from triton.runtime.jit import JITFunction

# Gaussians of a list, and of those how many a program takes at once.
SEGMENT, BLOCK = 4096, 1024
SMALLEST_CELL = 64
# A tile of an image, and how many candidates its program tests at once.
TILE_ROWS, TILE_COLUMNS, CANDIDATES = 8, 16, 256
# Lists are made for larger cells where they would take more than this.
LARGEST_LISTS = 2**28
NEVER = tl.constexpr(2**30)


# (views, whether to wait for the device) -> footprints and boxes.
Project = Callable[[slice, bool], tuple[Tensor, Tensor]]
Seen = tuple[slice, Tensor, Tensor]


class Bins(NamedTuple):
    """The Gaussians of each cell of some images or of one grid.

    Attributes:
        lists: (V, cells, segments, SEGMENT) int32, of which the first `counts` are written.
        counts: (V, cells, segments) int32.
        cell: pixels or voxels of a cell along an edge.
        across: cells along x and y.
    """

    lists: Tensor
    counts: Tensor
    cell: int
    across: tuple[int, int]

    @property
    def segments(self) -> int:
        """Lists of a cell."""
        return self.counts.shape[2]


@triton.jit
def meets(boxes, g, within, left, right, top, bottom, front, back, SOLID: tl.constexpr):
    """Return which boxes meet the cells from left to right and so on, both ends included."""
    box = boxes + 6 * g
    hit = within & (tl.load(box, mask=within, other=NEVER) <= right)
    hit &= tl.load(box + 1, mask=within, other=0) >= left
    hit &= tl.load(box + 2, mask=within, other=0) <= bottom
    hit &= tl.load(box + 3, mask=within, other=0) >= top
    if SOLID:
        hit &= tl.load(box + 4, mask=within, other=0) <= back
        hit &= tl.load(box + 5, mask=within, other=0) >= front
    return hit


@triton.jit
def keep(g, hit, target):
    """Write the Gaussians that hit one after the other, and return how many they are."""
    place = tl.cumsum(hit.to(tl.int32), 0) - 1
    tl.store(target + place, g, mask=hit)
    return tl.sum(hit.to(tl.int32), 0)


@triton.jit
def bin_boxes(
    boxes,
    lists,
    counts,
    count,
    cells_x,
    cells_y,
    cell,
    SOLID: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the Gaussians of one segment that meet one cell; programs (segments, cells, views)."""
    segment, place, view = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    left, top = place % cells_x * cell, place // cells_x % cells_y * cell
    front = place // (cells_x * cells_y) * cell
    boxes += view.to(tl.int64) * count * 6
    number = (view.to(tl.int64) * tl.num_programs(1) + place) * tl.num_programs(0) + segment
    target = lists + number * SEGMENT
    found = 0
    begin = segment * SEGMENT
    for start in range(begin, tl.minimum(begin + SEGMENT, count), BLOCK):
        g = start + tl.arange(0, BLOCK)
        edge = cell - 1
        hit = meets(
            boxes, g, g < count, left, left + edge, top, top + edge, front, front + edge, SOLID
        )
        found += keep(g, hit, target + found)
    tl.store(counts + number, found)


def cell_edge(count: int, shape: tuple[int, int, int]) -> int:
    """Return the edge of a cell with which the lists of one view or grid stay small.

    Args:
        count: Gaussians.
        shape: slices, rows, columns; 1 slice for an image.
    """
    cell = SMALLEST_CELL
    while cell < max(shape) and 4 * _places(count, shape, cell) > LARGEST_LISTS:
        cell *= 2
    return cell


def views_at_once(count: int, rows: int, columns: int) -> int:
    """Return how many views have room for their lists and scratches together."""
    shape = (1, rows, columns)
    scratches = _tiles(rows, columns) * CANDIDATES
    of_a_view = 4 * (_places(count, shape, cell_edge(count, shape)) + scratches)
    return max(1, LARGEST_LISTS // max(1, of_a_view))


def bin_gaussians(boxes: Tensor, shape: tuple[int, int, int]) -> Bins:
    """Return the Gaussians of each cell.

    Args:
        boxes: (V, N, 6) int32.
        shape: slices, rows, columns; 1 slice for an image.
    """
    views, count, _ = boxes.shape
    cell, segments = cell_edge(count, shape), -(-count // SEGMENT)
    cells = _cells(shape, cell)
    across = -(-shape[2] // cell), -(-shape[1] // cell)
    lists = boxes.new_empty((views, cells, segments, SEGMENT))
    counts = boxes.new_empty((views, cells, segments))
    bin_boxes[(segments, cells, views)](
        boxes,
        lists,
        counts,
        count,
        *across,
        cell,
        SOLID=shape[0] > 1,
        SEGMENT=SEGMENT,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return Bins(lists, counts, cell, across)


def deal_segments(segments: int, programs: int, wanted: int = 4096) -> tuple[int, int]:
    """Return in how many parts the segments are dealt so that few tiles make enough programs, and of how many.

    It follows from shapes alone: the order of a sum does not depend on the device.
    """
    of_a_part = -(-segments // max(1, wanted // max(1, programs)))
    return -(-segments // of_a_part), of_a_part


def sum_views(
    kernel: JITFunction, project: Project, count: int, cut: float, images: Tensor, trained: bool
) -> list[Seen]:
    """Write the images (V, H, W) of N Gaussians, as many views at once as have room.

    Args:
        kernel: as `sum_tiles` has it.
        project: returns what the kernel reads of the Gaussians in some views, and their boxes.
        count: N.
        cut: where a Gaussian ends, in standard deviations.
        images: zeros; written.
        trained: whether what was projected is needed again; else its numbers are waited for and checked now.

    Returns:
        For each part its views and what was projected, if it is needed again.
    """
    seen: list[Seen] = []
    if not count:
        return seen
    together = views_at_once(count, *images.shape[1:])
    for first in range(0, len(images), together):
        views = slice(first, first + together)
        with torch.cuda.device_of(images):
            footprints, boxes = project(views, not trained)
            sum_tiles(kernel, footprints, boxes, cut * cut, images[views])
        if trained:
            seen.append((views, footprints, boxes))
    return seen


def sum_tiles(
    kernel: JITFunction, footprints: Tensor, boxes: Tensor, cut2: float, images: Tensor
) -> None:
    """Write the images (V, H, W) that a kernel sums tile by tile from the Gaussians that meet a tile.

    Args:
        kernel: `splat` or `sum_lines`, which have the same arguments.
        footprints: (V, N, ...) what the kernel reads of each Gaussian.
        boxes: (V, N, 6) int32.
        cut2: square of the cut.
        images: written.
    """
    views, rows, columns = images.shape
    tiles = _tiles(rows, columns)
    bins = bin_gaussians(boxes, (1, rows, columns))
    splits, of_a_split = deal_segments(bins.segments, tiles * views)
    parts = images if splits == 1 else images.new_empty((views, splits, rows, columns))
    kernel[(tiles, splits, views)](
        footprints,
        boxes,
        bins.lists,
        bins.counts,
        boxes.new_empty((views * splits * tiles, CANDIDATES)),
        parts,
        boxes.shape[1],
        rows,
        columns,
        bins.segments,
        of_a_split,
        *bins.across,
        bins.cell,
        cut2,
        TILE_ROWS=TILE_ROWS,
        TILE_COLUMNS=TILE_COLUMNS,
        SEGMENT=SEGMENT,
        BLOCK=CANDIDATES,
        num_warps=1,
    )
    if splits > 1:
        torch.sum(parts, dim=1, out=images)


def tiles_of_a_paper_view(
    name: str, kernel: JITFunction, bytes_of_a_gaussian: int, flops_of_a_pixel: int
) -> PaperLaunch:
    """Return the launch of such a kernel for one view of 256^2.

    50,000 Gaussians of a first reconstruction have 392 pixels each (benchmarks: 3.6 M pairs of
    Gaussian and pixel in a view of 128^2 with a cut of 3), so a footprint is 22.4 pixels wide and
    meets (22.4 + 8) / 8 * (22.4 + 16) / 16 = 9.1 tiles: 456,000 hits of 128 pixels. What is read of a
    Gaussian comes from memory once; again, and the lists, from the L2 cache.
    """
    count, splits = 50_000, 7
    constants = {"TILE_ROWS": TILE_ROWS, "TILE_COLUMNS": TILE_COLUMNS}
    constants |= {"SEGMENT": SEGMENT, "BLOCK": CANDIDATES}
    types = dict.fromkeys(("boxes", "lists", "counts", "scratch"), "*i32")
    sizes = ("count", "rows", "columns", "segments", "segments_of_a_split")
    types |= dict.fromkeys((*sizes, "cells_x", "cells_y", "cell"), "i32")
    types |= {"cut2": "fp32"} | dict.fromkeys(constants, "constexpr")
    return PaperLaunch(
        name=name,
        kernel=kernel,
        signature={argument: types.get(argument, "*fp32") for argument in kernel.arg_names},
        constants=constants,
        warps=1,
        programs=32 * 16 * splits,
        bytes=count * (bytes_of_a_gaussian + 16) + int(1.8 * count) * 4 + splits * 256**2 * 4,
        flops=456_000 * 128 * flops_of_a_pixel,
        launches=36,
    )


def _cells(shape: tuple[int, int, int], cell: int) -> int:
    return math.prod(-(-size // cell) for size in shape)


def _places(count: int, shape: tuple[int, int, int], cell: int) -> int:
    """Return how many Gaussians have room in the lists of a view or a grid."""
    return -(-count // SEGMENT) * SEGMENT * _cells(shape, cell)


def _tiles(rows: int, columns: int) -> int:
    return -(-rows // TILE_ROWS) * -(-columns // TILE_COLUMNS)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches for a view of 256^2, for 256^3 voxels and for 32^3 of them."""
    signature = {
        "boxes": "*i32",
        "lists": "*i32",
        "counts": "*i32",
        "count": "i32",
        "cells_x": "i32",
        "cells_y": "i32",
        "cell": "i32",
        "SOLID": "constexpr",
        "SEGMENT": "constexpr",
        "BLOCK": "constexpr",
    }
    count, segments, launches = 50_000, 13, []
    # Each box is read once from memory (24 bytes; the other cells find it in the L2 cache), each
    # hit written and read: a footprint 22 wide meets (1 + 22 / 64) cells along an axis.
    for name, cells, hits, solid in (
        ("bin a view", 16, 1.8 * count, False),
        ("bin 256^3", 64, 2.4 * count, True),
        ("bin 32^3", 1, 500, True),
    ):
        launches.append(
            PaperLaunch(
                name=name,
                kernel=bin_boxes,
                signature=signature,
                constants={"SOLID": solid, "SEGMENT": SEGMENT, "BLOCK": BLOCK},
                warps=4,
                programs=segments * cells,
                bytes=int(24 * count + 4 * hits),
                flops=0,
            )
        )
    return launches
