"""Triton kernel of NAF's network of four layers, fused over tiles of points.

The layers are those of `network_kernels`. A tile of points goes through all of them in registers, and
nothing but the features is kept: 128 bytes a point, where torch keeps ten times as much and launches
fifteen kernels. Products are those of tensor cores, with three products of TF32 for each of float32, which
leaves an error of float32's size.

The way back is torch's, over chunks of points that are computed again. A fused one needs the sums of four
matrices beside both parts of its operands in TF32: every variant that was compiled for sm_90 (tiles of 16
to 128 points, four or eight warps, with tensor cores or without) spilled, from half a kilobyte to tens of
kilobytes a thread.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffnr_lightning.representations.fields.network_kernels import network_reference
from diffnr_lightning.triton_kernels import PaperLaunch, on_its_device

_TILE, _WARPS = 64, 4
_CHUNK = 1 << 18  # points of which torch keeps all layers on the way back, 1.5 kB each
_WIDEST = 64
_SLOPE = tl.constexpr(0.01)


def serves(features: int, width: int) -> bool:
    """Return whether the kernels hold a network of some features and width in registers."""
    return max(features, width) <= _WIDEST


@triton.jit
def _matrix(weights, rows, columns, first, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Load columns `first` to `first` + `columns` of a matrix of some stride, with zeros around."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    source = weights + i * stride + first + j
    return tl.load(source, mask=(i < rows) & (j < columns), other=0.0)


@triton.jit
def _product(left, right):
    return tl.dot(left, right, input_precision="tf32x3")


@triton.jit
def _bend(values, bias):
    """Apply LeakyReLU to values (W, P) plus bias (W,)."""
    values += bias[:, None]
    return tl.where(values > 0, values, _SLOPE * values)


@triton.jit
def _forward(
    encoded, w1, b1, w2, b2, w3, b3, w4, b4, out, count, features, width,
    C: tl.constexpr, W: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write the output (N,) of the network for features (C, N)."""
    n = tl.program_id(0) * TILE + tl.arange(0, TILE)
    c, unit = tl.arange(0, C)[:, None], tl.arange(0, W)
    here = (c < features) & (n < count)[None, :]
    inputs = tl.load(encoded + c.to(tl.int64) * count + n[None, :], mask=here, other=0.0)
    real = unit < width
    values = _product(_matrix(w1, width, features, 0, features, W, C), inputs)
    values = _bend(values, tl.load(b1 + unit, mask=real, other=0.0))
    values = _product(_matrix(w2, width, width, 0, width, W, W), values)
    values = _bend(values, tl.load(b2 + unit, mask=real, other=0.0))
    values = _product(_matrix(w3, width, width, 0, width + features, W, W), values)
    values += _product(_matrix(w3, width, features, width, width + features, W, C), inputs)
    values = _bend(values, tl.load(b3 + unit, mask=real, other=0.0))
    last = tl.load(w4 + unit, mask=real, other=0.0)
    tl.store(out + n, tl.sum(last[:, None] * values, 0) + tl.load(b4), mask=n < count)


@on_its_device
def network(encoded: Tensor, *parameters: Tensor) -> Tensor:
    """Return the output (N,) of the network for float32 features in rows (C, N), differentiable.

    Args:
        encoded: (C, N).
        parameters: weights and bias of each of the four layers; `serves` says which sizes.
    """
    return _Network.apply(encoded, *parameters)


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encoded: Tensor, *parameters: Tensor) -> Tensor:
        encoded, parameters = encoded.contiguous(), [p.contiguous() for p in parameters]
        features, count = encoded.shape
        out = encoded.new_empty(count)
        if count:
            _forward[(triton.cdiv(count, _TILE),)](
                encoded, *parameters, out, count, features, len(parameters[0]),
                **_padded(features, len(parameters[0])), TILE=_TILE, num_warps=_WARPS,
            )  # fmt: skip
        ctx.save_for_backward(encoded, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        encoded, *parameters = ctx.saved_tensors
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        features_out = torch.empty_like(encoded)
        for begin in range(0, encoded.shape[1], _CHUNK):
            part = slice(begin, begin + _CHUNK)
            inputs = encoded[:, part].detach().requires_grad_()
            with torch.enable_grad():
                out = network_reference(inputs, *leaves)
            torch.autograd.backward(out, grad_outputs[0][part], inputs=[inputs, *leaves])
            features_out[:, part] = inputs.grad
        return (features_out, *(leaf.grad for leaf in leaves))


def _padded(features: int, width: int) -> dict[str, int]:
    """Return the sizes of the tiles that hold features and width; a product wants 16 at least."""
    return {name: max(16, triton.next_power_of_2(n)) for name, n in (("C", features), ("W", width))}


def paper_launches() -> list[PaperLaunch]:
    """Return the launch for NAF's network, 32 features and a width of 32, at 1024 rays of 192 samples.

    A point brings 128 bytes of features and takes 4. Its products are 4128 multiply-adds, each of them three
    on tensor cores.
    """
    points = 1024 * 192
    constants = {"C": 32, "W": 32, "TILE": _TILE}
    numbers = {"count": "i32", "features": "i32", "width": "i32"} | dict.fromkeys(
        constants, "constexpr"
    )
    signature = {argument: numbers.get(argument, "*fp32") for argument in _forward.arg_names}
    flops, programs = 3 * 2 * 4128 * points, triton.cdiv(points, _TILE)
    return [
        PaperLaunch(
            "network", _forward, signature, constants, _WARPS, programs, 132 * points, flops
        )
    ]
