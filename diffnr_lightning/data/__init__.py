"""Volumes, simulated and measured scans, and how they are fed to training."""

from diffnr_lightning.data.case_files import load_case
from diffnr_lightning.data.cases import Case, read_case, write_case
from diffnr_lightning.data.datamodules import IterationSampler, RaySampling, ScanData
from diffnr_lightning.data.generated import generate, generated_seeds, is_generated
from diffnr_lightning.data.measured import measured_case
from diffnr_lightning.data.naf_pickles import read_naf_pickle
from diffnr_lightning.data.noise import Noise
from diffnr_lightning.data.scanner import Scanner
from diffnr_lightning.data.simulation import simulate_case
from diffnr_lightning.data.volumes import LoadedVolume, load_volume, save_volume

__all__ = [
    "Case",
    "IterationSampler",
    "LoadedVolume",
    "Noise",
    "RaySampling",
    "ScanData",
    "Scanner",
    "generate",
    "generated_seeds",
    "is_generated",
    "load_case",
    "load_volume",
    "measured_case",
    "read_case",
    "read_naf_pickle",
    "save_volume",
    "simulate_case",
    "write_case",
]
