"""Triton kernels that project 3D Gaussians into views, and the way back.

The counterpart of `project_gaussians` in `splat_kernels`, where views and formulas are
described; footprints, boxes and moments are those of `splat_triton`.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import math

import triton
import triton.language as tl

from diffnr_lightning.representations.gaussians.bins_triton import NEVER
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

SQRT_TWO_PI = tl.constexpr(math.sqrt(2 * math.pi))
# Those of `splat_kernels`.
NEAR = tl.constexpr(1e-2)
FAR = tl.constexpr(1e6)
LEAST_AREA = tl.constexpr(1e-24)
LARGEST_AREA = tl.constexpr(1e24)


@triton.jit
def _project_centre(pose, px, py, pz, CONE: tl.constexpr):
    """Return column, row, (a o) / depth, (b o) / depth, depth, distance, and J row after row."""
    x, y, z = px - tl.load(pose), py - tl.load(pose + 1), pz - tl.load(pose + 2)
    nx, ny, nz = tl.load(pose + 3), tl.load(pose + 4), tl.load(pose + 5)
    ax, ay, az = tl.load(pose + 6), tl.load(pose + 7), tl.load(pose + 8)
    bx, by, bz = tl.load(pose + 9), tl.load(pose + 10), tl.load(pose + 11)
    far, column, row = tl.load(pose + 12), tl.load(pose + 13), tl.load(pose + 14)
    along_a, along_b = x * ax + y * ay + z * az, x * bx + y * by + z * bz
    one = 0.0 * x + 1.0
    if CONE:
        forward = tl.load(pose + 15)
        depth = x * nx + y * ny + z * nz + forward
        x, y, z = x + forward * nx, y + forward * ny, z + forward * nz
        # What is not in front of the source is seen nowhere, but must not bring NaN.
        per_depth = 1 / tl.where(depth >= far * NEAR, depth, far)
        distance = tl.sqrt(x * x + y * y + z * z)
        per_distance = 1 / tl.where(distance > 0, distance, 1.0)
        along_a *= per_depth
        along_b *= per_depth
        s = far * per_depth
        return (
            far * along_a + column,
            far * along_b + row,
            along_a,
            along_b,
            depth,
            distance,
            s * (ax - along_a * nx),
            s * (ay - along_a * ny),
            s * (az - along_a * nz),
            s * (bx - along_b * nx),
            s * (by - along_b * ny),
            s * (bz - along_b * nz),
            x * per_distance,
            y * per_distance,
            z * per_distance,
        )
    else:
        return (
            along_a + column,
            along_b + row,
            along_a,
            along_b,
            far * one,
            one,
            ax * one,
            ay * one,
            az * one,
            bx * one,
            by * one,
            bz * one,
            nx * one,
            ny * one,
            nz * one,
        )


@triton.jit
def _determinant(a0, a1, a2, b0, b1, b2, c0, c1, c2):
    return a0 * (b1 * c2 - b2 * c1) - a1 * (b0 * c2 - b2 * c0) + a2 * (b0 * c1 - b1 * c0)


@triton.jit
def _half(a0, a1, a2, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2):
    """Return a row of J R diag(s), given that of J."""
    return (
        s0 * (a0 * r00 + a1 * r10 + a2 * r20),
        s1 * (a0 * r01 + a1 * r11 + a2 * r21),
        s2 * (a0 * r02 + a1 * r12 + a2 * r22),
    )


@triton.jit
def project_gaussians(
    positions,
    scales,
    rotations,
    densities,
    poses,
    footprints,
    boxes,
    flag,
    count,
    rows,
    columns,
    cut,
    gain,
    CONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write footprints and boxes of BLOCK Gaussians in one view; programs (blocks, views)."""
    view = tl.program_id(1)
    g = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = g < count
    px, py, pz = load_three(positions, g, within)
    s0, s1, s2 = load_three(scales, g, within)
    qw, qx, qy, qz = load_quaternion(rotations, g, within)
    density = tl.load(densities + g, mask=within, other=0.0)
    if view == 0:
        report_finite(flag, px, py, pz, s0, s1, s2, qw, qx, qy, qz, density)
    pose = poses + 16 * view
    column, row, _a, _b, depth, _d, a0, a1, a2, b0, b1, b2, c0, c1, c2 = _project_centre(
        pose, px, py, pz, CONE
    )
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(qw, qx, qy, qz)
    h0, h1, h2 = _half(a0, a1, a2, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2)
    k0, k1, k2 = _half(b0, b1, b2, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2)
    cc, cr, rr = (
        h0 * h0 + h1 * h1 + h2 * h2,
        h0 * k0 + h1 * k1 + h2 * k2,
        k0 * k0 + k1 * k1 + k2 * k2,
    )
    # |A| as a cross product: cc rr - cr cr would cancel where the ellipse is thin.
    x, y, z = h1 * k2 - h2 * k1, h2 * k0 - h0 * k2, h0 * k1 - h1 * k0
    area = x * x + y * y + z * z
    seen = (depth >= tl.load(pose + 12) * NEAR) & (tl.abs(column) < FAR) & (tl.abs(row) < FAR)
    seen &= (area > LEAST_AREA) & (area < LARGEST_AREA)
    column, row = tl.where(seen, column, 0.0), tl.where(seen, row, 0.0)
    reach_column = tl.where(seen, cut * tl.sqrt(cc), 0.0)
    reach_row = tl.where(seen, cut * tl.sqrt(rr), 0.0)
    # Products with numbers of the detector's size, which are exact, turn the integers into floats.
    left = tl.maximum(tl.ceil(column - reach_column), 0.0)
    right = tl.minimum(tl.floor(column + reach_column), (columns - 1) * 1.0)
    top = tl.maximum(tl.ceil(row - reach_row), 0.0)
    bottom = tl.minimum(tl.floor(row + reach_row), (rows - 1) * 1.0)
    seen &= (left <= right) & (top <= bottom)
    volume = tl.abs(_determinant(a0, a1, a2, b0, b1, b2, c0, c1, c2)) * s0 * s1 * s2
    area, rr = tl.where(seen, area, 1.0), tl.where(seen, rr, 1.0)
    per_density = gain * SQRT_TWO_PI * volume / tl.sqrt(area)
    own = view.to(tl.int64) * count + g
    f = footprints + 8 * own
    tl.store(f, column, mask=within)
    tl.store(f + 1, row, mask=within)
    tl.store(f + 2, cr / rr, mask=within)
    tl.store(f + 3, 1 / rr, mask=within)
    tl.store(f + 4, rr / area, mask=within)
    tl.store(f + 5, per_density * density, mask=within)
    tl.store(f + 6, per_density, mask=within)
    box = boxes + 6 * own
    tl.store(box, tl.where(seen, left.to(tl.int32), NEVER), mask=within)
    tl.store(box + 1, tl.where(seen, right.to(tl.int32), -1), mask=within)
    tl.store(box + 2, tl.where(seen, top.to(tl.int32), NEVER), mask=within)
    tl.store(box + 3, tl.where(seen, bottom.to(tl.int32), -1), mask=within)


@triton.jit
def project_gaussians_backward(
    positions,
    scales,
    rotations,
    poses,
    footprints,
    boxes,
    moments,
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
    CONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the gradients of BLOCK Gaussians in all views, given the moments; programs (blocks,).

    `screen_gradient` and `visible` are as in `ScreenStatistics`; half_columns and half_rows are
    half a detector times the number of views.
    """
    g = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = g < count
    px, py, pz = load_three(positions, g, within)
    s0, s1, s2 = load_three(scales, g, within)
    qw, qx, qy, qz = load_quaternion(rotations, g, within)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(qw, qx, qy, qz)
    for view in range(0, num_views):
        own = tl.cast(view, tl.int64) * count + g
        seen = within & (tl.load(boxes + 6 * own, mask=within, other=NEVER) < NEVER)
        pose = poses + 16 * view
        _c, _r, along_a, along_b, depth, distance, a0, a1, a2, b0, b1, b2, c0, c1, c2 = (
            _project_centre(pose, px, py, pz, CONE)
        )
        h0, h1, h2 = _half(a0, a1, a2, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2)
        k0, k1, k2 = _half(b0, b1, b2, r00, r01, r02, r10, r11, r12, r20, r21, r22, s0, s1, s2)
        f, m = footprints + 8 * own, moments + 6 * own
        slope = tl.load(f + 2, mask=seen, other=0.0)
        stiff_y = tl.load(f + 3, mask=seen, other=0.0)
        stiff_x = tl.load(f + 4, mask=seen, other=0.0)
        height = tl.load(f + 5, mask=seen, other=0.0)
        m0 = tl.load(m, mask=seen, other=0.0)
        mass = height * m0  # d loss / d log height
        tl.store(
            density_gradient + g,
            tl.load(density_gradient + g, mask=seen) + m0 * tl.load(f + 6, mask=seen, other=0.0),
            mask=seen,
        )
        column = height * stiff_x * tl.load(m + 1, mask=seen, other=0.0)
        row = height * stiff_y * tl.load(m + 2, mask=seen, other=0.0) - slope * column
        pull = tl.sqrt(
            column * half_columns * column * half_columns + row * half_rows * row * half_rows
        )
        tl.store(screen_gradient + g, tl.load(screen_gradient + g, mask=seen) + pull, mask=seen)
        tl.store(visible + g, tl.load(visible + g, mask=seen) + 1.0, mask=seen)
        # Twice d loss / d A = height C M C - mass C, with M the second moments and C = T^t D T
        # the inverse of A, where T takes columns to distances from the middle of a row.
        xx = stiff_x * (height * stiff_x * tl.load(m + 3, mask=seen, other=0.0) - mass)
        xy = height * stiff_x * stiff_y * tl.load(m + 4, mask=seen, other=0.0)
        yy = stiff_y * (height * stiff_y * tl.load(m + 5, mask=seen, other=0.0) - mass)
        plane_cr = xy - slope * xx
        plane_rr = yy - slope * xy - slope * plane_cr
        u0, u1, u2 = xx * h0 + plane_cr * k0, xx * h1 + plane_cr * k1, xx * h2 + plane_cr * k2
        v0, v1, v2 = (
            plane_cr * h0 + plane_rr * k0,
            plane_cr * h1 + plane_rr * k1,
            plane_cr * h2 + plane_rr * k2,
        )
        add_three(
            scale_gradient,
            g,
            seen,
            (mass + u0 * h0 + v0 * k0) / s0,
            (mass + u1 * h1 + v1 * k1) / s1,
            (mass + u2 * h2 + v2 * k2) / s2,
        )
        dw, dx, dy, dz = rotation_gradient(
            qw,
            qx,
            qy,
            qz,
            s0 * (a0 * u0 + b0 * v0),
            s1 * (a0 * u1 + b0 * v1),
            s2 * (a0 * u2 + b0 * v2),
            s0 * (a1 * u0 + b1 * v0),
            s1 * (a1 * u1 + b1 * v1),
            s2 * (a1 * u2 + b1 * v2),
            s0 * (a2 * u0 + b2 * v0),
            s1 * (a2 * u1 + b2 * v1),
            s2 * (a2 * u2 + b2 * v2),
        )
        add_quaternion(rotation_gradients, g, seen, dw, dx, dy, dz)
        gx, gy, gz = a0 * column + b0 * row, a1 * column + b1 * row, a2 * column + b2 * row
        if CONE:
            # The perspective changes with the position: d loss / d J, then d J / d position.
            det = _determinant(a0, a1, a2, b0, b1, b2, c0, c1, c2)
            share = mass / tl.where(seen, det, 1.0)
            u0, u1, u2 = s0 * u0, s1 * u1, s2 * u2
            v0, v1, v2 = s0 * v0, s1 * v1, s2 * v2
            da0 = share * (b1 * c2 - b2 * c1) + u0 * r00 + u1 * r01 + u2 * r02
            da1 = share * (b2 * c0 - b0 * c2) + u0 * r10 + u1 * r11 + u2 * r12
            da2 = share * (b0 * c1 - b1 * c0) + u0 * r20 + u1 * r21 + u2 * r22
            db0 = share * (c1 * a2 - c2 * a1) + v0 * r00 + v1 * r01 + v2 * r02
            db1 = share * (c2 * a0 - c0 * a2) + v0 * r10 + v1 * r11 + v2 * r12
            db2 = share * (c0 * a1 - c1 * a0) + v0 * r20 + v1 * r21 + v2 * r22
            dc0 = share * (a1 * b2 - a2 * b1)
            dc1 = share * (a2 * b0 - a0 * b2)
            dc2 = share * (a0 * b1 - a1 * b0)
            nx, ny, nz = tl.load(pose + 3), tl.load(pose + 4), tl.load(pose + 5)
            ax, ay, az = tl.load(pose + 6), tl.load(pose + 7), tl.load(pose + 8)
            bx, by, bz = tl.load(pose + 9), tl.load(pose + 10), tl.load(pose + 11)
            s = tl.load(pose + 12) / tl.where(seen, depth * depth, 1.0)
            normal_a, normal_b = da0 * nx + da1 * ny + da2 * nz, db0 * nx + db1 * ny + db2 * nz
            bend = 2 * (along_a * normal_a + along_b * normal_b)
            bend -= da0 * ax + da1 * ay + da2 * az + db0 * bx + db1 * by + db2 * bz
            radial = dc0 * c0 + dc1 * c1 + dc2 * c2
            per = 1 / tl.where(seen, distance, 1.0)
            gx += s * (bend * nx - normal_a * ax - normal_b * bx) + (dc0 - radial * c0) * per
            gy += s * (bend * ny - normal_a * ay - normal_b * by) + (dc1 - radial * c1) * per
            gz += s * (bend * nz - normal_a * az - normal_b * bz) + (dc2 - radial * c2) * per
        add_three(position_gradient, g, seen, gx, gy, gz)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches for one view of 256^2.

    Of each of 50,000 Gaussians forwards 44 bytes are read and 44 written, with 260 operations
    counted in the source; backwards 84 are read besides 44 of gradients and 8 of statistics, which
    are read and written, with 460 operations.
    """
    count, block, constants = 50_000, 128, {"CONE": True, "BLOCK": 128}
    inputs = dict.fromkeys(("positions", "scales", "rotations"), "*fp32")
    flags = dict.fromkeys(constants, "constexpr")
    gradients = (
        "position_gradient",
        "scale_gradient",
        "rotation_gradients",
        "density_gradient",
        "screen_gradient",
        "visible",
    )
    return [
        PaperLaunch(
            name="project Gaussians",
            kernel=project_gaussians,
            signature={
                **inputs,
                **dict.fromkeys(("densities", "poses", "footprints"), "*fp32"),
                **dict.fromkeys(("boxes", "flag"), "*i32"),
                **dict.fromkeys(("count", "rows", "columns"), "i32"),
                **dict.fromkeys(("cut", "gain"), "fp32"),
                **flags,
            },
            constants=constants,
            warps=4,
            programs=-(-count // block),
            bytes=count * 88,
            flops=count * 260,
            launches=36,
        ),
        PaperLaunch(
            name="project Gaussians backward",
            kernel=project_gaussians_backward,
            signature={
                **inputs,
                **dict.fromkeys(("poses", "footprints"), "*fp32"),
                "boxes": "*i32",
                **dict.fromkeys(("moments", *gradients), "*fp32"),
                **dict.fromkeys(("count", "num_views"), "i32"),
                **dict.fromkeys(("half_columns", "half_rows"), "fp32"),
                **flags,
            },
            constants=constants,
            warps=4,
            programs=-(-count // block),
            bytes=count * (84 + 2 * 52),
            flops=count * 460,
            launches=36,
        ),
    ]
