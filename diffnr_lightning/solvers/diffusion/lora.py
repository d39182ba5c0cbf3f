"""Low-rank adaptation (LoRA) of a denoiser that ends without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

# What the blocks of U-Nets are called in diffusers.
BLOCKS = "_block"
ADAPTED = (nn.Conv2d, nn.Linear)


class Adapter:
    """The weights that are learned beside those of a denoiser, while `adapted` lasts.

    Attributes:
        parameters: by name, those that are trained.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = list(layers.values())
        self.parameters: dict[str, nn.Parameter] = {}
        for name, layer in layers.items():
            down, up = layer.lora_A["default"], layer.lora_B["default"]
            self.parameters |= {f"{name}.down": down.weight, f"{name}.up": up.weight}
            if up.bias is not None:
                self.parameters[f"{name}.bias"] = up.bias

    def values(self) -> dict[str, Tensor]:
        """Return copies of all weights."""
        return {name: weight.detach().clone() for name, weight in self.parameters.items()}

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Take the weights that `values` returned."""
        for name, weight in self.parameters.items():
            weight.copy_(values[name])

    @contextmanager
    def left_aside(self) -> Iterator[None]:
        """Let the denoiser predict as if it had not been adapted."""
        for layer in self._layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(True)

    def tune(
        self,
        loss: Callable[[int], Tensor],
        *,
        updates: int,
        rate: float,
        moments: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Lower a loss by Adam and return its moments, as `torch.save` holds them.

        Args:
            loss: of the number of the update.
            updates: steps of Adam.
            rate: of them.
            moments: from an earlier call, or None.
        """
        optimizer = torch.optim.Adam(self.parameters.values(), lr=rate)
        if moments:
            # Adam overwrites what it is given, and a sampler's state may hold it.
            optimizer.load_state_dict(deepcopy(moments))
        with torch.enable_grad():
            for number in range(updates):
                optimizer.zero_grad()
                loss(number).backward()
                optimizer.step()
        return optimizer.state_dict()


@contextmanager
def adapted(
    denoiser: nn.Module, rank: int, seed: int, *, biases: bool = False
) -> Iterator[Adapter]:
    """Give a denoiser LoRA, which changes nothing until it is trained, and take it away at the end.

    Args:
        denoiser: with convolutions or linear layers in blocks; left as it was, bit by bit, whatever happens.
        rank: of the factors that are added to the weights of each of them.
        seed: of the first factors.
        biases: whether what is added has a bias too.

    Raises:
        ImportError: peft is not installed.
        ValueError: a denoiser without such layers, or a rank below one.

    Source: E. Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022.
    """
    layers = {n: m for n, m in denoiser.named_modules() if BLOCKS in n and isinstance(m, ADAPTED)}
    if not layers or rank < 1:
        raise ValueError(
            f"the denoiser has {len(layers)} layers in blocks and rank is {rank}; at least one of each is expected for "
            "LoRA, as `UNetDenoiser` has layers."
        )
    lasting = {n: p.requires_grad for n, p in denoiser.named_parameters()}
    try:
        yield _injected(denoiser, list(layers), rank, seed, biases)
    finally:
        for name, layer in layers.items():
            parent, _, attribute = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), attribute, layer)
        if hasattr(denoiser, "peft_config"):
            del denoiser.peft_config
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(lasting[name])


def _injected(denoiser: nn.Module, names: list[str], rank: int, seed: int, biases: bool) -> Adapter:
    """Put layers with LoRA in the place of others and draw their factors."""
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "samplers that adapt their denoiser need the package peft, which is not installed; expected an "
            'installation with the extra: pip install "diffnr-lightning[adaptation]".'
        ) from error
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names, lora_bias=biases)
    peft.inject_adapter_in_model(config, denoiser)
    adapter = Adapter({name: denoiser.get_submodule(name) for name in names})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapter.parameters.items():
            if name.endswith(".down"):
                weight.copy_(torch.randn(weight.shape, generator=generator) / rank)
            else:
                weight.zero_()
    return adapter
