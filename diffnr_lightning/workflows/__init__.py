"""The commands as Python functions: what `diffnr COMMAND` does is the function of that name.

These files are imported for every help and every refusal. Nothing heavy is imported at their top: work is imported in
the functions that do it, and the classes of a signature are `lazy.deferred`.

Each command has a file here; `doctor` says what runs where. What commands are made of lies in folders:

- `methods`: what a method is given and is (solvers, samplers, the scene that DiffNR optimises, settling, trial).
- `cases`: where volumes come from, and cases that are scanned of them once.
- `pairs`: how the scans of a curation differ, and the folder that it fills.
- `training`: what trainings share.
- `runs`: the folder of a run, what is kept of it while it goes on, and what it found.
- `tables`: tables of papers as folders.
- `command_line`: from config files and options to arguments, and what is refused on the way.
- `machine`: devices, memory, processes side by side.
"""

from diffnr_lightning import lazy
from diffnr_lightning.workflows.curation import curate
from diffnr_lightning.workflows.demo import demo
from diffnr_lightning.workflows.denoiser_training import train_denoiser
from diffnr_lightning.workflows.doctor import doctor
from diffnr_lightning.workflows.finetuning import finetune
from diffnr_lightning.workflows.methods.problem import Method, Problem
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.reporting import evaluate, report
from diffnr_lightning.workflows.scanning import ingest, simulate
from diffnr_lightning.workflows.submission import submit
from diffnr_lightning.workflows.sweep import sweep
from diffnr_lightning.workflows.table import table

__getattr__, __dir__, _ = lazy.attributes(
    __name__,
    {
        "methods.postprocessing": ["Postprocessing"],
        "methods.sampler": ["Sampler"],
        "methods.scene": ["Scene"],
        "methods.solver": ["Solver"],
        "methods.trial": ["Trial"],
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
