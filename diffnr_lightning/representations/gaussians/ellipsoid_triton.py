"""Triton kernels that place 3D Gaussians in a grid, and turn moments of voxels into gradients.

The counterpart of `place_gaussians` and `add_gradients` in `voxel_kernels`; ellipsoids are
described there, boxes in `bins_triton`, moments in `voxel_triton`.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton
import triton.language as tl

from diffnr_lightning.representations.gaussians.bins_triton import NEVER
from diffnr_lightning.representations.gaussians.shape_triton import (
    load_quaternion,
    load_three,
    report_finite,
    rotation,
    rotation_gradient,
    store_three,
)
from diffnr_lightning.triton_kernels import PaperLaunch

# Those of `voxel_kernels`.
FAR = tl.constexpr(1e6)
LEAST_AREA = tl.constexpr(1e-24)
LEAST_VOLUME = tl.constexpr(1e-18)


@triton.jit
def _span(centre, reach, size):
    """Return the first and last voxel within reach of a centre on an axis, as floats."""
    return (
        tl.maximum(tl.ceil(centre - reach), 0.0),
        tl.minimum(tl.floor(centre + reach), (size - 1) * 1.0),
    )


@triton.jit
def place_gaussians(
    positions,
    scales,
    rotations,
    densities,
    ellipsoids,
    boxes,
    flag,
    count,
    origin_x,
    origin_y,
    origin_z,
    edge_x,
    edge_y,
    edge_z,
    columns,
    rows,
    slices,
    cut,
    gain,
    BLOCK: tl.constexpr,
):
    """Write the ellipsoids and boxes of BLOCK Gaussians; programs (blocks,)."""
    g = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = g < count
    px, py, pz = load_three(positions, g, within)
    s0, s1, s2 = load_three(scales, g, within)
    qw, qx, qy, qz = load_quaternion(rotations, g, within)
    density = tl.load(densities + g, mask=within, other=0.0)
    report_finite(flag, px, py, pz, s0, s1, s2, qw, qx, qy, qz, density)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(qw, qx, qy, qz)
    cx, cy, cz = (px - origin_x) / edge_x, (py - origin_y) / edge_y, (pz - origin_z) / edge_z
    # The rows of M = R diag(s), in voxels.
    a0, a1, a2 = r00 * s0 / edge_x, r01 * s1 / edge_x, r02 * s2 / edge_x
    b0, b1, b2 = r10 * s0 / edge_y, r11 * s1 / edge_y, r12 * s2 / edge_y
    c0, c1, c2 = r20 * s0 / edge_z, r21 * s1 / edge_z, r22 * s2 / edge_z
    xx, yy = a0 * a0 + a1 * a1 + a2 * a2, b0 * b0 + b1 * b1 + b2 * b2
    zz, xz, yz = (
        c0 * c0 + c1 * c1 + c2 * c2,
        a0 * c0 + a1 * c1 + a2 * c2,
        b0 * c0 + b1 * c1 + b2 * c2,
    )
    # Conditional Gaussians z, y | z, x | y, z from cross products of the rows: differences of
    # entries of M M^T would cancel where M is thin.
    x, y, z = b1 * c2 - b2 * c1, b2 * c0 - b0 * c2, b0 * c1 - b1 * c0
    area = x * x + y * y + z * z
    volume = a0 * x + a1 * y + a2 * z
    seen = cut * tl.maximum(s0, tl.maximum(s1, s2)) < edge_x * FAR
    seen &= (area > LEAST_AREA) & (tl.abs(volume) > LEAST_VOLUME)
    seen &= (tl.abs(cx) < FAR) & (tl.abs(cy) < FAR) & (tl.abs(cz) < FAR)
    left, right = _span(cx, cut * tl.sqrt(xx), columns)
    top, bottom = _span(cy, cut * tl.sqrt(yy), rows)
    front, back = _span(cz, cut * tl.sqrt(zz), slices)
    seen &= (left <= right) & (top <= bottom) & (front <= back)
    area, zz = tl.where(seen, area, 1.0), tl.where(seen, zz, 1.0)
    volume = tl.where(seen, volume, 1.0)
    slope = (a1 * c2 - a2 * c1) * x + (a2 * c0 - a0 * c2) * y + (a0 * c1 - a1 * c0) * z
    e = ellipsoids + 10 * g
    tl.store(e, cx, mask=within)
    tl.store(e + 1, cy, mask=within)
    tl.store(e + 2, cz, mask=within)
    tl.store(e + 3, 1 / zz, mask=within)
    tl.store(e + 4, xz / zz, mask=within)
    tl.store(e + 5, yz / zz, mask=within)
    tl.store(e + 6, zz / area, mask=within)
    tl.store(e + 7, slope / area, mask=within)
    tl.store(e + 8, area / (volume * volume), mask=within)
    tl.store(e + 9, density * gain, mask=within)
    box = boxes + 6 * g
    tl.store(box, tl.where(seen, left, 0.0).to(tl.int32) + tl.where(seen, 0, NEVER), mask=within)
    tl.store(box + 1, tl.where(seen, right, -1.0).to(tl.int32), mask=within)
    tl.store(box + 2, tl.where(seen, top, 0.0).to(tl.int32), mask=within)
    tl.store(box + 3, tl.where(seen, bottom, -1.0).to(tl.int32), mask=within)
    tl.store(box + 4, tl.where(seen, front, 0.0).to(tl.int32), mask=within)
    tl.store(box + 5, tl.where(seen, back, -1.0).to(tl.int32), mask=within)


@triton.jit
def _axis_gradients(r0, r1, r2, scale, fx, fy, fz, xx, xy, xz, yy, yz, zz):
    """Return what an axis r of a Gaussian adds to the gradient of the position, and that of r and of its scale.

    The exponent is the sum over axes of (r d)^2 / scale^2.
    """
    per_variance = 1 / (scale * scale)
    pull = per_variance * (r0 * fx + r1 * fy + r2 * fz)
    along_x = per_variance * (xx * r0 + xy * r1 + xz * r2)
    along_y = per_variance * (xy * r0 + yy * r1 + yz * r2)
    along_z = per_variance * (xz * r0 + yz * r1 + zz * r2)
    stretch = (r0 * along_x + r1 * along_y + r2 * along_z) / scale
    return r0 * pull, r1 * pull, r2 * pull, -along_x, -along_y, -along_z, stretch


@triton.jit
def voxelise_backward(
    scales,
    rotations,
    ellipsoids,
    boxes,
    moments,
    position_gradient,
    scale_gradient,
    rotation_gradients,
    density_gradient,
    count,
    slabs,
    edge_x,
    edge_y,
    edge_z,
    gain,
    SLAB: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradients of BLOCK Gaussians, given the moments in all slabs; programs (blocks,)."""
    g = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = g < count
    seen = within & (tl.load(boxes + 6 * g, mask=within, other=NEVER) < NEVER)
    # What is not seen has no moments: its gradients come out as 0.
    peak = tl.load(ellipsoids + 10 * g + 9, mask=seen, other=0.0)
    m0, fx, fy, fz = 0.0 * peak, 0.0 * peak, 0.0 * peak, 0.0 * peak
    xx, xy, xz, yy, yz, zz = m0, m0, m0, m0, m0, m0
    front = tl.load(boxes + 6 * g + 4, mask=seen, other=0)
    back = tl.load(boxes + 6 * g + 5, mask=seen, other=-1)
    for slab in range(0, slabs):
        met = seen & (front < (slab + 1) * SLAB) & (back >= slab * SLAB)
        m = moments + 10 * (tl.cast(slab, tl.int64) * count + g)
        m0 += tl.load(m, mask=met, other=0.0)
        fx += tl.load(m + 1, mask=met, other=0.0)
        fy += tl.load(m + 2, mask=met, other=0.0)
        fz += tl.load(m + 3, mask=met, other=0.0)
        xx += tl.load(m + 4, mask=met, other=0.0)
        xy += tl.load(m + 5, mask=met, other=0.0)
        xz += tl.load(m + 6, mask=met, other=0.0)
        yy += tl.load(m + 7, mask=met, other=0.0)
        yz += tl.load(m + 8, mask=met, other=0.0)
        zz += tl.load(m + 9, mask=met, other=0.0)
    tl.store(density_gradient + g, gain * m0, mask=within)
    # In mm and times the peak.
    fx, fy, fz = peak * edge_x * fx, peak * edge_y * fy, peak * edge_z * fz
    xx, xy, xz = (
        peak * edge_x * edge_x * xx,
        peak * edge_x * edge_y * xy,
        peak * edge_x * edge_z * xz,
    )
    yy, yz, zz = (
        peak * edge_y * edge_y * yy,
        peak * edge_y * edge_z * yz,
        peak * edge_z * edge_z * zz,
    )
    s0, s1, s2 = load_three(scales, g, within)
    qw, qx, qy, qz = load_quaternion(rotations, g, within)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(qw, qx, qy, qz)
    px, py, pz, t00, t10, t20, d0 = _axis_gradients(
        r00, r10, r20, s0, fx, fy, fz, xx, xy, xz, yy, yz, zz
    )
    gx, gy, gz, t01, t11, t21, d1 = _axis_gradients(
        r01, r11, r21, s1, fx, fy, fz, xx, xy, xz, yy, yz, zz
    )
    px, py, pz = px + gx, py + gy, pz + gz
    gx, gy, gz, t02, t12, t22, d2 = _axis_gradients(
        r02, r12, r22, s2, fx, fy, fz, xx, xy, xz, yy, yz, zz
    )
    px, py, pz = px + gx, py + gy, pz + gz
    store_three(position_gradient, g, within, px, py, pz)
    store_three(scale_gradient, g, within, d0, d1, d2)
    dw, dx, dy, dz = rotation_gradient(qw, qx, qy, qz, t00, t01, t02, t10, t11, t12, t20, t21, t22)
    row = rotation_gradients + 4 * g
    tl.store(row, dw, mask=within)
    tl.store(row + 1, dx, mask=within)
    tl.store(row + 2, dy, mask=within)
    tl.store(row + 3, dz, mask=within)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches for 256^3 voxels; those for 32^3 are as large but for three of four slabs.

    Of each of 50,000 Gaussians 44 bytes are read and 64 written, with 230 operations counted in the
    source; then 32 bytes and 40 of each slab are read and 44 written, with 220 operations.
    """
    count, block = 50_000, 128
    types = dict.fromkeys(("boxes", "flag"), "*i32")
    types |= dict.fromkeys(("SLAB", "BLOCK"), "constexpr")
    types |= dict.fromkeys(("count", "columns", "rows", "slices", "slabs"), "i32")
    lengths = [f"{kind}_{axis}" for kind in ("origin", "edge") for axis in "xyz"]
    types |= dict.fromkeys((*lengths, "cut", "gain"), "fp32")
    return [
        PaperLaunch(
            name=name,
            kernel=kernel,
            signature={argument: types.get(argument, "*fp32") for argument in kernel.arg_names},
            constants={"BLOCK": block} | ({"SLAB": 64} if "SLAB" in kernel.arg_names else {}),
            warps=4,
            programs=-(-count // block),
            bytes=count * moved,
            flops=count * flops,
        )
        for name, kernel, moved, flops in (
            ("place Gaussians", place_gaussians, 44 + 64, 230),
            ("voxel gradients", voxelise_backward, 32 + 4 * 40 + 44, 220),
        )
    ]
