"""ToothFairy: cone-beam scans of jaws, in the layouts of the first three challenges."""

from __future__ import annotations

import re
from pathlib import Path

from diffnr_lightning.data.datasets.dataset import DataSet
from diffnr_lightning.data.noise import Noise
from diffnr_lightning.data.scan_recipe import ScanRecipe
from diffnr_lightning.data.scanner import Scanner

# Files of the first challenge store no voxel size; its organisers give this one.
SPACING_MM = (0.3, 0.3, 0.3)
CHANNEL = "_0000"
SUFFIXES = (".mha", ".nii.gz")


def find_toothfairy(folder: Path) -> dict[str, Path]:
    """Return volume -> file, `P12` for `P12/data.npy` and `ToothFairy2F_001` for `imagesTr/ToothFairy2F_001_0000.mha`.

    Args:
        folder: that holds `P1`, `P2`, ..., or `imagesTr`, or the folder with these in it.
    """
    first = {path.parent.name: path for path in _below(folder, "P*/data.npy")}
    if first:
        return dict(sorted(first.items(), key=lambda entry: _natural(entry[0])))
    images = [path for pattern in ("imagesTr/*", "*") for path in _below(folder, pattern)]
    # Archives from a Mac hold a file ._NAME beside each file.
    images = [
        path
        for path in images
        if path.name.endswith(SUFFIXES)
        and not path.name.startswith(".")
        and path.parent.name != "labelsTr"
    ]
    return {_called(path): path for path in sorted(images, key=lambda path: path.name)}


def _below(folder: Path, pattern: str) -> list[Path]:
    """Files that match, in the folder or in one in it (`Dataset`, `Dataset112_ToothFairy2`)."""
    return [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]


def _called(path: Path) -> str:
    name = next(path.name.removesuffix(end) for end in SUFFIXES if path.name.endswith(end))
    return name.removesuffix(CHANNEL)


def _natural(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+", name)
    return (int(digits[0]) if digits else 0, name)


DATA_SET = DataSet(
    name="toothfairy",
    title="ToothFairy",
    find=find_toothfairy,
    layout="P*/data.npy (ToothFairy), imagesTr/*_0000.mha (ToothFairy2) or *.nii.gz (ToothFairy3)",
    kind="jaw",
    source="ToothFairy",
    licence="as stated at ditto.ing.unimore.it",
    variable="DIFFNR_TOOTHFAIRY",
    download="ditto.ing.unimore.it/toothfairy after registration, 443 volumes, tens of GB",
    unit="HU",
    spacing_mm=SPACING_MM,
)

# configs/data/toothfairy.yaml, whose comment says where it is from.
RECIPE = ScanRecipe(
    size=256,
    num_views=36,
    fit="volume",
    window_hu=(-1000.0, 3000.0),
    scanner=Scanner(source_to_axis=2.0, source_to_detector=3.0, detector=1.5),
    noise=Noise(mode="tigre", photons=1e4, electronic=10.0),
)
