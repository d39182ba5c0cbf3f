"""Stand-ins for CLIP and VGG16: files of the real layout with a few thousand weights."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import write_tiny_tokenizer
from torch import Tensor

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Places of VGG16's convolutions in torchvision's `features`."""

TAPPED = (2, 7, 14, 21, 28)
"""Those whose output LPIPS looks at."""


def write_tiny_clip(folder: Path, blocks: int = 12, size: int = 32) -> Path:
    """Write a CLIP with random weights, patches of 8 pixels, and its tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    tokens = write_tiny_tokenizer(folder)
    end = tokens - 1
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    text = {"vocab_size": tokens, "bos_token_id": end - 1, "eos_token_id": end}
    config = CLIPConfig(
        text_config={**tower, **text, "num_hidden_layers": 2},
        vision_config={
            **tower,
            "num_hidden_layers": blocks,
            "image_size": size,
            "patch_size": 8,
            "projection_dim": 12,
        },
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    return folder


def tiny_vgg(tapped: tuple[int, ...] = (4, 4, 6, 6, 8)) -> dict[str, Tensor]:
    """VGG16 under torchvision's names, three channels wide but for the layers that are tapped."""
    generator = torch.Generator().manual_seed(0)
    tensors, channels = {}, 3
    for place in CONVOLUTIONS:
        width = tapped[TAPPED.index(place)] if place in TAPPED else 3
        weight = torch.randn(width, channels, 3, 3, generator=generator)
        tensors[f"features.{place}.weight"] = weight * (2 / (9 * channels)) ** 0.5
        tensors[f"features.{place}.bias"] = 0.1 * torch.rand(width, generator=generator)
        channels = width
    # The file that torchvision offers holds the classifier too.
    tensors["classifier.0.weight"] = torch.zeros(2, channels)
    return tensors


def tiny_heads(tapped: tuple[int, ...] = (4, 4, 6, 6, 8)) -> dict[str, Tensor]:
    """Non-negative heads of LPIPS under the names of its files."""
    generator = torch.Generator().manual_seed(1)
    return {
        f"lin{tap}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for tap, width in enumerate(tapped)
    }
