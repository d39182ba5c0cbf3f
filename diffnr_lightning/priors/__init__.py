"""Priors: what repairs the slices of a degraded volume, and how a volume is repaired with them."""

from diffnr_lightning.priors.biplanar_features import BiplanarFeatures, read_biplanar_features
from diffnr_lightning.priors.checkpoints import (
    export_turbo_checkpoint,
    load_default,
    load_prior,
    read_header,
    save_prior,
)
from diffnr_lightning.priors.clip_discriminator import ClipDiscriminator
from diffnr_lightning.priors.compact import CompactSliceFixer
from diffnr_lightning.priors.conditioning import (
    PROMPTS,
    Conditioning,
    biplanar_conditioning,
    biplanar_pair,
)
from diffnr_lightning.priors.discriminator import PatchDiscriminator
from diffnr_lightning.priors.frozen_shards import (
    average_gradients,
    frozen_backbone,
    gather_frozen,
    is_split,
    release_frozen,
    split_frozen,
)
from diffnr_lightning.priors.fusion_adapter import CrossAttnFusionAdapter
from diffnr_lightning.priors.prior import Prior
from diffnr_lightning.priors.slicefixer import SliceFixer
from diffnr_lightning.priors.turbo_backbone import TurboBackbone
from diffnr_lightning.priors.volume_repair import repair_volume
from diffnr_lightning.priors.weight_average import WeightAverage

__all__ = [
    "PROMPTS",
    "BiplanarFeatures",
    "ClipDiscriminator",
    "CompactSliceFixer",
    "Conditioning",
    "CrossAttnFusionAdapter",
    "PatchDiscriminator",
    "Prior",
    "SliceFixer",
    "TurboBackbone",
    "WeightAverage",
    "average_gradients",
    "biplanar_conditioning",
    "biplanar_pair",
    "export_turbo_checkpoint",
    "frozen_backbone",
    "gather_frozen",
    "is_split",
    "load_default",
    "load_prior",
    "read_biplanar_features",
    "read_header",
    "release_frozen",
    "repair_volume",
    "save_prior",
    "split_frozen",
]
