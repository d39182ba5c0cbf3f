"""LightningModules: the optimisation of a scene and the finetuning of a prior."""

from diffnr_lightning.modules.scene_optimization import SceneOptimization
from diffnr_lightning.modules.slicefixer_finetuning import SliceFixerFinetuning

__all__ = ["SceneOptimization", "SliceFixerFinetuning"]
