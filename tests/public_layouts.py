"""Generated chests as files in the layouts of public data sets."""

from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK

from diffnr_lightning.data.splits import read_split
from diffnr_lightning.phantoms import chest
from diffnr_lightning.phantoms.canvas import Phantom

# Voxels along an edge of the files.
SIZE = 20


def series(role, count):
    """The first series of a set of LUNA16."""
    return [volume.name for volume in read_split("luna16") if volume.set == role][:count]


def write_luna16(folder: Path, train=2, development=1, test=1) -> dict[str, list[str]]:
    """`subset0` and `subset1` with some series of each set; returns set -> series."""
    wanted = {"train": train, "development": development, "test": test}
    chosen = {role: series(role, count) for role, count in wanted.items()}
    for number, name in enumerate(name for names in chosen.values() for name in names):
        path = folder / f"subset{number % 2}" / f"{name}.mhd"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, number, (-190.0, -170.0, -300.0))
    return chosen


def write_toothfairy(folder: Path, count=6, challenge=1) -> list[str]:
    """The layout of one of the first three challenges; returns the names of the volumes."""
    if challenge == 1:
        for number in range(1, count + 1):
            patient = folder / f"P{number}"
            patient.mkdir(parents=True)
            np.save(patient / "data.npy", _values(number))
            np.save(patient / "gt_alpha.npy", np.zeros((SIZE,) * 3, np.uint8))
        return [f"P{number}" for number in range(1, count + 1)]
    ending = {2: ".mha", 3: ".nii.gz"}[challenge]
    names = [f"ToothFairy{challenge}F_{number:03d}" for number in range(1, count + 1)]
    for kind, mark in (("imagesTr", "_0000"), ("labelsTr", "")):
        (folder / kind).mkdir(parents=True)
        for number, name in enumerate(names):
            _write(folder / kind / f"{name}{mark}{ending}", number, (0.0, 0.0, 0.0))
    return names


@cache
def _chest() -> Phantom:
    return chest(0, SIZE)


def _values(seed: int) -> np.ndarray:
    """The same chest with noise of its own, since a chest takes seconds."""
    noise = np.random.default_rng(seed).normal(0, 30, (SIZE,) * 3)
    return (_chest().array + noise).astype(np.int16)


def _write(path: Path, seed: int, origin) -> None:
    image = SimpleITK.GetImageFromArray(_values(seed))
    image.SetSpacing(_chest().spacing_mm[::-1])
    image.SetOrigin(origin)
    SimpleITK.WriteImage(image, str(path))
