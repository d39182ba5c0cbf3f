"""ClipVision: the frozen image tower of CLIP, looking at gray slices."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPModel

CLIP = "openai/clip-vit-base-patch32"
"""The CLIP that the losses of pix2pix-turbo use, by its name on the Hugging Face hub."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of the images (red, green, blue in [0, 1]) that CLIP was trained on, as published with it."""


def load_clip(model: str | Path = CLIP) -> CLIPModel:
    """Load a frozen CLIP, in evaluation mode.

    Args:
        model: name on the Hugging Face hub, or folder written by `save_pretrained`.

    Raises:
        ImportError: transformers is not installed.
        OSError: the model is neither in the folder nor to be had from the hub.
        ValueError: files of another model, or that are damaged or incomplete.
    """
    try:
        from transformers import CLIPModel
    except ImportError as error:
        raise ImportError(
            "CLIP needs the package transformers, which is not installed; expected an installation "
            'with the extra: pip install "diffnr-lightning[slicefixer]".'
        ) from error
    wanted = (
        f"expected {CLIP} or another CLIP by its name on the Hugging Face hub, or a folder with "
        f"its files: hf download {CLIP} --local-dir FOLDER, then name FOLDER as model"
    )
    try:
        clip, report = CLIPModel.from_pretrained(str(model), output_loading_info=True)
    except OSError as error:
        raise OSError(
            f"the CLIP model {str(model)!r} was found neither as a folder nor on the hub; {wanted}."
        ) from error
    except (ValueError, RuntimeError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"the CLIP model {str(model)!r} cannot be read ({type(error).__name__}); {wanted}."
        ) from error
    # Weights that are missing would stay at random values, with no more than a warning.
    if report["missing_keys"]:
        raise ValueError(
            f"the CLIP model {str(model)!r} has no weights {min(report['missing_keys'])}; {wanted}."
        )
    return clip.requires_grad_(False).eval()


class ClipFeatures(NamedTuple):
    """What CLIP sees in N slices, in float32.

    Attributes:
        maps: features of the patches after chosen blocks, each (N, width, h, w).
        embedding: (N, E), projected to the space that images share with texts; not normalised.
    """

    maps: tuple[Tensor, ...]
    embedding: Tensor


class ClipVision(nn.Module):
    """The image tower of a CLIP with its projection; frozen, and never in training mode.

    May be cast to a smaller type; what it returns is float32 all the same.

    Attributes:
        size: edge in pixels of the images the tower takes.
        depth: number of transformer blocks.
        width: channels of the features between blocks.
        channels: length of the embedding.

    Args:
        clip: that it is taken from; its text tower is not kept.
    """

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.size: int = clip.config.vision_config.image_size
        self.depth: int = clip.config.vision_config.num_hidden_layers
        self.width: int = clip.config.vision_config.hidden_size
        self.channels: int = clip.config.projection_dim
        self.tower = clip.vision_model
        self.projection = clip.visual_projection
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> ClipVision:
        """Stay in evaluation mode, whatever the mode of the network this is a part of."""
        return super().train(False)

    def forward(self, slices: Tensor, mode: str, taps: Sequence[int] = ()) -> ClipFeatures:
        """Look at slices; differentiable in them.

        Args:
            slices: (N, H, W), gray, in [0, 1] or a little outside.
            mode: interpolation to `size`, as in `torch.nn.functional.interpolate`.
            taps: numbers of the blocks, counted from 1, after which maps are taken.

        Raises:
            ValueError: an array that is not (N, H, W).
        """
        if slices.dim() != 3:
            raise ValueError(
                f"CLIP got slices of shape {tuple(slices.shape)}; (N, H, W) is expected."
            )
        resized = F.interpolate(slices[:, None], size=(self.size, self.size), mode=mode)[:, 0]
        pixels = torch.stack(
            [(resized - mean) / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)],
            dim=1,
        ).to(self.projection.weight.dtype)
        seen = self.tower(pixel_values=pixels, output_hidden_states=bool(taps))
        maps = tuple(_map(seen.hidden_states[tap]) for tap in taps)
        return ClipFeatures(maps, self.projection(seen.pooler_output).float())


def _map(tokens: Tensor) -> Tensor:
    """Lay out the tokens of the patches as an image; the first token, the class's, is left out."""
    patches = tokens[:, 1:].float().transpose(1, 2)
    edge = round(patches.shape[2] ** 0.5)
    return patches.unflatten(2, (edge, edge))
