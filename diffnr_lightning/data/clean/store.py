"""Normalised volumes of one size, made once and mapped into memory afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from random import Random
from socket import gethostname

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffnr_lightning.data.datasets import load_source, names_data_set
from diffnr_lightning.data.datasets.sources import source_content
from diffnr_lightning.data.generated import is_generated
from diffnr_lightning.data.scan_recipe import ScanRecipe
from diffnr_lightning.data.simulation import normalised_cube
from diffnr_lightning.files import write_bytes

FORMAT = "diffnr clean volume 1"
# What a recipe says of a volume; views, scanner and noise do not change it.
DECISIVE = ("size", "fit", "voxel_mm", "margin", "window_hu", "unit", "spacing_mm")
# Volumes between two messages: reading and resampling take a second or more each.
BETWEEN_MESSAGES = 20
KEY_LENGTH = 12

logger = logging.getLogger("diffnr")


def clean_volumes(
    sources: Mapping[str, str], recipe: ScanRecipe, store: Path | None = None
) -> dict[str, Tensor]:
    """Return volumes as the truth of a scan shows them.

    Args:
        sources: name -> file, generated object such as `phantom:SEED`, or volume of a data set.
        recipe: its cube and its window.
        store: folder in which the volumes are kept, one file each, and found again by the next training; None keeps
            them in memory alone.

    Returns:
        Name -> (Z, Y, X) float16 in [0, 1], mapped where there is a store.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no volume, or a store that holds something else under a name.
    """
    if store is None:
        return {name: _normalised(source, recipe) for name, source in sources.items()}
    fill_store(sources, recipe, store)
    return {name: _opened(_file(store, name), source, recipe) for name, source in sources.items()}


def fill_store(
    sources: Mapping[str, str],
    recipe: ScanRecipe,
    store: Path,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
) -> None:
    """Make the files that a store lacks; each appears whole, so that a killed one goes on with the same call.

    Several processes may fill one store, by shards or all of them the whole: each begins at a place of its own and
    leaves alone what is there by then.

    Args:
        sources: see `clean_volumes`.
        recipe: see there.
        store: the folder.
        shard: part and number of parts; part K of N takes every Nth volume.
        workers: processes that read and resample; 0 does it in this one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no volume.
    """
    part, parts = shard
    wanted = list(sources.items())[part::parts]
    missing = [entry for entry in wanted if not _file(store, entry[0]).is_file()]
    Random(f"{gethostname()} {os.getpid()}").shuffle(missing)
    files = _Missing(missing, recipe, store)
    for done, error in enumerate(DataLoader(files, batch_size=None, num_workers=workers), 1):
        if error is not None:
            raise error
        if done % BETWEEN_MESSAGES == 0:
            logger.info(
                "%d of %d volumes are ready", len(wanted) - len(missing) + done, len(wanted)
            )


def recipe_key(recipe: ScanRecipe) -> str:
    """Return a name for what a recipe makes of volumes: equal for recipes whose stores are the same."""
    described = json.dumps(_decisive(recipe), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:KEY_LENGTH]


class _Missing(Dataset[Exception | None]):
    """Make a file of the store for each index, or return why it cannot be made.

    The message of an error that is raised in a worker would be its whole traceback.
    """

    def __init__(self, sources: list[tuple[str, str]], recipe: ScanRecipe, store: Path) -> None:
        self.sources, self.recipe, self.store = sources, recipe, store

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Exception | None:
        if index >= len(self):
            raise IndexError(index)
        try:
            self._make(*self.sources[index])
        except (ValueError, OSError) as error:
            return error
        return None

    def _make(self, name: str, source: str) -> None:
        path = _file(self.store, name)
        if not path.is_file():  # another process may have made it meanwhile
            text = json.dumps(_header(source, self.recipe), sort_keys=True)
            volume = {"clean": _normalised(source, self.recipe)}
            write_bytes(path, save(volume, {"format": FORMAT, "made": text}))


def _file(store: Path, name: str) -> Path:
    return Path(store) / f"{name}.safetensors"


def _header(source: str, recipe: ScanRecipe, recorded: str | None = None) -> dict[str, object]:
    """What a file of the store says of its source; where a file lies may change, and the record may be of before."""
    header = _decisive(recipe)
    if is_generated(source):
        return {"source": source, **header}
    name = source if names_data_set(source) else Path(source).name
    return {"source": name, "content": source_content(source, recorded), **header}


def _decisive(recipe: ScanRecipe) -> dict[str, object]:
    described = recipe.describe()
    decisive = {key: described[key] for key in DECISIVE}
    # Recipes of whole cubes are called as they were before there were others.
    return decisive if recipe.slices is None else {**decisive, "slices": recipe.slices}


def _normalised(source: str, recipe: ScanRecipe) -> Tensor:
    return torch.from_numpy(normalised_cube(load_source(source, recipe), recipe).truth).half()


def _opened(path: Path, source: str, recipe: ScanRecipe) -> Tensor:
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
    header = _header(source, recipe, made.get("content"))
    if None in (made.get("content"), header.get("content")):
        # Stores of before do not say it, and a volume that lies elsewhere by now is not looked at.
        header, made = ({**each, "content": None} for each in (header, made))
    if made != header:
        differs = next(key for key in {**header, **made} if header.get(key) != made.get(key))
        raise ValueError(
            f"{path} was made with {differs} {made.get(differs)!r}, not {header.get(differs)!r}; give another store."
        )
    return volume
