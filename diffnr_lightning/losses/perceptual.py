"""Lpips: perceptual distance between slices, in the features of VGG16."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = "vgg16-397923af.pth"
ADDRESS = f"https://download.pytorch.org/models/{WEIGHTS}"

CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Places of the 3 x 3 convolutions in torchvision's `features`, up to each of the five taps."""

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""What LPIPS subtracts from and divides the channels of an image in [-1, 1] by."""

SMALLEST = 16
"""Edge in pixels of a slice of which the last tap sees one pixel."""

EPSILON = 1e-8
"""Added to squared lengths: blank regions have features without a direction."""


class Lpips(nn.Module):
    """Learned perceptual image patch similarity, version 0.1, on VGG16; nothing of it is trained.

    At each of five taps the features of both slices are scaled to unit length along the channels;
    the squared differences are weighted by a learned, non-negative vector, averaged over the slice
    and added up.

    Args:
        weights: file of VGG16 (.pth or .safetensors) with torchvision's names; its shapes set the
            widths. None looks for vgg16-397923af.pth in the folder where torch.hub keeps weights.
        heads: file of the learned vectors, `lin0.model.1.weight` and on, each (1, C, 1, 1). None
            takes those for VGG16, which come with torchmetrics.

    Raises:
        FileNotFoundError: weights or heads that are not there.
        ValueError: a file that holds something else, or heads that do not fit the weights.

    Source: Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric,
        CVPR 2018, equation 1; taps, shift and scale are those of its version 0.1.
        Deviation: the small constant is added under the root, as torchmetrics does, so that the
        gradient is finite where all features are 0.
    """

    def __init__(self, weights: str | Path | None = None, heads: str | Path | None = None) -> None:
        super().__init__()
        path = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS) if weights is None else weights
        self.stages = _stages(Path(path))
        self.heads = nn.ParameterList(_heads(heads))
        for stage, head in zip(self.stages, self.heads, strict=True):
            if stage[-2].out_channels != head.shape[1]:
                raise ValueError(
                    f"heads have {head.shape[1]} channels where the weights of VGG16 in {path} "
                    f"have {stage[-2].out_channels}; expected heads learned for these weights."
                )
        self.requires_grad_(False)

    def forward(self, candidate: Tensor, reference: Tensor) -> Tensor:
        """Perceptual distance of each slice from its reference; differentiable in both.

        Args:
            candidate: (N, H, W), gray, in [0, 1] or a little outside; H and W at least 16.
            reference: (N, H, W).

        Returns:
            (N,), 0 for equal slices.

        Raises:
            ValueError: shapes that differ, are not (N, H, W), or are too small.
        """
        unlike = candidate.shape != reference.shape or candidate.dim() != 3
        if unlike or min(candidate.shape[1:]) < SMALLEST:
            raise ValueError(
                f"Lpips got candidate {tuple(candidate.shape)} and reference "
                f"{tuple(reference.shape)}; two alike (N, H, W) with H and W of at least "
                f"{SMALLEST} are expected."
            )
        first, second = _pixels(candidate), _pixels(reference)
        distance = candidate.new_zeros(len(candidate))
        for stage, head in zip(self.stages, self.heads, strict=True):
            first, second = stage(first), stage(second)
            difference = (_directions(first) - _directions(second)).square()
            distance = distance + (head * difference).sum(dim=1).mean(dim=(1, 2))
        return distance


def _pixels(slices: Tensor) -> Tensor:
    """Gray in [0, 1] to what VGG16 takes under LPIPS, (N, 3, H, W)."""
    signed = 2 * slices - 1
    return torch.stack(
        [(signed - shift) / scale for shift, scale in zip(SHIFT, SCALE, strict=True)], dim=1
    )


def _directions(features: Tensor) -> Tensor:
    """Scale to unit length along the channels, in float32 at least."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features * (features.square().sum(dim=1, keepdim=True) + EPSILON).rsqrt()


def _stages(path: Path) -> nn.ModuleList:
    """VGG16's convolutions from one tap to the next, with the pooling between them."""
    tensors = _read(
        path,
        f"the VGG16 weights of Lpips; download {ADDRESS} to that place, or name the file "
        "with the argument weights",
    )
    stages, channels = nn.ModuleList(), 3
    for places in CONVOLUTIONS:
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if places[0] else []
        for place in places:
            weight, bias = (
                _tensor(tensors, path, f"features.{place}.{name}") for name in ("weight", "bias")
            )
            if weight.shape[1:] != (channels, 3, 3) or bias.shape != weight.shape[:1]:
                raise ValueError(
                    f"{path} has features.{place} of shape {tuple(weight.shape)}; "
                    f"(C, {channels}, 3, 3) and a bias (C,) are expected of VGG16."
                )
            convolution = nn.Conv2d(channels, len(weight), 3, padding=1)
            convolution.load_state_dict({"weight": weight, "bias": bias})
            layers += [convolution, nn.ReLU()]
            channels = len(weight)
        stages.append(nn.Sequential(*layers))
    return stages


def _heads(path: str | Path | None) -> list[Tensor]:
    if path is None:
        shipped = files("torchmetrics") / "functional" / "image" / "lpips_models" / "vgg.pth"
        with as_file(shipped) as found:
            return _heads(found)
    path = Path(path)
    tensors = _read(path, "the heads of Lpips; name another with the argument heads")
    heads = [_tensor(tensors, path, f"lin{tap}.model.1.weight") for tap in range(len(CONVOLUTIONS))]
    for tap, head in enumerate(heads):
        if head.dim() != 4 or head.shape != (1, head.shape[1], 1, 1):
            raise ValueError(
                f"{path} has lin{tap}.model.1.weight of shape {tuple(head.shape)}; (1, C, 1, 1) is "
                "expected of a head of Lpips."
            )
    return heads


def _read(path: Path, purpose: str) -> dict[str, Tensor]:
    """Tensors of a file that cannot run code."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {purpose}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}); expected a .pth or "
            f".safetensors file with tensors alone: {purpose}."
        ) from error


def _tensor(tensors: dict[str, Tensor], path: Path, name: str) -> Tensor:
    tensor = tensors.get(name) if isinstance(tensors, dict) else None
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise ValueError(
            f"{path} holds no tensor {name}; expected VGG16 under torchvision's names "
            "(features.0.weight, ...) as weights and those of LPIPS (lin0.model.1.weight, ...) as "
            "heads."
        )
    return tensor.float()
