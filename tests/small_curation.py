"""A curation of seconds: four scans of two phantoms by two representations in turn."""

from pathlib import Path
from typing import Any

import yaml

from diffnr_lightning import cli


def scene(representation: str, iterations: int = 6, **options: Any) -> dict[str, Any]:
    """The node of a config that names a scene of a few iterations."""
    path = f"diffnr_lightning.representations.{representation}"
    representation = {"class_path": path, "init_args": options}
    init_args = {"iterations": iterations, "representation": representation}
    return {"class_path": "diffnr_lightning.workflows.Scene", "init_args": init_args}


def write_config(folder: Path) -> Path:
    """Write the settings into a folder."""
    path = folder / "curate.yaml"
    settings = {
        "volumes": ["phantom:1-2"],
        "runs": 2,
        "size": 16,
        "views": [8, 12],
        "fractions": [0.5, 1.0],
        "biplanar_size": 20,
        "residual": True,
        "methods": [scene("GaussianCloud", num_gaussians=100), scene("VoxelGrid")],
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def curate(config: Path, out: Path, *options: Any) -> int:
    """Run the command in this process; return its exit code."""
    arguments = ["curate", "--config", config, "--out", out, *options]
    return cli.main([str(argument) for argument in arguments])
