"""Where the packages that the framework is made of are used: read from its own imports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import diffnr_lightning

# Module -> (package whose version is shown, what is said where no import of ours shows a use).
PACKAGES: Mapping[str, tuple[str, str]] = {
    "torch": ("torch", ""),
    "lightning": ("lightning", ""),
    "diffusers": ("diffusers", ""),
    "peft": ("peft", ""),
    "torchmetrics": ("torchmetrics", ""),
    "wandb": ("wandb", ""),
    "tinycudann": ("tinycudann", ""),
    "tigre": ("pytigre", ""),
    "omegaconf": ("omegaconf", ""),
    "monai": ("monai", "not used: volumes are resampled, cached and compared without it"),
}
NAMED = {
    "omegaconf": r"parser_mode=\"omegaconf",
    "wandb": "WandbLogger",
    "tensorboard": "TensorBoardLogger",
}
"""Marks of packages that are used through others."""


def uses(module: str) -> list[str]:
    """Return the files of ours, and configs, that import a package or name what another one takes from it.

    Args:
        module: as it is imported.

    Returns:
        Paths below the package or `configs/`, sorted.
    """
    marks = [rf"^\s*(?:import|from) {module}\b", rf"optional_package\(\"{module}\"\)"]
    pattern = re.compile("|".join([*marks, NAMED.get(module, marks[0])]), re.MULTILINE)
    root = Path(diffnr_lightning.__file__).parent
    configs = next((p for p in (root / "configs", root.parent / "configs") if p.is_dir()), None)
    files = {path: path.relative_to(root).as_posix() for path in root.rglob("*.py")}
    if configs is not None:
        files |= {
            p: f"configs/{p.relative_to(configs).as_posix()}" for p in configs.rglob("*.yaml")
        }
    this = Path(__file__)
    return sorted(
        name
        for path, name in files.items()
        if path != this and pattern.search(path.read_text(encoding="utf-8"))
    )


def uses_in_words(module: str, most: int = 3) -> str:
    """Return where a package is used: some files, or parts where there are many."""
    found = uses(module)
    if not found:
        return PACKAGES[module][1]
    if len(found) <= most:
        return ", ".join(found)
    parts = sorted({name.split("/")[0].removesuffix(".py") for name in found})
    return f"{len(found)} files of {', '.join(parts)}"
