"""Normalised volumes of one size, made once and mapped into memory afterwards."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffnr_lightning.data.datasets import load_source, names_data_set
from diffnr_lightning.data.generated import is_generated
from diffnr_lightning.data.scan_recipe import ScanRecipe
from diffnr_lightning.data.simulation import normalised_cube
from diffnr_lightning.files import write_bytes

FORMAT = "diffnr clean volume 1"
# What a recipe says of a volume; views, scanner and noise do not change it.
DECISIVE = ("size", "fit", "voxel_mm", "margin", "window_hu", "unit", "spacing_mm")
# Volumes between two messages: reading and resampling take a second or more each.
BETWEEN_MESSAGES = 20

logger = logging.getLogger("diffnr")


def clean_volumes(
    sources: Mapping[str, str], recipe: ScanRecipe, store: Path | None = None
) -> dict[str, Tensor]:
    """Return volumes as the truth of a scan shows them.

    Args:
        sources: name -> file, or a generated object such as `phantom:SEED`.
        recipe: its cube and its window.
        store: folder in which the volumes are kept, one file each, and found again by the next training; None keeps
            them in memory alone.

    Returns:
        Name -> (Z, Y, X) float16 in [0, 1], mapped where there is a store.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no volume, or a store that holds something else under a name.
    """
    described = recipe.describe()
    settings = {key: described[key] for key in DECISIVE}
    volumes = {}
    for done, (name, source) in enumerate(sources.items()):
        if done % BETWEEN_MESSAGES == 0 and done:
            logger.info("%d of %d volumes are ready", done, len(sources))
        if store is None:
            volumes[name] = _normalised(source, recipe)
            continue
        header = {"source": _recorded(source), **settings}
        path = Path(store) / f"{name}.safetensors"
        if not path.is_file():
            text = json.dumps(header, sort_keys=True)
            content = save({"clean": _normalised(source, recipe)}, {"format": FORMAT, "made": text})
            write_bytes(path, content)
        volumes[name] = _opened(path, header)
    return volumes


def _recorded(source: str) -> str:
    """What a file of the store says of its source; where a file lies may change."""
    if is_generated(source) or names_data_set(source):
        return source
    return Path(source).name


def _normalised(source: str, recipe: ScanRecipe) -> Tensor:
    return torch.from_numpy(normalised_cube(load_source(source, recipe), recipe).truth).half()


def _opened(path: Path, header: dict[str, object]) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            if found.get("format") != FORMAT:
                raise ValueError("it was not written by this program")
            made = json.loads(found["made"])
            volume = file.get_tensor("clean")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no volume of a store or is damaged ({error}); delete it, and it is made anew."
        ) from error
    if made != header:
        differs = next(key for key in {**header, **made} if header.get(key) != made.get(key))
        raise ValueError(
            f"{path} was made with {differs} {made.get(differs)!r}, not {header.get(differs)!r}; give another store."
        )
    return volume
