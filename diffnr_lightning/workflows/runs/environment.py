"""What a result was computed with: versions, machine and threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import diffnr_lightning

PACKAGES = (
    "torch lightning numba numpy scipy diffusers safetensors jsonargparse omegaconf SimpleITK"
).split()


def environment() -> dict[str, Any]:
    """Describe what a result was computed with.

    Returns:
        JSON-able: versions, machine, threads, and the commit where the package is a checkout.
    """
    import numba
    import torch

    from diffnr_lightning.priors import multiplies_bfloat16

    return {
        "diffnr_lightning": diffnr_lightning.__version__,
        "git": _git_state(Path(diffnr_lightning.__file__).parents[1]),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "multiplies_bfloat16": multiplies_bfloat16(),
        "threads": {"torch": torch.get_num_threads(), "numba": numba.get_num_threads()},
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def version(package: str) -> str | None:
    """Return the installed version of a package, None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's name as its maker writes it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether files differ from it; None outside a checkout of this project."""
    if not (folder / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}
