"""tiny-cuda-nn's encoding and fused network, with weights that are ours.

Its modules keep one flat vector of parameters each; here they are given our own instead, so that a run trains, saves
and resumes the same tensors whichever backend evaluates them. This file has not run beside the package yet: it is
tested on a stand-in, and its agreement with the reference on a GPU is a test with the mark `gpu`.

What differs from our own kernels:

- The table of the encoding is laid out alike (levels one after the other, sizes rounded up to eight entries, the same
  hash), and evaluated in float32: differences are rounding.
- The fused network computes in half precision on tensor cores, activations included: three digits. Gradients are scaled
  by 128 on the way, by the package itself.
- It has no biases and feeds the encoding to the first layer alone, so that it cannot be NAF's network, which has both.
  `NeuralField(network="plain")` is what it can be, on any device.
- Widths are 16, 32, 64 or 128; inputs are padded with ones to a multiple of 16, so that others are refused here. The
  output is padded to 16 rows, of which the first is used.

Source: Müller et al., "Real-time neural radiance caching for path tracing", SIGGRAPH 2021 (the fused network), and
"Instant neural graphics primitives", SIGGRAPH 2022 (the encoding); names of settings are those of tiny-cuda-nn's
DOCUMENTATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128)
ALIGNED = 16
HIDDEN = 3


def check_plain_network(features: int, width: int) -> None:
    """Refuse a network that the fused kernels do not have.

    Args:
        features: of the encoding.
        width: units of a layer.

    Raises:
        ValueError: a width or a number of features that they do not serve.
    """
    if width not in WIDTHS:
        raise ValueError(
            f"width is {width}; tiny-cuda-nn's fused network has {', '.join(map(str, WIDTHS))} units a layer."
        )
    if features % ALIGNED:
        raise ValueError(
            f"levels times features are {features}; tiny-cuda-nn's fused network takes a multiple of {ALIGNED}."
        )


def encoding(
    levels: int, features: int, base: int, growth: float, table: int, device: torch.device
) -> nn.Module:
    """Return tiny-cuda-nn's hash encoding of points, see `HashEncoding` for the numbers.

    Raises:
        ImportError: the package is not installed.
    """
    options = {
        "otype": "HashGrid",
        "n_levels": levels,
        "n_features_per_level": features,
        "log2_hashmap_size": table,
        "base_resolution": base,
        "per_level_scale": growth,
    }
    return _package().Encoding(3, options, dtype=torch.float32).to(device)


def network(features: int, width: int, device: torch.device) -> nn.Module:
    """Return tiny-cuda-nn's fused network of three hidden layers and one output.

    Raises:
        ImportError: the package is not installed.
    """
    options = {
        "otype": "FullyFusedMLP",
        "activation": "LeakyReLU",
        "output_activation": "None",
        "n_neurons": width,
        "n_hidden_layers": HIDDEN,
    }
    return _package().Network(features, 1, options).to(device)


def run(module: nn.Module, parameters: Tensor, inputs: Tensor) -> Tensor:
    """Evaluate a module of the package with parameters of ours, differentiably in both.

    Args:
        module: see `encoding` and `network`.
        parameters: flat, float32.
        inputs: (N, C).

    Returns:
        (N, outputs) in the precision of the module.
    """
    return torch.func.functional_call(module, {"params": parameters}, (inputs.contiguous(),))


def flat_weights(weights: Sequence[Tensor]) -> Tensor:
    """Return the weights of a network as its flat parameters: row by row, the last layer padded to 16 rows."""
    *hidden, last = weights
    padded = F.pad(last, (0, 0, 0, ALIGNED - len(last)))
    return torch.cat([weight.reshape(-1) for weight in (*hidden, padded)])


def _package() -> Any:
    try:
        import tinycudann
    except ImportError as error:
        raise ImportError(
            "tiny-cuda-nn is not installed; environment.yml says how it is built (it is not on PyPI), or take another "
            "backend."
        ) from error
    return tinycudann
