"""A network of sine layers that sees a first reconstruction."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations.fields.ray_field import RayField, constant_like

# Softplus this steep is 0.03 where its input is 0, less than air and lung differ by.
STEEPNESS = 20.0


class Siren(RayField):
    """Represent a volume by an MLP with sine activations.

    Its input is the place and, with `first_input`, the first reconstruction there, interpolated
    trilinearly; its output passes a softplus, so that densities are never negative.

    Args:
        grid: the box.
        width: units of a hidden layer.
        depth: hidden sine layers, the first one included.
        omega: factor inside the sine of every hidden layer; the frequencies the network begins with.
        first_input: whether the first reconstruction is an input.
        rate: learning rate of the weights.
        samples: points of a ray.
        chunk: points evaluated at one time where no gradient is asked for.
        empty: density below which there is nothing, so that the field is not evaluated; see `RayField`.

    Raises:
        ValueError: a width or depth below one, or an omega that is not positive.

    Source: layers, initialisation and omega 30 are those of Sitzmann et al., "Implicit neural
    representations with periodic activation functions", NeurIPS 2020 (section 3.2); the input of the
    filtered backprojection is DINR's (arXiv 2603.10947). DINR's width, depth, omega and rate are not
    published: three hidden layers are Sitzmann's for images, the width of 128 is what a CPU
    carries (Sitzmann's is 256). Deviations: a softplus follows the last layer, which is linear in
    both; any first reconstruction is taken, not only the analytic one.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        *,
        width: int = 128,
        depth: int = 3,
        omega: float = 30.0,
        first_input: bool = True,
        rate: float = 1e-4,
        samples: int = 192,
        chunk: int = 1 << 18,
        empty: float | None = None,
    ) -> None:
        super().__init__(grid, samples=samples, chunk=chunk, empty=empty)
        if min(width, depth) < 1:
            raise ValueError(f"width and depth are {width} and {depth}; at least 1 is expected.")
        if not omega > 0:
            raise ValueError(f"omega is {omega}; a positive number is expected.")
        self.omega = omega
        self.rate = rate
        widths = [3 + first_input, *[width] * depth]
        self.hidden = nn.ModuleList(
            nn.Linear(fan_in, fan_out)
            for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True)
        )
        self.head = nn.Linear(width, 1)
        self.register_buffer("first", torch.zeros(grid.shape) if first_input else None)
        self._draw_weights(seed=0)

    def field(self, points: Tensor) -> Tensor:
        """Return the density (R, S) at points (R, S, 3) in the unit box."""
        values = points
        if self.first is not None:
            values = torch.cat([points, self._first_at(points)[..., None]], dim=-1)
        for layer in self.hidden:
            values = torch.sin(self.omega * layer(values))
        return F.softplus(self.head(values)[..., 0], beta=STEEPNESS)

    def initialise(
        self, volume: Tensor, projections: Tensor, scan: ScanGeometry, seed: int
    ) -> None:
        """Take the first reconstruction as input and draw the weights; see `Representation`."""
        super().initialise(volume, projections, scan, seed)
        self._draw_weights(seed)
        self.to(volume.device)
        if self.first is not None:
            self.first = volume.detach().to(self.first.dtype).clamp(min=0)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the one group of weights."""
        return [{"name": "weights", "params": list(self.parameters()), "lr": self.rate}]

    def _first_at(self, points: Tensor) -> Tensor:
        """Return the first reconstruction (R, S) at points (R, S, 3); its faces go on outside."""
        edges = constant_like(points, *self.grid.size_mm[::-1])
        # The outer faces of the outer voxels lie at -1 and 1, whatever the shape of the box.
        places = points * (edges.max() / edges)
        sampled = F.grid_sample(
            self.first[None, None],
            places.reshape(1, -1, 1, 1, 3),
            padding_mode="border",
            align_corners=False,
        )
        return sampled.reshape(points.shape[:-1])

    @torch.no_grad()
    def _draw_weights(self, seed: int) -> None:
        """Draw weights with which the input of every sine keeps its spread from layer to layer."""
        generator = torch.Generator().manual_seed(seed)
        for number, layer in enumerate([*self.hidden, self.head]):
            fan_in = layer.in_features
            bound = 1 / fan_in if number == 0 else math.sqrt(6 / fan_in) / self.omega
            for values, limit in ((layer.weight, bound), (layer.bias, 1 / math.sqrt(fan_in))):
                drawn = torch.rand(values.shape, generator=generator, dtype=torch.float32)
                values.copy_(limit * (2 * drawn - 1))
