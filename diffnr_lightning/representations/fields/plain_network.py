"""NAF's network as tiny-cuda-nn can run it: no biases, and the encoding given to the first layer alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.representations.fields import tiny_cuda


class PlainNetwork(nn.Module):
    """Map features to one number by four layers without biases, and add an offset.

    Args:
        features: of a point.
        width: units of the three hidden layers.
        fused: whether tiny-cuda-nn evaluates it, on CUDA and in half precision; torch does elsewhere.

    Attributes:
        layers: linear ones.
        offset: (1,) where the output begins.

    Raises:
        ValueError: fused, and numbers that tiny-cuda-nn does not serve.

    Source: the network of NAF, see `NeuralField`. Deviations: no biases and no second look at the features; the offset
    takes the place of the last bias.
    """

    def __init__(self, features: int, width: int, *, fused: bool = False) -> None:
        super().__init__()
        if fused:
            tiny_cuda.check_plain_network(features, width)
        self.features, self.width, self.fused = features, width, fused
        edges = (features, *[width] * tiny_cuda.HIDDEN, 1)
        self.layers = nn.ModuleList(
            nn.Linear(inner, outer, bias=False)
            for inner, outer in zip(edges[:-1], edges[1:], strict=True)
        )
        self.offset = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Draw the weights from torch's random numbers."""
        for layer in self.layers:
            layer.reset_parameters()

    def forward(self, encoded: Tensor) -> Tensor:
        """Return the output (N,) for features in rows (C, N)."""
        if self.fused:
            return self._fused(encoded.T) + self.offset
        values = encoded
        for layer in self.layers[:-1]:
            values = F.leaky_relu(layer.weight @ values)
        return (self.layers[-1].weight @ values)[0] + self.offset

    def _fused(self, encoded: Tensor) -> Tensor:
        if "_tinycudann" not in self.__dict__:
            # Past nn.Module's registration: its parameters are a second copy that nobody trains.
            self.__dict__["_tinycudann"] = tiny_cuda.network(
                self.features, self.width, encoded.device
            )
        weights = tiny_cuda.flat_weights([layer.weight for layer in self.layers])
        return tiny_cuda.run(self.__dict__["_tinycudann"], weights, encoded)[:, 0].float()
