"""ClipSimilarity: how far slices are from what a caption says, in the eyes of CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.losses.clip_vision import CLIP, ClipVision, load_clip

if TYPE_CHECKING:
    from transformers import CLIPModel


class ClipSimilarity(nn.Module):
    """Distance of slices from a caption: 1 - s cos / 100, with the cosine of their embeddings in CLIP.

    s is CLIP's learned scale of logits, which is 100 in the published models: the loss then runs
    from 0 to 2. The caption is embedded once, and the text tower is not kept.

    Args:
        model: CLIP, by its name on the Hugging Face hub or as a folder with model and tokenizer.
        caption: what clean slices are to agree with; cut where CLIP's longest text ends.

    Raises:
        ImportError: transformers is not installed.
        OSError: the model is neither in the folder nor to be had from the hub.
        ValueError: files of another model, or that are damaged or incomplete; a caption without a
            word that the tokenizer knows.

    Source: pix2pix-turbo (Parmar et al., One-step image translation with text-to-image models,
        2024), whose loss DiffNR takes over, with its bilinear resampling; Radford et al., Learning
        transferable visual models from natural language supervision, 2021.
    """

    def __init__(
        self,
        model: str | Path = CLIP,
        caption: str = "remove artifacts for this CT slice",
    ) -> None:
        super().__init__()
        clip = load_clip(model)
        self.vision = ClipVision(clip)
        self.scale = clip.logit_scale.exp().item()
        self.target: Tensor
        self.register_buffer("target", _embedded(clip, model, caption), persistent=False)

    def forward(self, slices: Tensor) -> Tensor:
        """Distance of each slice from the caption; differentiable.

        Args:
            slices: (N, H, W), gray, in [0, 1] or a little outside.

        Returns:
            (N,).

        Raises:
            ValueError: an array that is not (N, H, W).
        """
        embedding = self.vision(slices, "bilinear").embedding
        cosine = F.cosine_similarity(embedding, self.target.float(), dim=1)
        return 1 - self.scale / 100 * cosine


@torch.no_grad()
def _embedded(clip: CLIPModel, model: str | Path, caption: str) -> Tensor:
    """Embedding of a caption, (1, E)."""
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(model))
        known = set(tokenizer.tokenize(caption)) - {tokenizer.unk_token}
    except (OSError, ValueError, TypeError):
        known = set()
    # Without its files, transformers makes a tokenizer that takes every word for an unknown one.
    if not known:
        raise ValueError(
            f"the tokenizer of the CLIP model {str(model)!r} finds no word in the caption "
            f"{caption!r}; expected a caption, and vocab.json and merges.txt or tokenizer.json "
            f"beside the model: download all files of {CLIP}."
        )
    longest = clip.config.text_config.max_position_embeddings
    tokens = tokenizer(caption, truncation=True, max_length=longest, return_tensors="pt")
    return clip.text_projection(clip.text_model(**tokens).pooler_output)
