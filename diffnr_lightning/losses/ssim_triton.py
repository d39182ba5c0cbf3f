"""Triton kernels of the structural similarity: index and gradient of slices in two visits.

Threads walk down the rows of their column. At each row they filter it along the row (eleven neighbours,
from L1), keep the last eleven results in registers and filter down the column from those, so that only
what the other visit needs passes through memory: the first writes the three slopes of the index, the
second filters them likewise and adds to the gradient. Slices lie along any axis of a volume, which is
never copied: where they lie along x, threads side by side serve different slices.

Memory beyond prediction, reference and gradient: the slopes of a slab of slices, at most 2^24 pixels of
12 bytes. A program owns its pixels: no atomics, sums in a fixed order.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffnr_lightning.losses.ssim_kernels import K1, K2, RADIUS, gaussian_window
from diffnr_lightning.triton_kernels import PaperLaunch, on_its_device

_TAPS = [float(tap) for tap in gaussian_window()[RADIUS:]]
_W0, _W1, _W2 = (tl.constexpr(tap) for tap in _TAPS[:3])
_W3, _W4, _W5 = (tl.constexpr(tap) for tap in _TAPS[3:])
# Of taps k pixels from the centre: _W0 _RATIO^(k^2), which a loop over k can be unrolled with.
_RATIO = tl.constexpr(_TAPS[1] / _TAPS[0])

_SLAB, _LEAST = 1 << 24, 32
"""Pixels whose slopes are kept at one time, and slices at least: as many as threads of a warp."""

# Long segments of columns filter fewer rows twice, short ones fill the device where there is little to do.
_SEGMENTS = (64, 16)


class _Plane(NamedTuple):
    """How slices lie in a contiguous array (Z, Y, X), of which threads side by side hold neighbours in x.

    Attributes:
        rows: axis along which threads walk.
        batch: axis that programs share out; the slices', or the other axis of slices along x.
        on_lanes: whether slices lie along x.
    """

    rows: int
    batch: int
    on_lanes: bool

    @property
    def tile(self) -> tuple[int, int]:
        """Places on the batch axis and along x of one program: a column of slices or a patch of rows."""
        return (8, 32) if self.on_lanes else (1, 128)


_PLANES = (_Plane(1, 0, False), _Plane(0, 1, False), _Plane(0, 1, True))
"""Of slices along z, y and x."""


@triton.jit
def _column(r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10):
    """Filter eleven rows into the one row in their middle."""
    outer = _W3 * (r2 + r8) + _W4 * (r1 + r9) + _W5 * (r0 + r10)
    return _W0 * r5 + _W1 * (r4 + r6) + _W2 * (r3 + r7) + outer


@triton.jit
def _rows_of_zeros(COUNT: tl.constexpr):
    """Return eleven rows; the compiler takes names of one and the same tensor for values that no loop changes."""
    r0, r1, r2 = (
        tl.zeros([COUNT], tl.float32),
        tl.zeros([COUNT], tl.float32),
        tl.zeros([COUNT], tl.float32),
    )
    r3, r4, r5 = (
        tl.zeros([COUNT], tl.float32),
        tl.zeros([COUNT], tl.float32),
        tl.zeros([COUNT], tl.float32),
    )
    r6, r7, r8 = (
        tl.zeros([COUNT], tl.float32),
        tl.zeros([COUNT], tl.float32),
        tl.zeros([COUNT], tl.float32),
    )
    r9, r10 = tl.zeros([COUNT], tl.float32), tl.zeros([COUNT], tl.float32)
    return r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10


@triton.jit
def _places(
    slices, batches, lanes, ON_LANES: tl.constexpr, BATCH: tl.constexpr, LANE: tl.constexpr
):
    """Return batch and lane of a program's threads, where those are in the volume, and whether they are at all."""
    thread = tl.arange(0, BATCH * LANE)
    b = tl.program_id(0) * BATCH + thread // LANE
    n = tl.program_id(1) * LANE + thread % LANE
    here = (b < batches) & (n < lanes)
    if ON_LANES:
        column = tl.load(slices + n, mask=here, other=0)
        line = b
    else:
        column = n
        line = tl.load(slices + b, mask=here, other=0)
    return b, n, line.to(tl.int64), column, here


@triton.jit
def _similarity(
    x, y, slices, slopes, sums,
    batches, lanes, rows, batch_stride, row_stride,
    slope_batch, slope_row, slope_plane, c1, c2, segment,
    SLOPES: tl.constexpr, ON_LANES: tl.constexpr, BATCH: tl.constexpr, LANE: tl.constexpr,
):  # fmt: skip
    """Sum the index over a segment of the columns of a program, and write its slopes.

    The slopes are those by the filtered x, by the filtered x^2 + y^2 and by the filtered x y.
    """
    b, n, line, column, here = _places(slices, batches, lanes, ON_LANES, BATCH, LANE)
    at = line * batch_stride + column
    at_slope = b.to(tl.int64) * slope_batch + n
    tap = b if ON_LANES else n
    # Unsigned, what lies before the first one is beyond the last.
    taps = tl.cast(batches if ON_LANES else lanes, tl.uint32)
    next_tap = batch_stride if ON_LANES else 1
    first = tl.program_id(2) * segment
    places = tl.zeros([BATCH * LANE], tl.int32)
    none = tl.zeros([BATCH * LANE], tl.float32)
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 = _rows_of_zeros(BATCH * LANE)
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10 = _rows_of_zeros(BATCH * LANE)
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10 = _rows_of_zeros(BATCH * LANE)
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 = _rows_of_zeros(BATCH * LANE)
    total = tl.zeros([BATCH * LANE], tl.float32)
    for i in range(tl.minimum(segment, rows - first) + 10):
        row = places + (first + i - 5)
        inside = here & (row >= 0) & (row < rows)
        near = at + row.to(tl.int64) * row_stride
        a, c, s, p = none, none, none, none
        for k in tl.static_range(-5, 6):
            exists = inside & ((tap + k).to(tl.uint32) < taps)
            u = tl.load(x + near + k * next_tap, mask=exists, other=0.0)
            v = tl.load(y + near + k * next_tap, mask=exists, other=0.0)
            weight = _W0 * _RATIO ** (k * k)
            a += weight * u
            c += weight * v
            s += weight * (u * u + v * v)
            p += weight * (u * v)
        a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 = a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a
        b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10 = b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, c
        s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10 = s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s
        p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 = p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p
        mx = _column(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10)
        my = _column(b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10)
        squares = _column(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10)
        product = _column(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10)
        luminance = mx * mx + my * my
        above_1 = 2.0 * mx * my + c1
        above_2 = 2.0 * (product - mx * my) + c2
        below_1 = luminance + c1
        below_2 = squares - luminance + c2
        inverse = 1.0 / (below_1 * below_2)
        index = above_1 * above_2 * inverse
        # The first ten rows only fill the registers.
        out = here & (row - 5 >= first)
        total += tl.where(out, index, 0.0)
        if SLOPES:
            target = slopes + at_slope + (row - 5).to(tl.int64) * slope_row
            mean = 2.0 * inverse * (my * (above_2 - above_1) + mx * index * (below_1 - below_2))
            tl.store(target, mean, mask=out)
            tl.store(target + slope_plane, -index / below_2, mask=out)
            tl.store(target + 2 * slope_plane, 2.0 * above_1 * inverse, mask=out)
    line = tl.program_id(0) * BATCH + tl.arange(0, BATCH)
    target = (line * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    tl.store(sums + target, tl.sum(tl.reshape(total, (BATCH, LANE)), 1), mask=line < batches)


@triton.jit
def _add_gradient(
    x, y, slices, slopes, gradient,
    batches, lanes, rows, batch_stride, row_stride,
    slope_batch, slope_row, slope_plane, scale, segment,
    ON_LANES: tl.constexpr, BATCH: tl.constexpr, LANE: tl.constexpr,
):  # fmt: skip
    """Add scale * the gradient of the sum of the index by x, from the slopes of `_similarity`."""
    b, n, line, column, here = _places(slices, batches, lanes, ON_LANES, BATCH, LANE)
    at = line * batch_stride + column
    at_slope = b.to(tl.int64) * slope_batch + n
    tap = b if ON_LANES else n
    # Unsigned, what lies before the first one is beyond the last.
    taps = tl.cast(batches if ON_LANES else lanes, tl.uint32)
    next_tap = slope_batch if ON_LANES else 1
    first = tl.program_id(2) * segment
    places = tl.zeros([BATCH * LANE], tl.int32)
    none = tl.zeros([BATCH * LANE], tl.float32)
    m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10 = _rows_of_zeros(BATCH * LANE)
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10 = _rows_of_zeros(BATCH * LANE)
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 = _rows_of_zeros(BATCH * LANE)
    for i in range(tl.minimum(segment, rows - first) + 10):
        row = places + (first + i - 5)
        inside = here & (row >= 0) & (row < rows)
        near = slopes + at_slope + row.to(tl.int64) * slope_row
        m, s, p = none, none, none
        for k in tl.static_range(-5, 6):
            exists = inside & ((tap + k).to(tl.uint32) < taps)
            source = near + k * next_tap
            weight = _W0 * _RATIO ** (k * k)
            m += weight * tl.load(source, mask=exists, other=0.0)
            s += weight * tl.load(source + slope_plane, mask=exists, other=0.0)
            p += weight * tl.load(source + 2 * slope_plane, mask=exists, other=0.0)
        m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10 = m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m
        s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10 = s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s
        p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 = p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p
        by_mean = _column(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10)
        by_squares = _column(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10)
        by_product = _column(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10)
        out = here & (row - 5 >= first)
        target = at + (row - 5).to(tl.int64) * row_stride
        u = tl.load(x + target, mask=out, other=0.0)
        v = tl.load(y + target, mask=out, other=0.0)
        old = tl.load(gradient + target, mask=out, other=0.0)
        slope = by_mean + 2.0 * u * by_squares + v * by_product
        tl.store(gradient + target, old + scale * slope, mask=out)


@on_its_device
def slice_similarity(prediction: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Mean index (N,) of pairs of float32 slices (N, H, W), differentiable in the prediction; see `ssim_2d`."""
    return _SliceSimilarity.apply(prediction, reference, data_range)


@on_its_device
def volume_similarity(
    prediction: Tensor,
    reference: Tensor,
    chosen: tuple[Tensor, Tensor, Tensor],
    data_range: float = 1.0,
) -> Tensor:
    """Mean over three axes of the mean index of the chosen slices of float32 volumes; see `ssim_3d`.

    Args:
        prediction: (Z, Y, X), differentiable.
        reference: of the same shape.
        chosen: indices along z, y and x on the device.
        data_range: what the full range of intensities is.
    """
    return _VolumeSimilarity.apply(prediction, reference, chosen, data_range)


class _SliceSimilarity(torch.autograd.Function):
    """Fused index of N slices, with the gradient of each."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, reference: Tensor, data_range: float) -> Tensor:
        prediction, reference = prediction.detach().contiguous(), reference.contiguous()
        gradient = torch.zeros_like(prediction) if ctx.needs_input_grad[0] else None
        count, height, width = prediction.shape
        if not count:
            ctx.save_for_backward(prediction)
            return prediction.new_zeros(0)
        slices = torch.arange(count, device=prediction.device)
        sums = _accumulate(
            prediction, reference, 0, slices, data_range, 1 / (height * width), gradient
        )
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return torch.cat([part.sum(1) for part in sums]) / (height * width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].view(-1, 1, 1), None, None


class _VolumeSimilarity(torch.autograd.Function):
    """Fused mean over three planes; one gradient volume collects all of them."""

    @staticmethod
    def forward(
        ctx: Any,
        prediction: Tensor,
        reference: Tensor,
        chosen: tuple[Tensor, Tensor, Tensor],
        data_range: float,
    ) -> Tensor:
        prediction = prediction.detach().contiguous()
        gradient = torch.zeros_like(prediction) if ctx.needs_input_grad[0] else None
        means = []
        for axis, slices in enumerate(chosen):
            pixels = len(slices) * (prediction.numel() // prediction.shape[axis])
            scale = 1 / (3 * pixels)
            sums = _accumulate(prediction, reference, axis, slices, data_range, scale, gradient)
            means += [part.sum() * scale for part in sums]
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return torch.stack(means).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None


def _accumulate(
    x: Tensor,
    y: Tensor,
    axis: int,
    slices: Tensor,
    data_range: float,
    scale: float,
    gradient: Tensor | None,
) -> list[Tensor]:
    """Return sums of the index over pixels, in the order of the slices; adds to `gradient` in place.

    Args:
        x: (Z, Y, X), contiguous.
        y: likewise.
        axis: along which slices lie.
        slices: (N,) indices without repetition.
        data_range: what the full range of intensities is.
        scale: factor of the gradient of the sum.
        gradient: (Z, Y, X), or None where none is wanted.
    """
    plane = _PLANES[axis]
    count = min(len(slices), max(_LEAST, _SLAB * x.shape[axis] // x.numel()))
    rows, batches = x.shape[plane.rows], x.shape[plane.batch]
    lanes = x.shape[2]
    shape = (rows, batches, count) if plane.on_lanes else (count, rows, lanes)
    slopes = x.new_empty(3, *(shape if gradient is not None else (0, 0, 0)))
    row, batch = (1, 2) if plane.on_lanes else (2, 1)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    sums = []
    for slab in slices.split(count):
        lanes = len(slab) if plane.on_lanes else lanes
        batches = batches if plane.on_lanes else len(slab)
        tiles = [triton.cdiv(n, size) for n, size in zip((batches, lanes), plane.tile, strict=True)]
        segment = _SEGMENTS[tiles[0] * tiles[1] * rows < 1 << 16]
        launch = (*tiles, triton.cdiv(rows, segment))
        strides = (x.stride(plane.batch), x.stride(plane.rows))
        strides = (*strides, slopes.stride(batch), slopes.stride(row), slopes.stride(0))
        extents = (batches, lanes, rows, *strides)
        options = {"ON_LANES": plane.on_lanes, "BATCH": plane.tile[0], "LANE": plane.tile[1]}
        options["num_warps"] = plane.tile[0] * plane.tile[1] // 32
        part = x.new_empty(batches, launch[1] * launch[2])
        _similarity[launch](
            x, y, slab, slopes, part, *extents, c1, c2, segment, SLOPES=gradient is not None, **options
        )  # fmt: skip
        if gradient is not None:
            _add_gradient[launch](x, y, slab, slopes, gradient, *extents, scale, segment, **options)
        sums.append(part)
    return sums


def paper_launches() -> list[PaperLaunch]:
    """Return the six launches of `ssim_3d` with its gradient at 256^3.

    A pixel of a plane is read from prediction and reference (8 bytes) and three slopes are written (12);
    then three slopes, prediction, reference and gradient are read and the gradient is written (28): 48
    bytes, 2.4 GB for three planes. Filtering a row takes 12 operations a tap of the first visit and 6 of
    the second, for 74 rows of a segment of 64; a column 17 for each of four and three moments; the index
    with its slopes 35, the gradient 7.
    """
    voxels, edge = 256**3, 256
    operations = (round(11 * 12 * 74 / 64 + 4 * 17 + 35), round(11 * 6 * 74 / 64 + 3 * 17 + 7))
    pointers = {name: "*fp32" for name in ("x", "y", "slopes", "sums", "gradient")}
    launches = []
    for name, plane in zip(("axial", "coronal", "sagittal"), _PLANES, strict=True):
        batch, lane = plane.tile
        programs = edge // batch * (edge // lane) * (edge // 64)
        constants = {"ON_LANES": int(plane.on_lanes), "BATCH": batch, "LANE": lane}
        for kernel, moved, flops in zip(
            (_similarity, _add_gradient), (20, 28), operations, strict=True
        ):
            told = constants | ({"SLOPES": 1} if kernel is _similarity else {})
            signature = {
                argument: "constexpr"
                if argument in told
                else pointers.get(argument, {"slices": "*i64"}.get(argument, "i32"))
                for argument in kernel.arg_names
            }
            signature |= {a: "fp32" for a in ("c1", "c2", "scale") if a in signature}
            visit = "index and slopes" if kernel is _similarity else "gradient"
            launches.append(
                PaperLaunch(
                    f"3D SSIM, {name}: {visit}", kernel, signature, told, batch * lane // 32, programs,
                    moved * voxels, flops * voxels,
                )
            )  # fmt: skip
    return launches
