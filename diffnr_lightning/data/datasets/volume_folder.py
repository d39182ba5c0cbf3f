"""A folder of volumes as a data set, whatever it holds that can be read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from diffnr_lightning.data.datasets.dataset import DataSet, split_file
from diffnr_lightning.data.datasets.words import FOLDER
from diffnr_lightning.data.readers.dicom_series import folders_with_series
from diffnr_lightning.data.readers.itk_images import META_SUFFIXES, NRRD_SUFFIXES
from diffnr_lightning.data.readers.tiff_stack import TIFF_SUFFIXES
from diffnr_lightning.files import folders_below

SUFFIXES = (".nii", ".nii.gz", *META_SUFFIXES, *NRRD_SUFFIXES, ".npy")
SPLIT = "split.csv"
# A tenth each for development and test, of however many there are, where no file says otherwise.
HELD = (10**6, 10**6, 10**7)


def find_volumes(folder: Path) -> dict[str, Path]:
    """Return volume -> file or folder of slices, of everything below a folder and its links that can be read, in order.

    A volume is called as its file without the ending, and by its path where several are called the same: `P12_data`,
    with the ending where that is all that tells them apart. A folder with one TIFF file holds a stack, one with several
    holds slices.
    """
    found = []
    for place, files in folders_below(folder, hidden=False):
        seen = sorted(name for name in files if not name.startswith("."))
        found += [place / name for name in seen if name.lower().endswith(SUFFIXES)]
        images = [name for name in seen if name.lower().endswith(TIFF_SUFFIXES)]
        if images:
            found.append(place if len(images) > 1 else place / images[0])
    found += [path for path in folders_with_series(folder) if path not in found]
    return dict(sorted(_named(found, folder).items()))


def volume_folder(folder: str | Path, split: str | None = None) -> DataSet:
    """Return the data set of a folder.

    Args:
        folder: whose `split.csv`, if there is one, says what each volume is for, in the columns of `data/splits`; the
            rule of `sets` does otherwise, by a tenth each.
        split: a file of `data/splits`, such as ``diffnr``, that says so instead.
    """
    file = Path(folder) / SPLIT if split is None else split_file(split)
    return DataSet(
        name=f"{FOLDER}:{folder}",
        title=f"the folder {folder}",
        find=find_volumes,
        layout=f"volumes ({', '.join(SUFFIXES)}, TIFF, DICOM)",
        kind="volume",
        source=str(folder),
        licence="unknown",
        folder=Path(folder),
        split=file if split is not None or file.is_file() else None,
        held=HELD,
    )


def _named(found: list[Path], folder: Path) -> dict[str, Path]:
    """Return the volumes by their names.

    Raises:
        ValueError: two that no name tells apart.
    """
    # The folder itself may be a volume of slices.
    within = {
        path: Path(folder.resolve().name) if path == folder else path.relative_to(folder)
        for path in found
    }
    stems = Counter(_stem(place) for place in within.values())
    whole = {path: "_".join(_without_ending(place).parts) for path, place in within.items()}
    paths = Counter(whole.values())
    named: dict[str, Path] = {}
    for path in sorted(found, key=lambda path: stems[_stem(within[path])] > 1):
        stem = _stem(within[path])
        names = [stem] if stems[stem] == 1 else []
        names += [whole[path]] if paths[whole[path]] == 1 else []
        names += ["_".join(within[path].parts)]
        name = next((name for name in names if name not in named), None)
        if name is None:
            raise ValueError(
                f"{folder} has {within[named[names[-1]]]} and {within[path]}, which both would be called {names[-1]}; "
                "rename one."
            )
        named[name] = path
    return named


def _stem(path: Path) -> str:
    return _without_ending(path).name


def _without_ending(path: Path) -> Path:
    ending = next(
        (end for end in (".nii.gz", *SUFFIXES, *TIFF_SUFFIXES) if path.name.lower().endswith(end)),
        "",
    )
    return path.with_name(path.name[: len(path.name) - len(ending)])
