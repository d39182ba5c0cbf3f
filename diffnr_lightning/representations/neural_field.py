"""NAF's field: a hash encoding and a small network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations.hash_encoding import Backend, HashEncoding
from diffnr_lightning.representations.ray_field import RayField


class NeuralField(RayField):
    """Represent a volume by a network of four layers that sees hash-encoded points.

    Args:
        grid: the box.
        levels: resolutions of the encoding.
        features: of each of them.
        base: vertices along an edge at the coarsest.
        growth: of the resolution from one level to the next.
        table: most entries of a level, as a power of two.
        width: units of a layer.
        rate: learning rate of everything.
        samples: points of a ray.
        chunk: points evaluated at one time where no gradient is asked for.
        backend: of the encoding; see `HashEncoding`.

    Raises:
        ValueError: a width below one, or numbers that `HashEncoding` or `RayField` refuse.

    Source: Zha et al., "NAF: Neural attenuation fields for sparse-view CBCT reconstruction", MICCAI
    2022: four linear layers of width 32 with LeakyReLU, the encoding given again to the third, a
    sigmoid at the end, learning rate 1e-3.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        *,
        levels: int = 16,
        features: int = 2,
        base: int = 16,
        growth: float = 2.0,
        table: int = 19,
        width: int = 32,
        rate: float = 1e-3,
        samples: int = 192,
        chunk: int = 1 << 18,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(grid, samples=samples, chunk=chunk)
        if width < 1:
            raise ValueError(f"width is {width}; at least one unit is expected.")
        self.rate = rate
        self.encoding = HashEncoding(levels, features, base, growth, table, backend=backend)
        encoded = self.encoding.width
        self.layers = nn.ModuleList(
            [
                nn.Linear(encoded, width),
                nn.Linear(width, width),
                nn.Linear(width + encoded, width),
                nn.Linear(width, 1),
            ]
        )

    def field(self, points: Tensor) -> Tensor:
        """Return the density (R, S) at points (R, S, 3) in the unit box, in (0, 1)."""
        encoded = self.encoding.rows(points.reshape(-1, 3))  # (L F, N)
        return torch.sigmoid(self._network(encoded)).view(points.shape[:2])

    def initialise(
        self, volume: Tensor, projections: Tensor, scan: ScanGeometry, seed: int
    ) -> None:
        """Draw all weights; the first reconstruction tells the mean density; see `Representation`."""
        super().initialise(volume, projections, scan, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part in (self.encoding, *self.layers):
                part.reset_parameters()
        # A network that begins at 0.5 everywhere first has to empty the volume.
        mean = volume.mean().clamp(0.01, 0.99)
        nn.init.constant_(self.layers[-1].bias, float(torch.logit(mean)))
        self.to(volume.device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the table of the encoding and the weights of the network."""
        return [
            {"name": "table", "params": [self.encoding.table], "lr": self.rate},
            {"name": "network", "params": list(self.layers.parameters()), "lr": self.rate},
        ]

    def _network(self, encoded: Tensor) -> Tensor:
        """Return the last layer (N,) for features in rows (C, N)."""
        enter, middle, rejoin, head = self.layers
        values = F.leaky_relu(_affine(enter, encoded))
        values = F.leaky_relu(_affine(middle, values))
        values = F.leaky_relu(_affine(rejoin, torch.cat([values, encoded])))
        return _affine(head, values)[0]


def _affine(layer: nn.Linear, values: Tensor) -> Tensor:
    """Apply a layer to columns (C, N), which spares the encoding and its gradient a transposition."""
    return torch.addmm(layer.bias[:, None], layer.weight, values)
