"""The folder of a run: what made it, where it was made, and how far it is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numba
import torch
import yaml

import diffnr_lightning
from diffnr_lightning.callbacks.run_record import ResourceUse
from diffnr_lightning.files import remove_leftovers, write_json, write_text

PACKAGES = (
    "torch lightning numba numpy scipy diffusers safetensors jsonargparse omegaconf SimpleITK"
).split()
# Where the folder lies says nothing about what is in it.
FREE_KEYS = ("out",)


class RunFolder:
    """Hold config, environment, checkpoint and metrics of one run.

    Args:
        path: the folder.
        settings: plain dict of everything that decides the outcome, defaults filled in.

    Attributes:
        path: the folder.
        use: what the run has cost, counted from here.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.use = ResourceUse()
        # As YAML holds them: a tuple given and a list read back are the same.
        self.settings = yaml.safe_load(yaml.safe_dump(settings))

    @property
    def checkpoint(self) -> Path:
        """File of the checkpoint."""
        return self.path / "checkpoint.ckpt"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end; its metrics are written last."""
        return (self.path / "metrics.json").is_file()

    def open(self) -> None:
        """Create the folder or take up the run that it holds.

        Raises:
            ValueError: the folder holds a run of other settings, or something that is no run.
            OSError: the folder cannot be written.
        """
        config = self.path / "config.yaml"
        if config.is_file():
            # A run that has made nothing yet, such as one whose data were refused, binds nobody.
            if any(not self._describes(entry) for entry in self.path.iterdir()):
                self._compare(config)
        elif self.path.exists():
            if not self.path.is_dir():
                raise ValueError(f"{self.path} is a file; a folder for the run is expected.")
            if any(not entry.name.startswith(".") for entry in self.path.iterdir()):
                raise ValueError(
                    f"{self.path} holds files but no config.yaml; give the run a folder of its own."
                )
        if self.finished:
            return
        remove_leftovers(self.path)
        write_text(config, yaml.safe_dump(self.settings, sort_keys=False))
        self.write_json("environment.json", environment())

    def resume_from(self) -> Path | None:
        """Return the checkpoint to go on from, None where there is none.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        if not self.checkpoint.is_file():
            return None
        try:
            kept = torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=True)
            lacking = {"pytorch-lightning_version", "state_dict", "loops"} - set(kept)
            if lacking:
                raise KeyError(sorted(lacking)[0])
        except Exception as error:  # zip, pickle and torch each have their own
            raise ValueError(
                f"checkpoint {self.checkpoint} cannot be read ({type(error).__name__}); remove it "
                "to start the run again."
            ) from error
        return self.checkpoint

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, complete or not at all.

        Args:
            name: of the file in the folder.
            content: JSON-able.
        """
        write_json(self.path / name, content)

    def finish(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Write ``metrics.json``, which marks the run as finished, and return what it holds.

        Args:
            metrics: JSON-able; seconds and peak memory are added.
        """
        metrics = {**metrics, **self.use.as_metrics()}
        self.write_json("metrics.json", metrics)
        return metrics

    @staticmethod
    def _describes(entry: Path) -> bool:
        if entry.is_dir():
            return not any(entry.iterdir())
        return entry.name in ("config.yaml", "environment.json") or entry.name.startswith(".")

    def _compare(self, config: Path) -> None:
        try:
            before = yaml.safe_load(config.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{config} is damaged; remove the run to start it again.") from error
        changed = difference(before, self.settings, FREE_KEYS)
        if changed:
            raise ValueError(
                f"{self.path} holds a run with {changed}; give another --out, or remove that run "
                "to start it again."
            )


def environment() -> dict[str, Any]:
    """Describe what a result was computed with.

    Returns:
        JSON-able: versions, machine, threads, and the commit where the package is a checkout.
    """
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


def difference(before: Any, now: Any, free: tuple[str, ...] = ()) -> str | None:
    """Say in words where settings first differ: ``a.b = 1, not 2``; None where they agree.

    Args:
        before: nested mappings and lists, as YAML holds them.
        now: the same.
        free: names at the top that may differ.
    """
    old, new = _flat(before), _flat(now)
    for key in dict.fromkeys([*old, *new]):
        if key.split(".")[0] not in free and old.get(key) != new.get(key):
            return f"{key} = {_shown(old, key)}, not {_shown(new, key)}"
    return None


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return ``{"a.b": value}`` of nested mappings and lists of mappings; the rest are values."""
    if isinstance(node, list) and any(isinstance(value, dict) for value in node):
        node = {str(index): value for index, value in enumerate(node)}
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _shown(flat: dict[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "nothing"
