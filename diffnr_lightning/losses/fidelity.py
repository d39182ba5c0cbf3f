"""Distance of an image or volume from what was measured."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from diffnr_lightning.losses.ssim import ssim_2d


def _check_shapes(name: str, prediction: Tensor, target: Tensor) -> None:
    # torch broadcasts with a warning at most; a silently repeated target is never meant.
    if prediction.shape != target.shape:
        raise ValueError(
            f"{name} got prediction {tuple(prediction.shape)} and target {tuple(target.shape)}; "
            "two tensors of one shape are expected."
        )


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape; ValueError where the shapes differ."""
    _check_shapes("l1", prediction, target)
    return F.l1_loss(prediction, target)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two tensors of one shape; ValueError where the shapes differ."""
    _check_shapes("mse", prediction, target)
    return F.mse_loss(prediction, target)


def structural_l1(
    prediction: Tensor, target: Tensor, lambda_ssim: float = 0.25, data_range: float = 1.0
) -> Tensor:
    """Image loss of R2-Gaussian: L1 + lambda_ssim (1 - SSIM), averaged over the images.

    Args:
        prediction: (..., H, W), differentiable.
        target: (..., H, W).
        lambda_ssim: weight of the structural term.
        data_range: what the full range of intensities is, for the structural term only.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that differ or have fewer than two axes.

    Source:
        Zha et al., "R2-Gaussian", NeurIPS 2024, section 4.3.
    """
    _check_shapes("structural_l1", prediction, target)
    if prediction.dim() < 2:
        raise ValueError(
            f"structural_l1 got shape {tuple(prediction.shape)}; images (..., H, W) are expected."
        )
    loss = F.l1_loss(prediction, target)
    if lambda_ssim == 0:
        return loss
    images = (t.reshape(-1, *t.shape[-2:]) for t in (prediction, target))
    return loss + lambda_ssim * (1 - ssim_2d(*images, data_range).mean())
