"""Multiresolution hash encoding of points: torch reference, numba kernels, tiny-cuda-nn.

Source: Müller et al., "Instant neural graphics primitives with a multiresolution hash encoding",
SIGGRAPH 2022. Cells, offsets, hash and the order of the table are those of tiny-cuda-nn's `HashGrid`
(linear interpolation, "coherent prime" hash), so that one table serves all three implementations.
"""

from __future__ import annotations

import logging
import math
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diffnr_lightning.kernels import num_threads
from diffnr_lightning.representations.fields import hash_kernels, tiny_cuda
from diffnr_lightning.triton_kernels import takes_triton

logger = logging.getLogger("diffnr")

Backend = Literal["auto", "numba", "triton", "tinycudann", "reference"]

# NAF's: the first features are nearly nothing, so that all levels begin alike.
START = 1e-4
PRIMES = (1, 2654435761, 805459861)
# An edge of the unit box; kernels count them in 32 bits.
MOST_VERTICES = 2**30

_named: set[str] = set()


class HashLevel(NamedTuple):
    """One resolution of the encoding.

    Attributes:
        scale: cells along an edge of the unit box.
        resolution: vertices along an edge.
        start: first entry in the table.
        size: entries.
    """

    scale: float
    resolution: int
    start: int
    size: int

    @property
    def hashed(self) -> bool:
        """Whether vertices share entries."""
        return self.resolution**3 > self.size


class HashEncoding(nn.Module):
    """Encode points as features that are learnt at the vertices of several grids.

    Args:
        levels: resolutions.
        features: numbers an entry.
        base: vertices along an edge of the unit box at the coarsest level.
        growth: of the resolution from one level to the next.
        table: most entries of a level, as a power of two; finer levels share them by a hash.
        backend: `numba` for float32 on the CPU and two features, `triton` for float32 on CUDA and a power of
            two of features, the torch reference elsewhere; a name asks for one of them, or for `tinycudann`,
            where it is installed.

    Attributes:
        table: (T, features) learnt; level after level, as in tiny-cuda-nn's flat `params`.
        layout: the levels.

    Raises:
        ValueError: a count below one, a growth below one, a table with more than 2^28 entries, more than 2^30 vertices
            an edge, or a backend that is not known.

    Source: 16 levels of 2 features, base 16, growth 2 and 2^19 entries are NAF's (Zha et al., MICCAI
    2022). Deviation: no gradient for the points is computed, which nothing here needs.
    """

    def __init__(
        self,
        levels: int = 16,
        features: int = 2,
        base: int = 16,
        growth: float = 2.0,
        table: int = 19,
        *,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if min(levels, features, base) < 1:
            raise ValueError(
                f"levels, features and base are {levels}, {features} and {base}; at least 1 is "
                "expected."
            )
        if growth < 1:
            raise ValueError(f"growth is {growth}; a factor of at least 1 is expected.")
        if not 3 <= table <= 28:
            raise ValueError(f"table is {table}; a power of two from 3 to 28 is expected.")
        if backend not in get_args(Backend):
            raise ValueError(
                f"backend is {backend!r}; one of {', '.join(get_args(Backend))} is expected."
            )
        self.levels, self.features, self.base = levels, features, base
        self.growth, self.log2_size = growth, table
        self.backend = backend
        self.layout = _layout(levels, base, growth, table)
        last = self.layout[-1]
        if last.resolution > MOST_VERTICES:
            raise ValueError(
                f"levels, base and growth are {levels}, {base} and {growth}, which makes {last.resolution:.3g} "
                f"vertices an edge at the finest level; at most {MOST_VERTICES} are expected."
            )
        self.table = nn.Parameter(torch.empty(last.start + last.size, features))
        self.reset_parameters()

    @property
    def width(self) -> int:
        """Features of a point."""
        return self.levels * self.features

    def reset_parameters(self) -> None:
        """Draw the table from torch's random numbers."""
        nn.init.uniform_(self.table, -START, START)

    def forward(self, points: Tensor) -> Tensor:
        """Return the features (N, levels * features) of points (N, 3) in the unit box.

        Points outside of [-1, 1]^3 count as the nearest ones inside.
        """
        return self.rows(points).T

    def rows(self, points: Tensor) -> Tensor:
        """Return the features as rows (levels * features, N), the order in which the CPU makes them."""
        backend = self.choose(points)
        if backend == "numba":
            return _Encode.apply(points.detach(), self.table, self)
        if backend == "triton":
            from diffnr_lightning.representations.fields import hash_triton

            return hash_triton.encode(points, self.table, self.layout)
        if backend == "tinycudann":
            return self._native(points)
        return encode_reference(points, self.table, self.layout).T

    def choose(self, points: Tensor) -> str:
        """Name the backend for points (N, 3).

        Raises:
            ValueError: points of another shape, or a backend that does not serve them.
        """
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points have shape {tuple(points.shape)}; (N, 3) is expected.")
        device = points.device.type
        plain = points.dtype == self.table.dtype == torch.float32
        fast = device == "cpu" and plain and self.features == 2
        compiled = plain and self.features.bit_count() == 1 and takes_triton(points)
        chosen: str = self.backend
        if chosen == "auto":
            chosen = "numba" if fast else "triton" if compiled else "reference"
        if chosen == "numba" and not fast:
            raise ValueError(
                f"backend 'numba' needs float32 CPU tensors and 2 features, but points are "
                f"{points.dtype} on {device} and there are {self.features}; use 'reference'."
            )
        if chosen == "triton" and not compiled:
            raise ValueError(
                f"backend 'triton' needs float32 CUDA tensors, a power of two of features, and triton, but "
                f"points are {points.dtype} on {device} and there are {self.features}; use 'reference'."
            )
        if chosen not in _named:
            _named.add(chosen)
            logger.info("hash encoding on %s: %s", device, chosen)
        return chosen

    @cached_property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Scales, resolutions, starts and sizes of the levels as the kernels read them."""
        columns = zip(*self.layout, strict=True)
        kinds = (np.float32, np.int64, np.int64, np.int64)
        return tuple(np.array(c, kind) for c, kind in zip(columns, kinds, strict=True))

    def _native(self, points: Tensor) -> Tensor:
        """Return the rows by tiny-cuda-nn, from our table; see `tiny_cuda`."""
        if "_tinycudann" not in self.__dict__:
            numbers = (self.levels, self.features, self.base, self.growth, self.log2_size)
            # Past nn.Module's registration: its parameters are a second copy that nobody trains.
            self.__dict__["_tinycudann"] = tiny_cuda.encoding(*numbers, points.device)
        inside = (0.5 * points + 0.5).clamp(0, 1)
        return tiny_cuda.run(self.__dict__["_tinycudann"], self.table.reshape(-1), inside).T


def encode_reference(points: Tensor, table: Tensor, layout: tuple[HashLevel, ...]) -> Tensor:
    """Return the features (N, L * F) in plain torch, differentiable in the table.

    Args:
        points: (N, 3) in the unit box.
        table: (T, F).
        layout: the levels.
    """
    inside = (0.5 * points.detach() + 0.5).clamp(0, 1)
    corners = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)], device=points.device)
    encoded = []
    for level in layout:
        place = inside * level.scale + 0.5  # (N, 3)
        cell = place.floor()
        vertices = cell.long()[:, None] + corners  # (N, 8, 3)
        share = (place - cell)[:, None]
        weights = torch.where(corners == 1, share, 1 - share).prod(-1)  # (N, 8)
        entries = level.start + _entries(vertices, level)
        encoded.append((weights.to(table.dtype)[..., None] * table[entries]).sum(1))
    return torch.cat(encoded, dim=1)


def _entries(vertices: Tensor, level: HashLevel) -> Tensor:
    """Return the entries (N, 8) of vertices (N, 8, 3), counted from the level's first."""
    x, y, z = vertices.unbind(-1)
    if level.hashed:
        mixed = x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]
    else:
        mixed = x + level.resolution * (y + level.resolution * z)
    return mixed % level.size


def _layout(levels: int, base: int, growth: float, table: int) -> tuple[HashLevel, ...]:
    layout, start = [], 0
    # In float32 as tiny-cuda-nn does it, since a rounding error adds a vertex.
    octaves = np.log2(np.float32(growth))
    for level in range(levels):
        # The staggering of half a cell makes `base` vertices cover the unit box.
        scale = float(np.exp2(np.float32(level) * octaves) * np.float32(base) - np.float32(1))
        resolution = math.ceil(scale) + 1
        size = min(-(-(resolution**3) // 8) * 8, 2**table)
        layout.append(HashLevel(scale, resolution, start, size))
        start += size
    return tuple(layout)


class _Encode(torch.autograd.Function):
    """Encode by the numba kernels."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, encoding: HashEncoding) -> Tensor:
        points = points.contiguous()
        features = np.empty((encoding.width, len(points)), np.float32)
        hash_kernels.encode(points.numpy(), table.detach().numpy(), *encoding.arrays, features)
        ctx.save_for_backward(points)
        ctx.encoding = encoding
        return torch.from_numpy(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:
        (points,) = ctx.saved_tensors
        gradient = grad_outputs[0].contiguous().numpy()
        encoding = ctx.encoding
        # A thread takes neighbours in this order: fine levels cost more, so each gets some of them.
        threads = num_threads()
        order = np.concatenate([np.arange(t, encoding.levels, threads) for t in range(threads)])
        table = np.empty((len(encoding.table), 2), np.float32)
        hash_kernels.collect(points.numpy(), gradient, *encoding.arrays, order, table)
        return None, torch.from_numpy(table), None
