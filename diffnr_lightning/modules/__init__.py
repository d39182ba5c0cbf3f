"""LightningModules: the optimisation of a scene, the finetuning of a prior and the training of a denoiser."""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "denoiser_training": ["DenoiserTraining"],
        "novel_views": ["NovelViews"],
        "scene_optimization": ["SceneOptimization"],
        "slicefixer_finetuning": ["SliceFixerFinetuning"],
    },
)
