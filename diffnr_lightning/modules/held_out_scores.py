"""How well a prior repairs held-out slices and whole volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffnr_lightning.batches import SlicePair, VolumePair
from diffnr_lightning.losses import ssim_2d
from diffnr_lightning.metrics import psnr, r2_protocol
from diffnr_lightning.priors import Conditioning, repair_resized, repair_volume

Shown = dict[str, Tensor]
Scores = dict[str, Tensor]

HELD_OUT_SCORES = (
    "val_psnr_before",
    "val_psnr",
    "val_psnr_gain",
    "val_ssim_before",
    "val_ssim",
)
# Of two equal batches, such as empty slices.
MOST_DB = 100.0
MOST_SLICES = 8
"""Of a volume, repaired at once in validation."""


def score_held_out(
    prior: nn.Module, batch: SlicePair | VolumePair, batch_size: int = MOST_SLICES
) -> tuple[Shown, Scores]:
    """Repair held-out slices or a volume and score them before and after.

    Args:
        prior: repairs them.
        batch: the slices, or the volume.
        batch_size: slices of a volume that are repaired at once.

    Returns:
        degraded, repaired and clean, see `score_slices` and `score_volume`; and `HELD_OUT_SCORES`: PSNR and SSIM
        of the repaired ones (`val_psnr`, `val_ssim`), of the degraded ones (`..._before`), and the gain in PSNR.
    """
    if isinstance(batch, VolumePair):
        images, before, after = score_volume(prior, batch, batch_size)
    else:
        images, before, after = score_slices(prior, batch)
    return images, {
        "val_psnr_before": before["psnr"],
        "val_psnr": after["psnr"],
        "val_psnr_gain": after["psnr"] - before["psnr"],
        "val_ssim_before": before["ssim"],
        "val_ssim": after["ssim"],
    }


def score_slices(prior: nn.Module, batch: SlicePair) -> tuple[Shown, Scores, Scores]:
    """Repair a batch of slices, at the size that the prior wants, and score it before and after.

    Returns:
        degraded, repaired and clean slices, (N, H, W) in [0, 1]; PSNR (peak 1) of the pooled error
        and mean SSIM of the degraded ones, and of the repaired ones.

    Raises:
        ValueError: a repair with NaN or infinite values.
    """
    degraded, clean = centre_of(batch), batch.clean[:, 0]
    repaired = repair_resized(prior, batch.degraded, conditioning_of(batch), prior.size)
    _refuse_diverged(repaired, "held-out slices")
    before, after = (
        {"psnr": torch.tensor(value, device=clean.device), "ssim": ssim_2d(candidate, clean).mean()}
        for candidate in (degraded, repaired)
        for value in [psnr(float((candidate - clean).square().mean()), most=MOST_DB)]
    )
    return {"degraded": degraded, "repaired": repaired, "clean": clean}, before, after


def score_volume(
    prior: nn.Module, batch: VolumePair, batch_size: int
) -> tuple[Shown, Scores, Scores]:
    """Repair the axial slices of a volume and score it before and after, under protocol `r2`.

    Args:
        prior: repairs them.
        batch: the volume.
        batch_size: slices that are repaired at once.

    Returns:
        degraded, repaired and clean volume, (Z, Y, X) in [0, 1]; scores of the degraded one, and of
        the repaired one.

    Raises:
        ValueError: a repair with NaN or infinite values.
    """
    first = torch.zeros(1, device=batch.degraded.device)
    conditioning = Conditioning(batch.biplanar[None], first.long(), first, batch.views[None])
    repaired = repair_volume(
        prior,
        batch.degraded,
        conditioning,
        batch_size=batch_size,
        residual=batch.residual,
        noise=batch.noise,
    )
    _refuse_diverged(repaired, "a held-out volume")
    before, after = (
        {
            name: torch.tensor(value, device=first.device)
            for name, value in r2_protocol(candidate.cpu(), batch.clean.cpu()).items()
        }
        for candidate in (batch.degraded, repaired)
    )
    return {"degraded": batch.degraded, "repaired": repaired, "clean": batch.clean}, before, after


def _refuse_diverged(repaired: Tensor, what: str) -> None:
    if not bool(repaired.isfinite().all()):
        raise ValueError(
            f"the repair of {what} holds NaN or infinite values where finite ones are expected, so the training has "
            "diverged; lower its rates."
        )


def centre_of(batch: SlicePair) -> Tensor:
    """Degraded slices without their neighbours, (N, H, W)."""
    return batch.degraded[:, batch.degraded.shape[1] // 2]


def conditioning_of(batch: SlicePair) -> Conditioning:
    """The conditioning of the slices of a batch."""
    return Conditioning(
        biplanar=batch.biplanar,
        plane=batch.plane,
        position=batch.position,
        views=batch.views,
        residual=batch.residual,
        noise=batch.noise,
    )
