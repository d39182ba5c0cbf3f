"""NAF's field: a hash encoding and a small network."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations.fields import network_kernels
from diffnr_lightning.representations.fields.hash_encoding import Backend, HashEncoding
from diffnr_lightning.representations.fields.network_kernels import network_reference
from diffnr_lightning.representations.fields.plain_network import PlainNetwork
from diffnr_lightning.representations.fields.ray_field import RayField
from diffnr_lightning.triton_kernels import takes_triton

# Of a step of the warm-up, which bears a rate at which rays would not agree.
WARM_RATE, WARM_POINTS = 1e-2, 1 << 14


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
        warm_up: steps that fit the field to the first reconstruction before any ray is cast; 0, as in
            the paper, ignores it.
        samples: points of a ray.
        chunk: points evaluated at one time where no gradient is asked for.
        empty: density below which there is nothing, so that the field is not evaluated; see `RayField`.
        network: `naf` is the paper's, evaluated by our fused kernels; `plain` has no biases and feeds the encoding to
            the first layer alone, which is what tiny-cuda-nn's fused network can be.
        backend: of the encoding; see `HashEncoding`. `tinycudann` evaluates a plain network too, in half precision; see
            `tiny_cuda` for what differs.

    Raises:
        ImportError: `tinycudann` is asked for and not installed; raised where points are first evaluated.
        ValueError: a width below one, a negative warm-up, another network, a plain one that tiny-cuda-nn does not have,
            or what `HashEncoding` or `RayField` refuse.

    Source: Zha et al., "NAF: Neural attenuation fields for sparse-view CBCT reconstruction", MICCAI
    2022: four linear layers of width 32 with LeakyReLU, the encoding given again to the third, a
    sigmoid at the end, learning rate 1e-3. Deviations: the last bias begins where the mean density
    of the first reconstruction is; `warm_up` is ours. A step of it knows the density at its points,
    where a ray knows a sum over many, so that 200 steps, in the time of 25 iterations, bring a field
    to where SIRT is (64^3 phantom, 24 views: 26.9 dB).
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
        warm_up: int = 0,
        samples: int = 192,
        chunk: int = 1 << 18,
        empty: float | None = None,
        network: Literal["naf", "plain"] = "naf",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(grid, samples=samples, chunk=chunk, empty=empty)
        if width < 1:
            raise ValueError(f"width is {width}; at least one unit is expected.")
        if warm_up < 0:
            raise ValueError(
                f"warm_up is {warm_up}; a number of steps, or 0 for none, is expected."
            )
        if network not in ("naf", "plain"):
            raise ValueError(f"network is {network!r}; 'naf' or 'plain' is expected.")
        self.rate = rate
        self.warm_up = warm_up
        self.encoding = HashEncoding(levels, features, base, growth, table, backend=backend)
        encoded = self.encoding.width
        if network == "plain":
            self.layers = PlainNetwork(encoded, width, fused=backend == "tinycudann")
        else:
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
        points_in_row = points.reshape(-1, 3)
        encoded = self.encoding.rows(points_in_row)  # (L F, N)
        if isinstance(self.layers, PlainNetwork):
            return torch.sigmoid(self.layers(encoded)).view(points.shape[:2])
        parameters = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        if self.encoding.choose(points_in_row) == "numba":
            values = _Network.apply(encoded, *parameters)
        else:
            values = _on_device(encoded, parameters)
        return torch.sigmoid(values).view(points.shape[:2])

    def initialise(
        self, volume: Tensor, projections: Tensor, scan: ScanGeometry, seed: int
    ) -> None:
        """Draw all weights, and fit them to the first reconstruction; see `Representation`."""
        super().initialise(volume, projections, scan, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            plain = isinstance(self.layers, PlainNetwork)
            for part in (self.encoding, *((self.layers,) if plain else self.layers)):
                part.reset_parameters()
        # A network that begins at 0.5 everywhere first has to empty the volume.
        mean = volume.mean().clamp(0.01, 0.99)
        begin = self.layers.offset if plain else self.layers[-1].bias
        nn.init.constant_(begin, float(torch.logit(mean)))
        self.to(volume.device)
        if self.warm_up and (self.matter is None or self.matter.any()):
            self._fit(volume, torch.Generator().manual_seed(seed))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the table of the encoding and the weights of the network."""
        return [
            {"name": "table", "params": [self.encoding.table], "lr": self.rate},
            {"name": "network", "params": list(self.layers.parameters()), "lr": self.rate},
        ]

    @torch.enable_grad()
    def _fit(self, volume: Tensor, generator: torch.Generator) -> None:
        """Fit the field to the voxels of a volume that hold matter, random ones in each of `warm_up` steps."""
        points = self.unit(self.grid.points(volume.device)).view(-1, 1, 3)
        values = volume.detach().reshape(-1, 1)
        if self.matter is not None:
            points, values = points[self.matter.flatten()], values[self.matter.flatten()]
        optimizer = torch.optim.Adam(self.parameters(), eps=1e-15, fused=True)
        for step in range(self.warm_up):
            for group in optimizer.param_groups:
                group["lr"] = WARM_RATE * 0.1 ** (step / self.warm_up)
            drawn = torch.randint(len(values), (WARM_POINTS,), generator=generator)
            drawn = drawn.to(volume.device)
            optimizer.zero_grad()
            F.mse_loss(self.field(points[drawn]), values[drawn]).backward()
            optimizer.step()
        optimizer.zero_grad()


def _on_device(encoded: Tensor, parameters: list[Tensor]) -> Tensor:
    """Return the output (N,) for features (C, N) by the Triton kernel where it serves them, else by torch."""
    if takes_triton(encoded) and encoded.dtype == torch.float32:
        from diffnr_lightning.representations.fields import network_triton

        if network_triton.serves(len(encoded), len(parameters[0])):
            return network_triton.network(encoded, *parameters)
    return network_reference(encoded, *parameters)


class _Network(torch.autograd.Function):
    """Run the network by the numba kernels."""

    @staticmethod
    def forward(ctx: Any, encoded: Tensor, *parameters: Tensor) -> Tensor:
        out = torch.empty(encoded.shape[1])
        network_kernels.forward(encoded.numpy(), *_layers(parameters), out.numpy())
        ctx.save_for_backward(encoded, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        encoded, *parameters = ctx.saved_tensors
        gradient = grad_outputs[0].contiguous()
        features_out = torch.empty_like(encoded)
        sums = network_kernels.empty_sums(encoded.shape, parameters[0].shape[0])
        network_kernels.backward(
            encoded.numpy(),
            *_layers(parameters)[:2],
            tuple(np.ascontiguousarray(weight.numpy().T) for weight in parameters[::2]),
            gradient.numpy(),
            features_out.numpy(),
            sums,
        )
        parts = network_kernels.split_sums(sums, len(encoded))
        return (features_out, *(torch.from_numpy(part) for part in parts))


def _layers(parameters: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Return weights and biases of three layers, and those of the last, as the kernels read them."""
    weights = [weight.detach().numpy() for weight in parameters[::2]]
    biases = [np.ascontiguousarray(bias.detach().numpy()[:, None]) for bias in parameters[1::2]]
    return tuple(weights[:3]), tuple(biases[:3]), weights[3], biases[3]
