"""Priors: what repairs the slices of a degraded volume, and how a volume is repaired with them."""

from diffnr_lightning.priors.checkpoints import load_default, load_prior, read_header, save_prior
from diffnr_lightning.priors.clip_discriminator import ClipDiscriminator
from diffnr_lightning.priors.compact import CompactSliceFixer
from diffnr_lightning.priors.conditioning import (
    PLANES,
    Conditioning,
    biplanar_conditioning,
    biplanar_pair,
)
from diffnr_lightning.priors.discriminator import PatchDiscriminator
from diffnr_lightning.priors.prior import Prior
from diffnr_lightning.priors.volume_repair import repair_volume
from diffnr_lightning.priors.weight_average import WeightAverage

__all__ = [
    "PLANES",
    "ClipDiscriminator",
    "CompactSliceFixer",
    "Conditioning",
    "PatchDiscriminator",
    "Prior",
    "WeightAverage",
    "biplanar_conditioning",
    "biplanar_pair",
    "load_default",
    "load_prior",
    "read_header",
    "repair_volume",
    "save_prior",
]
