"""SAX-NeRF's field: a hash encoding and attention among the neighbours on a line."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations.fields.hash_encoding import Backend, HashEncoding
from diffnr_lightning.representations.fields.ray_field import RayField

# Where a sigmoid still has a slope.
START_DENSITIES = (0.01, 0.99)


class LineAttention(nn.Module):
    """Attend within the segments of a line.

    Args:
        width: features of a point.
        line_size: consecutive points of a segment.
        heads: into which the features are divided.

    Raises:
        ValueError: a width that the heads do not divide, or an empty segment.
    """

    def __init__(self, width: int, line_size: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width is {width}, heads {heads}; a multiple of heads is expected.")
        if line_size < 1:
            raise ValueError(f"line_size is {line_size}; at least one point is expected.")
        self.line_size = line_size
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        # What a head adds to the affinity of place i to place j of a segment, whatever is there.
        self.bias = nn.Parameter(torch.zeros(line_size, line_size, heads))

    def reset_parameters(self) -> None:
        """Forget the bias; the linear layers reset themselves."""
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, C) of points in segments, N a multiple of `line_size`."""
        count, width = features.shape
        shape = (count // self.line_size, self.line_size, 3, self.heads, width // self.heads)
        query, key, value = self.mix(features).view(shape).unbind(2)  # (M, L, heads, dim) each
        # Segments are a few points long: products written out are faster than so many tiny matrices.
        affinity = (query[:, :, None] * key[:, None]).sum(-1)  # (M, L, L, heads)
        weight = torch.softmax(self.scale * affinity + self.bias, dim=2)
        mixed = (weight[..., None] * value[:, None]).sum(2)  # (M, L, heads, dim)
        return self.out(mixed.reshape(count, width))


class LineBlock(nn.Module):
    """Attend along the line, then transform every point; a transformer's block.

    Args:
        width: features of a point.
        line_size: consecutive points of a segment.
        heads: of the attention.
        expansion: hidden units of the feed-forward network as a multiple of `width`.
    """

    def __init__(self, width: int, line_size: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = LineAttention(width, line_size, heads)
        self.forward_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, C) of points in segments."""
        features = features + self.attention(self.attention_norm(features))
        return features + self.narrow(F.gelu(self.widen(self.forward_norm(features))))


class LineTransformer(RayField):
    """Represent a volume by a network in which the neighbours on a ray see one another.

    A ray is cut into segments of `line_size` samples; the points of a segment attend to one another
    and to nobody else. So the density at a point depends a little on the line it is asked on.

    Args:
        grid: the box.
        width: features of a point.
        blocks: line blocks.
        line_size: samples of a segment; the last one of a line is filled up with its last point.
        heads: of the attention; `width` is shared among them.
        expansion: hidden units of a feed-forward network as a multiple of `width`.
        levels: resolutions of the hash encoding.
        features: of each of them.
        base: vertices along an edge at the coarsest.
        growth: of the resolution from one level to the next.
        table: most entries of a level, as a power of two.
        rate: learning rate of everything.
        samples: points of a ray.
        chunk: points evaluated at one time where no gradient is asked for.
        empty: density below which there is nothing, so that the field is not evaluated; see `RayField`.
        backend: of the encoding; see `HashEncoding`.

    Raises:
        ValueError: fewer than one block, or sizes that do not fit one another.

    Source: Cai et al., "Structure-aware sparse-view X-ray 3D reconstruction", CVPR 2024 (SAX-NeRF's
    Lineformer): NAF's network of four layers with the encoding given again to the third, its middle
    made of line blocks; width 32, segments of 2, 8 heads of 4, learned positional bias, feed-forward
    x 4, one block, sigmoid. Written from that description; where it leaves a choice, ours are
    normalisation before attention and feed-forward, GELU, a bias per head and pair of places that
    is added to the affinities, and a linear layer where the encoding is given again. Deviation: the
    field begins at the mean of the first reconstruction; from a half, where NAF begins, the first
    steps of a short run can throw an emptyish volume to 0, from where the sigmoid does not return.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        *,
        width: int = 32,
        blocks: int = 1,
        line_size: int = 2,
        heads: int = 8,
        expansion: int = 4,
        levels: int = 16,
        features: int = 2,
        base: int = 16,
        growth: float = 2.0,
        table: int = 19,
        rate: float = 1e-3,
        samples: int = 192,
        chunk: int = 1 << 18,
        empty: float | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(grid, samples=samples, chunk=chunk, empty=empty, segment=line_size)
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}; at least one is expected.")
        self.line_size = line_size
        self.rate = rate
        self.encoding = HashEncoding(levels, features, base, growth, table, backend=backend)
        encoded = self.encoding.width
        self.enter = nn.Linear(encoded, width)
        self.blocks = nn.ModuleList(
            LineBlock(width, line_size, heads, expansion) for _ in range(blocks)
        )
        self.rejoin = nn.Linear(width + encoded, width)
        self.head = nn.Linear(width, 1)

    def field(self, points: Tensor) -> Tensor:
        """Return the density (R, S) at points (R, S, 3) in the unit box, rows along lines."""
        rays, samples = points.shape[:2]
        missing = -samples % self.line_size
        if missing:
            points = torch.cat([points, points[:, -1:].expand(-1, missing, -1)], dim=1)
        encoded = self.encoding(points.reshape(-1, 3))
        values = F.leaky_relu(self.enter(encoded))
        for block in self.blocks:
            values = block(values)
        values = F.leaky_relu(self.rejoin(torch.cat([values, encoded], dim=-1)))
        return torch.sigmoid(self.head(values)).view(rays, samples + missing)[:, :samples]

    def initialise(
        self, volume: Tensor, projections: Tensor, scan: ScanGeometry, seed: int
    ) -> None:
        """Draw all weights anew and begin at the mean of the first reconstruction."""
        super().initialise(volume, projections, scan, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part in self.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()
        mean = volume.detach().clamp(0, 1).mean().clamp(*START_DENSITIES)
        nn.init.constant_(self.head.bias, float(torch.logit(mean)))
        self.to(volume.device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the table of the encoding and the weights of the network."""
        table = list(self.encoding.parameters())
        known = {id(parameter) for parameter in table}
        network = [p for p in self.parameters() if id(p) not in known]
        return [
            {"name": "table", "params": table, "lr": self.rate},
            {"name": "network", "params": network, "lr": self.rate},
        ]
