"""Triton kernels that trace the rays of a cone beam through 3D Gaussians, and the way back.

The counterpart of `trace_gaussians` and of the end of `lines_backward` in `line_kernels`,
where the formulas are; boxes are those of `bins_triton`.

Lines (V, N, 20): column and row of the centre; m x W u, m x W v, e at the centre, W u, W v (3 each);
density times the factor that all share; millimetres at the centre per millimetre on the detector;
unused. Sums (V, N, 14): the gradient of the image times each Gaussian's exponential over |e|, the
gradients by m, e, e times dx and e times dy (3 each), and whether any pixel lies within the cut.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton
import triton.language as tl

from diffnr_lightning.representations.gaussians.bins_triton import NEVER
from diffnr_lightning.representations.gaussians.pinhole_triton import FAR, NEAR
from diffnr_lightning.representations.gaussians.shape_triton import (
    add_quaternion,
    add_three,
    load_quaternion,
    load_three,
    report_finite,
    rotation,
    rotation_gradient,
)
from diffnr_lightning.triton_kernels import PaperLaunch

# Pixels by which a box is too large rather than too small.
SLACK = tl.constexpr(1e-3)


@triton.jit
def _whiten(x, y, z, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2):
    """Return W (x, y, z)."""
    return (
        (r00 * x + r10 * y + r20 * z) / s0,
        (r01 * x + r11 * y + r21 * z) / s1,
        (r02 * x + r12 * y + r22 * z) / s2,
    )


@triton.jit
def _cross(a0, a1, a2, b0, b1, b2):
    return a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0


@triton.jit
def conic(a0, a1, a2, b0, b1, b2, e0, e1, e2, u0, u1, u2, v0, v1, v2, cut2):
    """Return xx, xy, yy, x, y, 1 of |m x e|^2 - cut^2 |e|^2 (the mixed ones halved)."""
    return (
        a0 * a0 + a1 * a1 + a2 * a2 - cut2 * (u0 * u0 + u1 * u1 + u2 * u2),
        a0 * b0 + a1 * b1 + a2 * b2 - cut2 * (u0 * v0 + u1 * v1 + u2 * v2),
        b0 * b0 + b1 * b1 + b2 * b2 - cut2 * (v0 * v0 + v1 * v1 + v2 * v2),
        -cut2 * (e0 * u0 + e1 * u1 + e2 * u2),
        -cut2 * (e0 * v0 + e1 * v1 + e2 * v2),
        -cut2 * (e0 * e0 + e1 * e1 + e2 * e2),
    )


@triton.jit
def _span(middle, rest, determinant, closed, place, size):
    """Return the first and last pixel of a conic on an axis; all where it is not closed."""
    per = 1 / tl.where(closed, determinant, 1.0)
    # Divided before it is squared, which of a small Gaussian would overflow.
    middle *= per
    centre, reach = place + middle, tl.sqrt(tl.maximum(middle * middle + rest * per, 0.0)) + SLACK
    low = tl.maximum(tl.ceil(centre - reach), 0.0)
    high = tl.minimum(tl.floor(centre + reach), (size - 1) * 1.0)
    return tl.where(closed, low, 0.0), tl.where(closed, high, (size - 1) * 1.0)


@triton.jit
def trace_gaussians(
    positions,
    scales,
    rotations,
    densities,
    poses,
    across,
    lines,
    boxes,
    flag,
    count,
    rows,
    columns,
    cut2,
    gain,
    BLOCK: tl.constexpr,
):
    """Write lines and boxes of BLOCK Gaussians in one view; programs (blocks, views)."""
    view = tl.program_id(1)
    g = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = g < count
    px, py, pz = load_three(positions, g, within)
    s0, s1, s2 = load_three(scales, g, within)
    qw, qx, qy, qz = load_quaternion(rotations, g, within)
    density = tl.load(densities + g, mask=within, other=0.0)
    if view == 0:
        report_finite(flag, px, py, pz, s0, s1, s2, qw, qx, qy, qz, density)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(qw, qx, qy, qz)
    pose = poses + 16 * view
    x, y, z = px - tl.load(pose), py - tl.load(pose + 1), pz - tl.load(pose + 2)
    depth = x * tl.load(pose + 3) + y * tl.load(pose + 4) + z * tl.load(pose + 5)
    far = tl.load(pose + 12)
    seen = depth >= far * NEAR
    magnified = far / tl.where(seen, depth, far)
    column = x * tl.load(pose + 6) + y * tl.load(pose + 7) + z * tl.load(pose + 8)
    row = x * tl.load(pose + 9) + y * tl.load(pose + 10) + z * tl.load(pose + 11)
    column = magnified * column + tl.load(pose + 13)
    row = magnified * row + tl.load(pose + 14)
    seen &= (tl.abs(column) < FAR) & (tl.abs(row) < FAR)
    m0, m1, m2 = _whiten(x, y, z, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2)
    side = across + 6 * view
    x, y, z = tl.load(side), tl.load(side + 1), tl.load(side + 2)
    u0, u1, u2 = _whiten(x, y, z, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2)
    x, y, z = tl.load(side + 3), tl.load(side + 4), tl.load(side + 5)
    v0, v1, v2 = _whiten(x, y, z, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2)
    a0, a1, a2 = _cross(m0, m1, m2, u0, u1, u2)
    b0, b1, b2 = _cross(m0, m1, m2, v0, v1, v2)
    e0, e1, e2 = magnified * m0, magnified * m1, magnified * m2
    xx, xy, yy, x1, y1, one = conic(
        a0, a1, a2, b0, b1, b2, e0, e1, e2, u0, u1, u2, v0, v1, v2, cut2
    )
    determinant = xx * yy - xy * xy
    # Where the conic is no ellipse, since a Gaussian reaches to the source, all pixels count.
    closed = (xx > 0) & (determinant > 0)
    middle, rest = xy * x1 - xx * y1, x1 * x1 - xx * one
    top, bottom = _span(middle, rest, determinant, closed, row, rows)
    middle, rest = xy * y1 - yy * x1, y1 * y1 - yy * one
    left, right = _span(middle, rest, determinant, closed, column, columns)
    seen &= (top <= bottom) & (left <= right)
    own = view.to(tl.int64) * count + g
    line = lines + 20 * own
    tl.store(line, column, mask=within)
    tl.store(line + 1, row, mask=within)
    store_row(line + 2, within, a0, a1, a2)
    store_row(line + 5, within, b0, b1, b2)
    store_row(line + 8, within, e0, e1, e2)
    store_row(line + 11, within, u0, u1, u2)
    store_row(line + 14, within, v0, v1, v2)
    tl.store(line + 17, gain * density, mask=within)
    tl.store(line + 18, 1 / magnified, mask=within)
    box = boxes + 6 * own
    tl.store(box, tl.where(seen, left, 0.0).to(tl.int32) + tl.where(seen, 0, NEVER), mask=within)
    tl.store(box + 1, tl.where(seen, right, -1.0).to(tl.int32), mask=within)
    tl.store(box + 2, tl.where(seen, top, 0.0).to(tl.int32), mask=within)
    tl.store(box + 3, tl.where(seen, bottom, -1.0).to(tl.int32), mask=within)


@triton.jit
def store_row(pointer, within, x, y, z):
    """Write three numbers that follow one another."""
    tl.store(pointer, x, mask=within)
    tl.store(pointer + 1, y, mask=within)
    tl.store(pointer + 2, z, mask=within)


@triton.jit
def load_row(pointer, within):
    """Return three numbers that follow one another."""
    return (
        tl.load(pointer, mask=within, other=0.0),
        tl.load(pointer + 1, mask=within, other=0.0),
        tl.load(pointer + 2, mask=within, other=0.0),
    )


@triton.jit
def _outer(m, e, f, h, x, y, z, px, py, pz, ux, uy, uz, vx, vy, vz):
    """Return the row of d loss / d W for one axis of a Gaussian."""
    return (
        m * x + e * px + f * ux + h * vx,
        m * y + e * py + f * uy + h * vy,
        m * z + e * pz + f * uz + h * vz,
    )


@triton.jit
def trace_backward(
    positions,
    scales,
    rotations,
    poses,
    across,
    lines,
    sums,
    boxes,
    position_gradient,
    scale_gradient,
    rotation_gradients,
    density_gradient,
    screen_gradient,
    visible,
    count,
    num_views,
    half_columns,
    half_rows,
    gain,
    BLOCK: tl.constexpr,
):
    """Add the gradients of BLOCK Gaussians in all views, given the sums; programs (blocks,).

    Statistics as in `pinhole_triton`; a view sees a Gaussian of which a pixel lies within
    its cut.
    """
    g = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = g < count
    px, py, pz = load_three(positions, g, within)
    s0, s1, s2 = load_three(scales, g, within)
    qw, qx, qy, qz = load_quaternion(rotations, g, within)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(qw, qx, qy, qz)
    for view in range(0, num_views):
        own = tl.cast(view, tl.int64) * count + g
        found, line = sums + 14 * own, lines + 20 * own
        seen = within & (tl.load(boxes + 6 * own, mask=within, other=NEVER) < NEVER)
        seen &= tl.load(found + 13, mask=seen, other=0.0) > 0
        pose, side = poses + 16 * view, across + 6 * view
        x, y, z = px - tl.load(pose), py - tl.load(pose + 1), pz - tl.load(pose + 2)
        ux, uy, uz = tl.load(side), tl.load(side + 1), tl.load(side + 2)
        vx, vy, vz = tl.load(side + 3), tl.load(side + 4), tl.load(side + 5)
        height = tl.load(line + 17, mask=seen, other=0.0)
        per_pixel = tl.load(line + 18, mask=seen, other=1.0)
        cx, cy, cz = x / per_pixel, y / per_pixel, z / per_pixel
        m0, m1, m2 = load_row(found + 1, seen)
        e0, e1, e2 = load_row(found + 4, seen)
        f0, f1, f2 = load_row(found + 7, seen)
        h0, h1, h2 = load_row(found + 10, seen)
        # d loss / d W, times s; W = diag(1 / s) R^T.
        m0, e0, f0, h0 = height * m0 / s0, height * e0 / s0, height * f0 / s0, height * h0 / s0
        m1, e1, f1, h1 = height * m1 / s1, height * e1 / s1, height * f1 / s1, height * h1 / s1
        m2, e2, f2, h2 = height * m2 / s2, height * e2 / s2, height * f2 / s2, height * h2 / s2
        t00, t10, t20 = _outer(m0, e0, f0, h0, x, y, z, cx, cy, cz, ux, uy, uz, vx, vy, vz)
        t01, t11, t21 = _outer(m1, e1, f1, h1, x, y, z, cx, cy, cz, ux, uy, uz, vx, vy, vz)
        t02, t12, t22 = _outer(m2, e2, f2, h2, x, y, z, cx, cy, cz, ux, uy, uz, vx, vy, vz)
        add_three(
            scale_gradient,
            g,
            seen,
            -(t00 * r00 + t10 * r10 + t20 * r20) / s0,
            -(t01 * r01 + t11 * r11 + t21 * r21) / s1,
            -(t02 * r02 + t12 * r12 + t22 * r22) / s2,
        )
        dw, dx, dy, dz = rotation_gradient(
            qw, qx, qy, qz, t00, t01, t02, t10, t11, t12, t20, t21, t22
        )
        add_quaternion(rotation_gradients, g, seen, dw, dx, dy, dz)
        x = m0 * r00 + m1 * r01 + m2 * r02
        y = m0 * r10 + m1 * r11 + m2 * r12
        z = m0 * r20 + m1 * r21 + m2 * r22
        add_three(position_gradient, g, seen, x, y, z)
        mass = tl.load(density_gradient + g, mask=seen) + gain * tl.load(found, mask=seen)
        tl.store(density_gradient + g, mass, mask=seen)
        column = half_columns * per_pixel * (x * ux + y * uy + z * uz)
        row = half_rows * per_pixel * (x * vx + y * vy + z * vz)
        pull = tl.load(screen_gradient + g, mask=seen) + tl.sqrt(column * column + row * row)
        tl.store(screen_gradient + g, pull, mask=seen)
        tl.store(visible + g, tl.load(visible + g, mask=seen) + 1.0, mask=seen)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches for one view of 256^2.

    Of each of 50,000 Gaussians forwards 44 bytes are read and 92 written, with 300 operations
    counted in the source; backwards 108 are read besides 44 of gradients and 8 of statistics, which
    are read and written, with 330 operations.
    """
    count, block = 50_000, 128
    types = dict.fromkeys(("boxes", "flag"), "*i32") | {"BLOCK": "constexpr"}
    types |= dict.fromkeys(("count", "rows", "columns", "num_views"), "i32")
    types |= dict.fromkeys(("cut2", "gain", "half_columns", "half_rows"), "fp32")
    return [
        PaperLaunch(
            name=name,
            kernel=kernel,
            signature={argument: types.get(argument, "*fp32") for argument in kernel.arg_names},
            constants={"BLOCK": block},
            warps=4,
            programs=-(-count // block),
            bytes=count * moved,
            flops=count * flops,
            launches=36,
        )
        for name, kernel, moved, flops in (
            ("trace Gaussians", trace_gaussians, 44 + 92, 300),
            ("trace Gaussians backward", trace_backward, 108 + 2 * 52, 330),
        )
    ]
