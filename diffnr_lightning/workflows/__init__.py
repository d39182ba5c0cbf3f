"""The commands as Python functions: what `diffnr COMMAND` does is the function of that name.

These files are imported for every help and every refusal. Nothing heavy is imported at their top: work is imported in
the functions that do it, and the classes of a signature are `lazy.deferred`.

The files by what they are about:

- Commands: scanning (simulate, ingest), reconstruction, sweep, table, curation, finetuning, denoiser_training,
  reporting (evaluate, report), submission, demo, doctor (with package_uses).
- Methods: problem (what a method is and is given), posed_problem and assumed_photons (a case as such a problem),
  solver, postprocessing, sampler, scene (with settling and trial).
- Where volumes and cases come from: volume_sources, scanned_case.
- Curation and training: variation, early_stops, projection_pairs, pairs_folder; started_prior, trainer,
  trainer_options, training_run, model_card.
- The run folder: run_folder, folder_lock, built, environment, weights_record, evidence, downstream; while a run goes on
  ongoing_run, run_logger, sampler_record, scene_record, trial_record.
- The command line: settings, option_lists, signature, class_options, config_files, null_values, refusals, device,
  progress, repeated_warnings.
- Memory: memory, estimate (the numbers of solvers), sampler_memory, memory_refusal.
- Tables: experiment (the folder of a table), table_checks, table_logging, workers, failures.
"""

from diffnr_lightning import lazy
from diffnr_lightning.workflows.curation import curate
from diffnr_lightning.workflows.demo import demo
from diffnr_lightning.workflows.denoiser_training import train_denoiser
from diffnr_lightning.workflows.doctor import doctor
from diffnr_lightning.workflows.finetuning import finetune
from diffnr_lightning.workflows.problem import Method, Problem
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.reporting import evaluate, report
from diffnr_lightning.workflows.scanning import ingest, simulate
from diffnr_lightning.workflows.submission import submit
from diffnr_lightning.workflows.sweep import sweep
from diffnr_lightning.workflows.table import table

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
