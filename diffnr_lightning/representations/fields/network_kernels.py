"""Numba kernels of NAF's network of four layers, fused over tiles of points, and the way back.

With C features and a width of W, the layers are W x C, W x W, W x (W + C) and 1 x W; the third sees
the second's output and the features again. LeakyReLU stands behind the first three. Points are
columns. A tile goes through all layers while it lies in the cache, and is computed again on the way
back, so that nothing but the features is kept. Blocks of points have sums of their own, added in
order, so that results do not depend on the number of threads.

Products of a tile go to the BLAS that scipy brings; they are small enough to stay on one thread.
All of them pass through `_product`, since numba takes a second to compile each call of it.
"""

# Arguments of kernels are arrays and tuples of arrays as their docstrings say.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffnr_lightning.kernels import UNGROUPED, kernel_part, parallel_kernel, prange

f4 = np.float32
SLOPE = f4(0.01)  # torch's, where LeakyReLU is negative
TILE = 64
BLOCK = 4096  # points of a task


def network_reference(encoded: Tensor, *parameters: Tensor) -> Tensor:
    """Return the output (N,) of the network for features in rows (C, N), in plain torch.

    Args:
        encoded: (C, N).
        parameters: weights and bias of each of the four layers.
    """
    weights, biases = parameters[::2], [bias[:, None] for bias in parameters[1::2]]
    values = F.leaky_relu(torch.addmm(biases[0], weights[0], encoded))
    values = F.leaky_relu(torch.addmm(biases[1], weights[1], values))
    values = F.leaky_relu(torch.addmm(biases[2], weights[2], torch.cat([values, encoded])))
    return torch.addmm(biases[3], weights[3], values)[0]


@kernel_part(UNGROUPED)
def _bend(values, bias):
    """Apply LeakyReLU to values (W, P) plus bias (W, 1), in place."""
    for row in range(len(values)):
        for n in range(values.shape[1]):
            value = values[row, n] + bias[row, 0]
            values[row, n] = max(value, SLOPE * value)


@kernel_part(UNGROUPED)
def _unbend(gradient, values):
    """Multiply a gradient (W, P) by the slope of LeakyReLU where its output was values (W, P)."""
    for row in range(len(values)):
        for n in range(values.shape[1]):
            gradient[row, n] *= f4(1) if values[row, n] > f4(0) else SLOPE


@kernel_part()
def _product(left, right, out):
    np.dot(left, right, out)


@kernel_part()
def _load(encoded, begin, end, joined, width):
    """Copy features (C, begin:end) below the `width` rows of a tile; 0 where there is no point."""
    count = min(TILE, end - begin)
    for c in range(len(encoded)):
        for n in range(count):
            joined[width + c, n] = encoded[c, begin + n]
        for n in range(count, TILE):
            joined[width + c, n] = f4(0)
    return count


@kernel_part()
def _tile(weights, biases, first, joined, third):
    """Fill the outputs of the layers; the second's is the upper part of `joined`, (W + C, P)."""
    width = len(first)
    _product(weights[0], joined[width:], first)
    _bend(first, biases[0])
    second = joined[:width]
    _product(weights[1], first, second)
    _bend(second, biases[1])
    _product(weights[2], joined, third)
    _bend(third, biases[2])


@kernel_part()
def _forward_block(encoded, weights, biases, head, offset, out, start, end):
    features, width = len(encoded), head.shape[1]
    first, third = np.empty((width, TILE), f4), np.empty((width, TILE), f4)
    joined, last = np.empty((width + features, TILE), f4), np.empty((1, TILE), f4)
    for begin in range(start, end, TILE):
        filled = _load(encoded, begin, end, joined, width)
        _tile(weights, biases, first, joined, third)
        _product(head, third, last)
        for n in range(filled):
            out[begin + n] = last[0, n] + offset[0, 0]


@kernel_part()
def _backward_block(encoded, weights, biases, turned, gradient, features_out, total, start, end):
    features, width = len(encoded), len(weights[0])
    first, third = np.empty((width, TILE), f4), np.empty((width, TILE), f4)
    joined = np.empty((width + features, TILE), f4)
    back, inner = np.empty((width + features, TILE), f4), np.empty((width, TILE), f4)
    last, row = np.empty((1, TILE), f4), np.empty((width, 1), f4)
    columns, ones = np.empty((TILE, width), f4), np.ones((TILE, 1), f4)
    room = (np.empty((width + features, width), f4), columns, ones, row)
    total.fill(f4(0))
    for begin in range(start, end, TILE):
        filled = _load(encoded, begin, end, joined, width)
        _tile(weights, biases, first, joined, third)
        for n in range(TILE):
            last[0, n] = gradient[begin + n] if n < filled else f4(0)
            total[1, 0] += last[0, n]
        _product(third, last.reshape(TILE, 1), row)
        _accumulate(total, 0, row.reshape(1, width))
        _product(turned[3], last, inner)
        _unbend(inner, third)
        at = _add(total, 2, joined, inner, room)
        _product(turned[2], inner, back)
        _unbend(back[:width], joined[:width])
        at = _add(total, at, first, back[:width], room)
        _product(turned[1], back[:width], third)
        _unbend(third, first)
        _add(total, at, joined[width:], third, room)
        _product(turned[0], third, joined[width:])
        for c in range(features):
            for n in range(filled):
                features_out[c, begin + n] = joined[width + c, n] + back[width + c, n]


@parallel_kernel()
def forward(encoded, weights, biases, head, offset, out) -> None:
    """Write the network's output (N,) for features (C, N).

    Args:
        encoded: (C, N).
        weights: of the first three layers.
        biases: of the first three layers, (W, 1) each.
        head: (1, W) weights of the last layer.
        offset: (1, 1) bias of the last layer.
        out: (N,).
    """
    count = encoded.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        start, end = block * BLOCK, min(count, (block + 1) * BLOCK)
        _forward_block(encoded, weights, biases, head, offset, out, start, end)


@parallel_kernel()
def backward(encoded, weights, biases, turned, gradient, features_out, sums) -> None:
    """Write the gradients of features and weights from that of the output (N,).

    Args:
        encoded: (C, N).
        weights: of the first three layers.
        biases: of the first three layers, (W, 1) each.
        turned: weights of all four layers, transposed.
        gradient: (N,).
        features_out: (C, N) gradient of the features.
        sums: of `empty_sums`: for each block the gradients of transposed weights and biases, the
            last layer's first; `split_sums` takes them apart.
    """
    count = encoded.shape[1]
    for block in prange(len(sums)):
        start, end, total = block * BLOCK, min(count, (block + 1) * BLOCK), sums[block]
        _backward_block(encoded, weights, biases, turned, gradient, features_out, total, start, end)


@kernel_part()
def _add(total, at, inputs, gradient, room):
    """Add what a layer with inputs (K, P) and output gradient (W, P) brings; return where it ends."""
    count = len(inputs)
    product, columns, ones, row = room
    for n in range(TILE):
        for unit in range(len(gradient)):
            columns[n, unit] = gradient[unit, n]
    _product(inputs, columns, product[:count])
    _accumulate(total, at, product[:count])
    _product(gradient, ones, row)
    _accumulate(total, at + count, row.reshape(1, len(row)))
    return at + count + 1


@kernel_part()
def _accumulate(total, at, part):
    """Add a part (K, W) to the rows of `total` from `at` on; a loop compiles faster than a slice."""
    for k in range(len(part)):
        for unit in range(part.shape[1]):
            total[at + k, unit] += part[k, unit]


def empty_sums(shape: tuple[int, int], width: int) -> np.ndarray:
    """Return room for the sums of `backward`, for features of a shape (C, N)."""
    features, count = shape
    return np.empty((-(-count // BLOCK), 3 * width + 2 * features + 5, width), np.float32)


def split_sums(sums: np.ndarray, features: int) -> list[np.ndarray]:
    """Return the gradients of weights and biases, first layer first, from the sums of `backward`."""
    total = sums.sum(axis=0)
    width = total.shape[1]
    parts, at = [total[1, :1], total[:1]], 2
    for inputs in (width + features, width, features):
        parts += [total[at + inputs], total[at : at + inputs].T]
        at += inputs + 1
    return [np.ascontiguousarray(part) for part in reversed(parts)]
