"""LightningModules: the optimisation of a scene and the finetuning of a prior."""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "scene_optimization": ["SceneOptimization"],
        "slicefixer_finetuning": ["SliceFixerFinetuning"],
    },
)
