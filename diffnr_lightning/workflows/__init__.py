"""The commands as Python functions: what `diffnr COMMAND` does is the function of that name.

These files are imported for every help and every refusal. Nothing heavy is imported at their top: work is imported in
the functions that do it, and the classes of a signature are `lazy.deferred`.
"""

from diffnr_lightning import lazy
from diffnr_lightning.workflows.curation import curate
from diffnr_lightning.workflows.demo import demo
from diffnr_lightning.workflows.denoiser_training import train_denoiser
from diffnr_lightning.workflows.doctor import doctor
from diffnr_lightning.workflows.problem import Method, Problem
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.reporting import evaluate, report
from diffnr_lightning.workflows.scanning import ingest, simulate
from diffnr_lightning.workflows.submission import submit
from diffnr_lightning.workflows.sweep import sweep
from diffnr_lightning.workflows.table import table
from diffnr_lightning.workflows.training import finetune

__getattr__, __dir__, _ = lazy.attributes(
    __name__,
    {
        "postprocessing": ["Postprocessing"],
        "sampler": ["Sampler"],
        "scene": ["Scene"],
        "solver": ["Solver"],
        "trial": ["Trial"],
    },
)
__all__ = [
    "Method",
    "Postprocessing",
    "Problem",
    "Sampler",
    "Scene",
    "Solver",
    "Trial",
    "curate",
    "demo",
    "doctor",
    "evaluate",
    "finetune",
    "ingest",
    "reconstruct",
    "report",
    "simulate",
    "submit",
    "sweep",
    "table",
    "train_denoiser",
]
