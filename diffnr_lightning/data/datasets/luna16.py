"""LUNA16: 888 chests of LIDC-IDRI as MetaImages, in ten parts."""

from __future__ import annotations

from pathlib import Path

from diffnr_lightning.data.datasets.dataset import DataSet, split_file
from diffnr_lightning.data.noise import Noise
from diffnr_lightning.data.scan_recipe import ScanRecipe
from diffnr_lightning.data.scanner import Scanner

# `data/splits/luna16.csv` is `split_by_rule` of the patients of LIDC-IDRI with these before the others: the chests of
# `diffnr.csv` keep their sets, and the case that DiffNR's demo shows is tested.
DEVELOPMENT = TEST = 25
PINNED = {
    "LIDC-IDRI-0001": "train",
    "LIDC-IDRI-0002": "train",
    "LIDC-IDRI-0003": "test",
    "LIDC-IDRI-0964": "test",
}


def find_luna16(folder: Path) -> dict[str, Path]:
    """Return series -> header of all scans below `subset0` to `subset9`, in the order of the series.

    Args:
        folder: that holds the subsets, or one of them.
    """
    found = [
        *folder.glob("subset*/*.mhd"),
        *folder.glob("subset*/subset*/*.mhd"),
        *folder.glob("*.mhd"),
    ]
    return {path.stem: path for path in sorted(found, key=lambda path: path.name)}


DATA_SET = DataSet(
    name="luna16",
    title="LUNA16",
    find=find_luna16,
    layout="subset0 to subset9 with a .mhd and a .raw file for each series",
    kind="chest",
    source="LUNA16",
    licence="CC BY 4.0",
    variable="DIFFNR_LUNA16",
    download="zenodo.org/records/3723295 and zenodo.org/records/4121926, ten archives, about 120 GB unpacked",
    split=split_file("luna16"),
    unit="HU",
)

# configs/data/luna16.yaml, whose comment says where it is from and how it differs from DiffNR's.
RECIPE = ScanRecipe(
    size=256,
    num_views=36,
    voxel_mm=1.6,
    fit="volume",
    window_hu=(-1000.0, 1024.0),
    attenuate_outside=False,
    scanner=Scanner(unit="mm", source_to_axis=800.0, source_to_detector=1200.0, detector=614.4),
    noise=Noise(mode="tigre", photons=1e4, electronic=10.0),
)
