"""The commands as Python functions: what `diffnr COMMAND` does is the function of that name."""

from diffnr_lightning.workflows.curation import curate
from diffnr_lightning.workflows.demo import demo
from diffnr_lightning.workflows.doctor import doctor
from diffnr_lightning.workflows.problem import Method, Problem
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.reporting import evaluate, report
from diffnr_lightning.workflows.scanning import ingest, simulate
from diffnr_lightning.workflows.scene import Scene
from diffnr_lightning.workflows.solver import Solver
from diffnr_lightning.workflows.submission import submit
from diffnr_lightning.workflows.sweep import sweep
from diffnr_lightning.workflows.training import finetune
from diffnr_lightning.workflows.trial import Trial

__all__ = [
    "Method",
    "Problem",
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
]
