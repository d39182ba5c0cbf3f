"""Volumes, simulated and measured scans, and how they are fed to training."""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "case_files": ["load_case"],
        "case_folder.writing": ["write_case"],
        "cases": ["Case", "read_case"],
        "clean_slices": ["CleanPatchData", "CleanSliceData"],
        "datamodules": ["IterationSampler", "RaySampling", "ScanData"],
        "datasets.datamodules": ["LUNA16", "ToothFairy", "VolumeFolder"],
        "field_of_view": ["NothingToScanError"],
        "generated": ["generate", "generated_seeds", "is_generated"],
        "measured": ["measured_case"],
        "measured_scanner": ["MeasuredScanner"],
        "naf_pickles": ["read_naf_pickle"],
        "noise": ["Noise"],
        "readers.readout": ["Readout"],
        "scan_recipe": ["ScanRecipe"],
        "scanner": ["Scanner"],
        "simulated_object": ["NoClearanceError"],
        "simulation": ["planned_geometry", "simulate_case"],
        "volumes": ["LoadedVolume", "load_volume", "save_volume"],
    },
)
