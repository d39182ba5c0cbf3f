"""Priors: what repairs the slices of a degraded volume, and how a volume is repaired with them."""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "adm_checkpoints": ["read_adm_checkpoint"],
        "biplanar_features": ["BiplanarFeatures", "read_biplanar_features", "stored_features"],
        "checkpoints": [
            "bundled_priors",
            "bundled_weights",
            "export_turbo_checkpoint",
            "load_default",
            "load_prior",
            "read_header",
            "save_prior",
        ],
        "clip_discriminator": ["ClipDiscriminator"],
        "compact": ["CompactSliceFixer"],
        "conditioning": [
            "PROMPTS",
            "Conditioning",
            "biplanar_conditioning",
            "biplanar_pair",
        ],
        "dds_repairer": ["DdsRepairer"],
        "denoiser": ["Denoiser", "watch"],
        "denoiser_folders": [
            "bundled_denoisers",
            "denoiser_folder",
            "load_denoiser",
            "save_denoiser",
        ],
        "discriminator": ["PatchDiscriminator"],
        "frozen_shards": [
            "average_gradients",
            "frozen_backbone",
            "gather_frozen",
            "is_split",
            "release_frozen",
            "split_frozen",
        ],
        "fusion_adapter": ["CrossAttnFusionAdapter"],
        "learned_methods": [
            "LEARNED_FROM",
            "LEARNED_KINDS",
            "refuse_fbp_unet",
            "refuse_slicefixer",
        ],
        "network_classes": ["network_name"],
        "noise_schedule": ["NoiseSchedule"],
        "patch_denoiser": ["PatchDenoiser"],
        "prior": ["Prior"],
        "projection_repair": ["ProjectionRepairer"],
        "repairer": ["RepairedVolume", "Repairer"],
        "slicefixer": ["SliceFixer"],
        "turbo_backbone": ["TurboBackbone"],
        "unet_denoiser": ["CompactDenoiser", "UNetDenoiser"],
        "volume_repair": ["repair_volume"],
        "weight_average": ["WeightAverage"],
    },
)
