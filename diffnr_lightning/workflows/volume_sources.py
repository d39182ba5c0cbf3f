"""Where volumes come from: files, patterns and generated objects, and what each is called."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffnr_lightning.data.generated import generate, generated_seeds, is_generated

if TYPE_CHECKING:
    from diffnr_lightning.data import LoadedVolume, ScanRecipe


def volume_sources(volumes: Sequence[str]) -> dict[str, str]:
    """Expand patterns and ranges.

    Args:
        volumes: files, glob patterns, and `phantom:` (chests) or `specimen:` with SEED or FIRST-LAST.

    Returns:
        Name -> file, `phantom:SEED` or `specimen:SEED`. A file is called as it is without its ending, and after its
        folder as well where several are called the same (`P12/data.npy` is `P12_data`).

    Raises:
        FileNotFoundError: a file that does not exist, or a pattern that matches none.
        ValueError: nothing at all, or two files of one name.
    """
    sources = [source for entry in volumes for source in _expanded(entry)]
    if not sources:
        raise ValueError("volumes is empty; at least one file or phantom:SEED is expected.")
    counts = Counter(_stem(source) for source in dict.fromkeys(sources))
    named: dict[str, str] = {}
    for source in dict.fromkeys(sources):
        name = _stem(source)
        if counts[name] > 1:
            name = f"{Path(source).resolve().parent.name}_{name}"
        if name in named:
            raise ValueError(
                f"volumes has {named[name]} and {source}, which both would be called {name}; "
                "rename one, or give them folders of different names."
            )
        named[name] = source
    return named


def load_source(source: str, recipe: ScanRecipe) -> LoadedVolume:
    """Read a file, or generate an object as fine as it will be reconstructed.

    Args:
        source: a file, `phantom:SEED` or `specimen:SEED`.
        recipe: says `size` of a generated object, `unit` and `spacing_mm` of a file.

    Raises:
        ValueError: a seed that is no number, or a file that is no volume.
        FileNotFoundError: no such file.
    """
    if is_generated(source):
        return generate(source, recipe.size)
    if not Path(source).exists():
        raise FileNotFoundError(f"volume {source} does not exist; check the path.")
    from diffnr_lightning.data import load_volume

    return load_volume(source, recipe.unit, recipe.spacing_mm)


def _expanded(entry: str) -> list[str]:
    if is_generated(entry):
        kind, seeds = generated_seeds(entry)
        return [f"{kind}:{seed}" for seed in seeds]
    found = [entry] if Path(entry).exists() else sorted(glob.glob(entry))
    if not found:
        raise FileNotFoundError(f"volumes has {entry!r}, which matches no file; check the path.")
    return found


def _stem(source: str) -> str:
    if is_generated(source):
        return source.replace(":", "_")
    path = Path(source)
    if path.is_dir():
        return path.name
    # Dots are part of a name: a series of LUNA16 is called 1.3.6.1.4.1....mhd.
    return path.name[:-7] if path.name.endswith(".nii.gz") else path.stem
