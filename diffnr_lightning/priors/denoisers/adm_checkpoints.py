"""Checkpoints of guided-diffusion networks (ADM), as those of DDS and DiffusionBlend are, as U-Nets of diffusers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffnr_lightning.priors.denoisers.unet_denoiser import UNetDenoiser

if TYPE_CHECKING:
    from diffusers import UNet2DModel

# Groups of every normalisation of an ADM network.
GROUPS = 32
BLOCKS = ("input_blocks", "middle_block", "output_blocks")
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def read_adm_checkpoint(
    path: str | Path,
    *,
    head_channels: int = 64,
    new_attention_order: bool = False,
    scale: tuple[float, float] = (-1.0, 1.0),
) -> UNetDenoiser:
    """Read a checkpoint of guided-diffusion as a denoiser of slices; `save_denoiser` writes it as a pipeline.

    Args:
        path: weights by name (.pt), alone or under `state_dict`; it is read without running code.
        head_channels: of each head of attention, which the weights do not say (`num_head_channels`).
        new_attention_order: whether the network was built with `use_new_attention_order`, which they do not say either.
        scale: values for attenuation 0 and 1 of the images that it was trained on: (0, 1) of DDS, (-1, 1) of
            DiffusionBlend.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, or a network that no U-Net of diffusers equals.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; the weights of an ADM network are expected."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{path} cannot be read without running code in it, or is damaged; weights by name are expected."
        ) from error
    if isinstance(state, Mapping) and "shadow_params" in state:
        raise ValueError(
            f"{path} holds averaged weights without names (shadow_params); weights by name are expected."
        )
    state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
    named = all(isinstance(n, str) and isinstance(tensor, Tensor) for n, tensor in state.items())
    if not state or not named:
        raise ValueError(f"{path} holds no weights by name; those of an ADM network are expected.")
    try:
        unet = unet_of_adm(
            state, head_channels=head_channels, new_attention_order=new_attention_order
        )
        denoiser = UNetDenoiser(unet, {"clip_sample": False}, scale=scale, alone=False)
    except (LookupError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{path} is no ADM network that a UNet2DModel equals ({reason}); use its own program."
        ) from error
    return denoiser.eval().requires_grad_(False)


def unet_of_adm(
    state: Mapping[str, Tensor], *, head_channels: int = 64, new_attention_order: bool = False
) -> UNet2DModel:
    """Return the U-Net of diffusers that computes what an ADM network does.

    Args:
        state: weights of the ADM network by name.
        head_channels: of each head of attention.
        new_attention_order: whether queries, keys and values of all heads follow each other, instead of those of each
            head.

    Raises:
        ValueError: a network that cannot be expressed, with the reason.

    Source: P. Dhariwal and A. Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, for the network.
    """
    from diffusers import UNet2DModel

    state = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
    layout = _layout(state)
    attention_levels, updown = layout.pop("attention_levels"), layout.pop("updown")
    widths = layout["block_out_channels"]
    attended = sorted({widths[level] for level in attention_levels} | {widths[-1]})
    if any(width % head_channels for width in attended) or any(w % GROUPS for w in widths):
        raise ValueError(
            f"widths {widths} with heads of {head_channels} channels and {GROUPS} groups do not divide"
        )
    kinds = ["Attn{}Block2D" if level in attention_levels else None for level in range(len(widths))]
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if updown else None
    plain = plain or ("DownBlock2D", "UpBlock2D")
    unet = UNet2DModel(
        **layout,
        down_block_types=tuple(kind.format("Down") if kind else plain[0] for kind in kinds),
        up_block_types=tuple(kind.format("Up") if kind else plain[1] for kind in reversed(kinds)),
        downsample_type="resnet" if updown else "conv",
        upsample_type="resnet" if updown else "conv",
        attention_head_dim=head_channels,
        norm_num_groups=GROUPS,
        attn_norm_num_groups=GROUPS,
    )
    converted: dict[str, Tensor] = {}
    places = dict(_places(len(widths), layout["layers_per_block"], attention_levels))
    for name, tensor in state.items():
        converted |= dict(_converted(name, tensor, places, head_channels, new_attention_order))
    unet.load_state_dict(converted)
    return unet


def _layout(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the names and shapes of the weights say of the network."""
    if lacking := [n for n in ("input_blocks.0.0.weight", "out.2.weight") if n not in state]:
        raise ValueError(f"it has no weight {lacking[0]}")
    count = len({name.split(".")[1] for name in state if name.startswith("input_blocks.")})
    ups = {
        name.split(".")[1]: "in_layers" in name
        for name in state
        if re.match(r"output_blocks\.\d+\.[12]\.(in_layers\.0|conv)\.weight", name)
    }
    levels = len(ups) + 1
    layers, beside = divmod(count, levels)
    if beside or len(set(ups.values())) > 1:
        raise ValueError("its levels are not built alike")
    layers -= 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    base = state["input_blocks.0.0.weight"]
    widths = tuple(len(state[f"input_blocks.{first}.0.out_layers.3.weight"]) for first in firsts)
    if len(base) != widths[0] or state["time_embed.0.weight"].shape != (4 * len(base), len(base)):
        raise ValueError("its first level is wider than its first convolution")
    shift = len(state["input_blocks.1.0.emb_layers.1.weight"])
    return {
        "in_channels": base.shape[1],
        "out_channels": len(state["out.2.weight"]),
        "block_out_channels": widths,
        "layers_per_block": layers,
        "resnet_time_scale_shift": "scale_shift" if shift == 2 * widths[0] else "default",
        "num_class_embeds": len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
        "attention_levels": tuple(
            level
            for level, first in enumerate(firsts)
            if f"input_blocks.{first}.1.qkv.weight" in state
        ),
        "updown": all(ups.values()),
    }


def _places(
    levels: int, layers: int, attention_levels: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    """Yield the module of the ADM network and that of the U-Net in its place, block by block."""
    yield from (
        ("middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("middle_block.2", "mid_block.resnets.1"),
    )
    number = 1
    for level in range(levels):
        for layer in range(layers):
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{layer}"
            yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{layer}"
            number += 1
        yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
        number += 1
    for number in range(levels * (layers + 1)):
        level, layer = divmod(number, layers + 1)
        attended = levels - 1 - level in attention_levels
        yield f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{layer}"
        if attended:
            yield f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{layer}"
        yield f"output_blocks.{number}.{1 + attended}", f"up_blocks.{level}.upsamplers.0"


def _converted(
    name: str, tensor: Tensor, places: Mapping[str, str], head_channels: int, new_order: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of the U-Net that one of the ADM network becomes."""
    module, _, kind = name.rpartition(".")
    if module in ENDS:
        yield f"{ENDS[module]}.{kind}", tensor
        return
    parts = module.split(".")
    block = ".".join(parts[: 2 if parts[0] == "middle_block" else 3])
    place, inner = places.get(block), module.removeprefix(f"{block}.")
    if parts[0] not in BLOCKS or place is None:
        raise ValueError(f"its weight {name} has no place in a UNet2DModel")
    if inner in RESIDUAL:
        if inner == "skip_connection" and kind == "weight" and tensor.shape[-1] != 1:
            raise ValueError(f"its weight {name} is a convolution of more than one pixel")
        yield f"{place}.{RESIDUAL[inner]}.{kind}", tensor
    elif inner in ("op", "conv"):
        yield f"{place}.conv.{kind}", tensor
    elif inner == "norm":
        yield f"{place}.group_norm.{kind}", tensor
    elif inner == "proj_out":
        yield f"{place}.to_out.0.{kind}", tensor.flatten(1) if kind == "weight" else tensor
    elif inner == "qkv":
        # Of each head queries, keys and values follow each other; in the new order those of all heads do.
        flat = tensor.flatten(1) if kind == "weight" else tensor
        heads = 1 if new_order else len(flat) // (3 * head_channels)
        thirds = flat.reshape(heads, 3, -1, *flat.shape[1:])
        for index, letter in enumerate("qkv"):
            yield f"{place}.to_{letter}.{kind}", thirds[:, index].flatten(0, 1)
    else:
        raise ValueError(f"its weight {name} has no place in a UNet2DModel")
