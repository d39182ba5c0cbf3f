"""Tiny models saved in the layout of the real ones: no test downloads anything.

The folders are read by the same code path as the downloaded models: same classes, same files, a few
thousand random weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

CONTEXT_LENGTH = 77
"""Tokens of a caption, as in every CLIP."""

TEXT_WIDTH = 16
FEATURE_WIDTH = 24
"""Length of the tiny RAD-DINO's embedding; no multiple of the text width, as 768 is none of 1024."""

SD_TURBO_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
"""The scheduler's configuration as it lies beside SD-Turbo's weights."""

SD_TURBO_UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SD_TURBO_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
"""What differs from diffusers' defaults in SD-Turbo's configuration, for networks without weights."""


def tiny_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of a CLIP tokenizer that knows bytes and one word, `ct`."""
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + c) for c in range(256 - len(letters))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ct</w>"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: place for place, word in enumerate(words)}, ["c t</w>"]


def write_tiny_tokenizer(folder: Path) -> int:
    """Write the files of a CLIPTokenizer; return the size of its vocabulary.

    The last two entries are start and end of text: ids `size - 2` and `size - 1`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = tiny_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    configuration = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT_LENGTH,
        "do_lower_case": True,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration), encoding="utf-8")
    return len(vocabulary)


def write_tiny_sd_turbo(folder: Path, seed: int = 0) -> Path:
    """Write a model folder shaped like `stabilityai/sd-turbo`; return it."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    size = write_tiny_tokenizer(folder / "tokenizer")
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=2,
        norm_num_groups=4,
        attention_head_dim=[1, 2, 2, 2],
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT_LENGTH,
            hidden_act="gelu",
            bos_token_id=size - 2,
            eos_token_id=size - 1,
        )
    ).save_pretrained(folder / "text_encoder")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SD_TURBO_SCHEDULER))
    (folder / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "scheduler": ["diffusers", "EulerDiscreteScheduler"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
            }
        )
    )
    return folder


def write_tiny_rad_dino(folder: Path, seed: int = 0) -> Path:
    """Write a model folder shaped like `microsoft/rad-dino`; return it."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    Dinov2Model(
        Dinov2Config(
            hidden_size=FEATURE_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=28,
            patch_size=14,
        )
    ).save_pretrained(folder)
    processor = {
        "crop_size": {"height": 28, "width": 28},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5307, 0.5307, 0.5307],
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.2583, 0.2583, 0.2583],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 28},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
