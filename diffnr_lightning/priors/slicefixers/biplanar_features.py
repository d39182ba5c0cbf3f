"""BiplanarFeatures: RAD-DINO's embedding of the two projections that condition the SliceFixer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.priors.pretrained import load_pretrained, load_weights, optional_package

RAD_DINO = "microsoft/rad-dino"
"""The encoder of the paper, by its name on the Hugging Face hub."""

RAD_DINO_REVISION = "110cbc18d5133582e320b43d53bf5c44e410c936"
"""The commit of it that is used: the features of another one could differ."""

FEATURE_SHAPE = (1, 768)
"""Of a stored embedding of one projection, in the layout of the released demo case."""

FIRST, SECOND = "_xray_1.pt", "_xray_2.pt"
"""Endings of the files of stored embeddings."""


class BiplanarFeatures(nn.Module):
    """Frozen RAD-DINO: two projections in, two tokens out.

    Attributes:
        size: edge in pixels of the square that the network takes, as its processor says.
        width: length of a token.

    Args:
        encoder: name on the Hugging Face hub, or a folder with the files of a Dinov2 network and
            the configuration of its image processor.
        revision: commit or branch at the hub; None takes the pinned one of `microsoft/rad-dino`,
            and the newest of any other.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: the network is neither in the folder nor to be had from the hub.
        ValueError: damaged files, or those of a network of another kind.

    Source: DiffNR, section on biplanar conditioning (RAD-DINO features of two orthogonal
        projections); the embedding is the pooled class token. Deviations: gray values are not
        rounded to 8 bits, and the square is made by resizing rather than by cutting the longer
        side, so that no part of a projection is lost.
    """

    def __init__(self, encoder: str = RAD_DINO, revision: str | None = None) -> None:
        transformers = optional_package("transformers")
        super().__init__()
        if revision is None and encoder == RAD_DINO:
            revision = RAD_DINO_REVISION
        named = (encoder, "encoder", RAD_DINO)
        # Not AutoImageProcessor: it needs torchvision or Pillow, for five numbers.
        file = load_pretrained(
            transformers.utils.cached_file,
            *named,
            filename="preprocessor_config.json",
            revision=revision,
        )
        processor = json.loads(Path(file).read_text(encoding="utf-8"))
        self.network = load_weights(
            transformers.AutoModel.from_pretrained, *named, revision=revision
        )
        self.size, mean, deviation = _looks(processor, encoder)
        self.width: int = self.network.config.hidden_size
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        self._digest: str | None = None
        self.train(False)

    def train(self, mode: bool = True) -> BiplanarFeatures:
        """Stay in evaluation mode, whatever the mode of the network this is a part of."""
        return super().train(False)

    def digest(self) -> str:
        """SHA-256 of the weights and of how projections are prepared, hexadecimal."""
        if self._digest is None:
            looks = (self.size, self.mean.flatten().tolist(), self.deviation.flatten().tolist())
            sha = hashlib.sha256(repr(looks).encode())
            for name, tensor in sorted(self.network.state_dict().items()):
                sha.update(name.encode())
                sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
            self._digest = sha.hexdigest()
        return self._digest

    @torch.no_grad()
    def forward(self, biplanar: Tensor) -> Tensor:
        """Embed pairs of projections.

        Args:
            biplanar: (N, 2, h, w), any unit; each projection is stretched to [0, 1] by itself.

        Returns:
            (N, 2, width), float32.
        """
        flat = biplanar.float().flatten(2)
        low, high = flat.amin(dim=2), flat.amax(dim=2)
        span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        gray = (biplanar.float() - low[..., None, None]) / span[..., None, None]
        gray = gray.flatten(0, 1)[:, None]
        if gray.shape[-2:] != (self.size, self.size):
            gray = F.interpolate(
                gray, size=(self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 1)
        pixels = (gray - self.mean) / self.deviation
        pooled = self.network(pixel_values=pixels).pooler_output
        return pooled.float().unflatten(0, (len(biplanar), 2))


def _looks(processor: dict, encoder: str) -> tuple[int, Tensor, Tensor]:
    """Edge, mean and deviation (1, 3, 1, 1) of the images that a network was trained on."""
    try:
        crop = processor.get("crop_size") or processor["size"]
        size = int(crop["height"] if "height" in crop else crop["shortest_edge"])
        mean, deviation = (
            torch.tensor(processor[key], dtype=torch.float32).reshape(1, 3, 1, 1)
            for key in ("image_mean", "image_std")
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"preprocessor_config.json of encoder {encoder!r} gives no size, mean and deviation of "
            f"images; expected that of a Dinov2 network such as {RAD_DINO}."
        ) from error
    return size, mean, deviation


def read_biplanar_features(first: str | Path, second: str | Path) -> Tensor:
    """Read two stored embeddings, one for each projection.

    Args:
        first: file of a tensor (1, 768), such as `<case>_xray_1.pt`.
        second: likewise, `<case>_xray_2.pt`.

    Returns:
        (1, 2, 768) float32, to be put in the place of `Conditioning.biplanar`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of something else.

    Source: the layout of the case released with DiffNR.
    """
    tokens = []
    for path in (Path(first), Path(second)):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; expected the stored features of a projection."
            )
        try:
            token = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged pickle may raise anything
            raise ValueError(
                f"{path} holds no tensor or is damaged; expected the features of a projection, "
                f"shape {FEATURE_SHAPE}."
            ) from error
        if not isinstance(token, Tensor) or token.shape != FEATURE_SHAPE:
            came = tuple(token.shape) if isinstance(token, Tensor) else type(token).__name__
            raise ValueError(
                f"{path} holds {came}; expected the features of a projection, a tensor of shape "
                f"{FEATURE_SHAPE}."
            )
        tokens.append(token.float())
    return torch.stack(tokens, dim=1)


def stored_features(case: str | Path) -> Tensor | None:
    """Read the features that lie in a case folder, as in the case released with DiffNR.

    They are RAD-DINO's class tokens of two perpendicular projections; which two, and how these were
    prepared, the release does not say.

    Args:
        case: folder that may hold `<name>_xray_1.pt` and `<name>_xray_2.pt`.

    Returns:
        (1, 2, 768) float32; None where there are none.

    Raises:
        FileNotFoundError: the second file is missing.
        ValueError: several first files, or files of something else.
    """
    firsts = sorted(Path(case).glob(f"*{FIRST}")) if Path(case).is_dir() else []
    if len(firsts) > 1:
        raise ValueError(
            f"case {case} holds {firsts[0].name} and {firsts[1].name}; expected the features of one case."
        )
    if not firsts:
        return None
    first = firsts[0]
    return read_biplanar_features(first, first.with_name(first.name.replace(FIRST, SECOND)))
