"""Losses: similarity (structural, perceptual, in CLIP), variation, fidelity, adversarial pairs."""

from diffnr_lightning.losses.adversarial import (
    AdversarialKind,
    discriminator_adversarial,
    discriminator_half,
    generator_adversarial,
)
from diffnr_lightning.losses.augmentation import DiffAugment
from diffnr_lightning.losses.clip_similarity import ClipSimilarity
from diffnr_lightning.losses.fidelity import l1
from diffnr_lightning.losses.perceptual import Lpips
from diffnr_lightning.losses.ssim import SsimReference, ssim_2d, ssim_2d_reference, ssim_3d
from diffnr_lightning.losses.variation import tv_3d, tv_3d_reference

__all__ = [
    "AdversarialKind",
    "ClipSimilarity",
    "DiffAugment",
    "Lpips",
    "SsimReference",
    "discriminator_adversarial",
    "discriminator_half",
    "generator_adversarial",
    "l1",
    "ssim_2d",
    "ssim_2d_reference",
    "ssim_3d",
    "tv_3d",
    "tv_3d_reference",
]
