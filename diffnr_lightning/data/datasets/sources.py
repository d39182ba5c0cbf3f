"""Volumes by their sources: files, generated objects, and volumes of data sets."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from diffnr_lightning.data.datasets.registry import located
from diffnr_lightning.data.datasets.words import names_data_set
from diffnr_lightning.data.generated import generate, is_generated
from diffnr_lightning.data.readers.volume_files import (
    file_state,
    files_of_before,
    volume_content,
    volume_files,
)
from diffnr_lightning.data.scan_recipe import ScanRecipe
from diffnr_lightning.data.splits import is_selection
from diffnr_lightning.files import json_sha256, sha256

if TYPE_CHECKING:
    from diffnr_lightning.data.volumes import LoadedVolume


def load_source(source: str, recipe: ScanRecipe) -> LoadedVolume:
    """Read a volume, or generate an object as fine as it will be reconstructed.

    Args:
        source: a file, `phantom:SEED`, `specimen:SEED`, or one volume of a data set.
        recipe: says `size` of a generated object, `unit` and `spacing_mm` of a file. Where it leaves these open a data
            set knows them.

    Raises:
        ValueError: a seed that is no number, a file that is no volume, or words that name not one volume.
        FileNotFoundError: no such file.
    """
    if is_generated(source):
        return generate(source, recipe.size)
    file_only = not names_data_set(source)
    if file_only and is_selection(source):
        raise ValueError(
            f"volume is {source}, a set of volumes; one file of it is expected here, and `sweep` takes sets."
        )
    if file_only and not Path(source).exists():
        raise FileNotFoundError(f"volume {source} does not exist; check the path.")
    from diffnr_lightning.data.volumes import load_volume

    if file_only:
        return load_volume(source, recipe.unit, recipe.spacing_mm)
    dataset, name, file = located(source)
    unit = dataset.unit or "auto" if recipe.unit == "auto" else recipe.unit
    spacing = recipe.spacing_mm
    if spacing is None and file.suffix == ".npy":
        spacing = dataset.spacing_mm
    return replace(load_volume(file, unit, spacing), name=name, source=f"{dataset.name}:{name}")


def source_sha256(source: str, recorded: str | None = None) -> str | None:
    """Return a hash of the files of a volume.

    Args:
        source: as for `load_source`.
        recorded: is returned where an earlier version took this hash of the files as they are.

    Returns:
        SHA-256; None for a generated object, and where the files are not there.
    """
    path = _path(source)
    now = None if path is None else _files_sha256(volume_files(path))
    if recorded in (None, now) or now is None:
        return now
    return recorded if _files_sha256(files_of_before(path)) == recorded else now


def source_content(source: str, recorded: str | None = None) -> str | None:
    """Return what tells the files of a volume from others of its name, without reading all of them.

    Args:
        source: as for `load_source`.
        recorded: see `volume_content`.

    Returns:
        See `volume_content`; None for a generated object, and where the files are not there.
    """
    path = _path(source)
    return None if path is None else volume_content(path, recorded)


def _files_sha256(files: list[Path]) -> str | None:
    return (
        json_sha256([_known_sha256(file, *file_state(file)) for file in files]) if files else None
    )


def _path(source: str) -> Path | None:
    """Return the file or folder of a volume; None where there is none."""
    if is_generated(source):
        return None
    try:
        return located(source)[2] if names_data_set(source) else Path(source)
    except (OSError, ValueError):
        return None


# One volume is scanned by several recipes and numbers of views.
@cache
def _known_sha256(file: Path, size: int, modified_ns: int) -> str:
    return sha256(file)
