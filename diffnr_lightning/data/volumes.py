"""Volume files: NIfTI, MHA/MHD, NRRD, DICOM series, NPY and TIFF stacks in, NIfTI out.

Inside the package a volume is an array (Z, Y, X) whose indices grow with +z, +y and +x. For a
patient these axes are DICOM's: +x to the left, +y to the back, +z to the head. Files with another
direction are turned once, when they are read, and an oblique file keeps its own axes with their
direction cosines; NPY and TIFF files say nothing about direction and are taken as (Z, Y, X) as they
are. The formats themselves are read in `data/readers/`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np
from torch import Tensor

from diffnr_lightning.data.readers.dicom_series import folders_with_series, read_series, series_in
from diffnr_lightning.data.readers.itk_images import META_SUFFIXES, NRRD_SUFFIXES, read_itk
from diffnr_lightning.data.readers.nifti import read_nifti
from diffnr_lightning.data.readers.stored_volume import (
    StoredVolume,
    along_patient_axes,
    centred_affine,
    tilt_deg,
)
from diffnr_lightning.data.readers.tiff_stack import (
    TIFF_SUFFIXES,
    read_tiff,
    read_tiff_slices,
    tiff_slices,
)
from diffnr_lightning.data.readers.volume_files import refuse_unreadable
from diffnr_lightning.files import replacing
from diffnr_lightning.geometry import VolumeGrid

Unit = Literal["HU", "arbitrary"]
NIFTI_HEADER = 352
"""Bytes before the voxels of a file that we write."""
Direction = tuple[float, float, float, float, float, float, float, float, float]

LOGGER = logging.getLogger("diffnr")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
SUFFIXES = (*NIFTI_SUFFIXES, *META_SUFFIXES, *NRRD_SUFFIXES, ".npy", *TIFF_SUFFIXES)
# Air is -1000 HU, so a CT volume reaches far below zero; lung at its densest does not get lower
# than this.
HU_FLOOR = -200.0
# What a CT volume may hold: scanners mark the outside of their picture by values down to -3024 and
# -4096, and the extended scale of metal ends with signed 16-bit numbers.
HU_RANGE = (-4096.0, 32767.0)
# The header of an NPY file is parsed as Python, and damage fails in as many ways.
NPY_ERRORS = (
    ValueError,
    OSError,
    EOFError,
    MemoryError,
    OverflowError,
    SyntaxError,
    TypeError,
    TokenError,
)
# Folders in which DICOM series are looked for to give a hint, and those that it names.
MOST_FOLDERS = 2000
NAMED_FOLDERS = 3
UNTILTED: Direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# A turn below this is rounding of the file, not a tilted acquisition.
OBLIQUE_DEG = 0.05


@dataclass(frozen=True, eq=False)
class LoadedVolume:
    """Hold a volume as it came from its file or generator.

    Attributes:
        array: (Z, Y, X) float32 in `unit`.
        spacing_mm: voxel edges (z, y, x) in mm.
        unit: ``"HU"`` or ``"arbitrary"``.
        name: name of the case, from the file's name.
        centre_mm: position (x, y, z) of the volume's centre in the file's own world, mm (DICOM
            axes).
        source: where it came from, for the provenance of what is made of it.
        direction: rows of the (3, 3) matrix of direction cosines in that world; its columns are
            where x, y and z of the array point.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    unit: Unit
    name: str
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source: str = ""
    direction: Direction = UNTILTED

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Edges of the whole volume (z, y, x) in mm."""
        return tuple(n * s for n, s in zip(self.array.shape, self.spacing_mm, strict=True))


def load_volume(
    path: str | Path,
    unit: Unit | Literal["auto"] = "auto",
    spacing_mm: float | tuple[float, float, float] | None = None,
) -> LoadedVolume:
    """Read a volume and turn it into the package's axes.

    Args:
        path: a NIfTI, MHA, MHD, NRRD, NPY or multi-page TIFF file, or a folder of one DICOM
            series (sorted by position), or of equally large TIFF slices (sorted by the numbers in
            their names, first slice lowest).
        unit: what the numbers mean; ``"auto"`` takes the header's word (DICOM), else HU where the
            smallest is -200 or less, and logs the choice.
        spacing_mm: voxel edges (z, y, x) or one number; overrides the file's. Where neither says
            (NPY, some TIFF), 1 mm is assumed and logged.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, is not three-dimensional, holds NaN or infinite
            values, or is constant; its axes are not perpendicular; its voxel size cannot be
            known; values far outside of HU that nothing says are arbitrary.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"volume {path} does not exist; check the path.")
    if unit not in ("auto", "HU", "arbitrary"):
        raise ValueError(f"unit is {unit!r}; 'auto', 'HU' or 'arbitrary' is expected.")
    refuse_unreadable(path)
    what = f"volume {path}"
    stored = _read(path, spacing_mm is not None)
    _check_shape(stored.array.shape, what)
    placed = along_patient_axes(stored, what)
    array = checked_volume(placed.array, what)
    tilt = tilt_deg(placed.direction)
    if tilt > OBLIQUE_DEG:
        LOGGER.info(
            "%s lies oblique, %.1f degrees from the patient's axes; it is scanned along its own "
            "axes, and results are written with its direction",
            path.name, tilt,
        )  # fmt: skip
    return LoadedVolume(
        array,
        _spacing(spacing_mm, placed.spacing_mm, stored, path),
        _checked_unit(array, unit, stored.unit, path),
        _stem(path),
        placed.centre_mm,
        str(path),
        tuple(placed.direction.ravel().tolist()),
    )


def _read(path: Path, spacing_given: bool) -> StoredVolume:
    if path.is_dir():
        return _read_folder(path, spacing_given)
    suffix = _suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return read_nifti(path)
    if suffix in (*META_SUFFIXES, *NRRD_SUFFIXES):
        return read_itk(path)
    if suffix in TIFF_SUFFIXES:
        return read_tiff(path)
    if suffix == ".npy":
        array = read_array(path, "volume")
        _check_shape(array.shape, f"volume {path}")
        affine = centred_affine(array.shape)
        return StoredVolume(array, affine, spacing="assumed", remark="stores no voxel size")
    if suffix == ".dcm":
        raise ValueError(
            f"volume {path} is one DICOM file; the folder of its series is expected, here "
            f"{path.parent}."
        )
    raise ValueError(
        f"volume {path} has the unknown type {suffix or 'without suffix'!r}; one of "
        f"{', '.join(SUFFIXES)} or a folder of DICOM or TIFF slices is expected."
    )


def _read_folder(folder: Path, spacing_given: bool) -> StoredVolume:
    if series_in(folder):
        return read_series(folder, spacing_given)
    if tiff_slices(folder):
        return read_tiff_slices(folder)
    below = [place for place in folders_with_series(folder, MOST_FOLDERS) if place != folder]
    hint = ""
    if below:
        named = ", ".join(map(str, below[:NAMED_FOLDERS]))
        hint = f" DICOM series lie below it in {named}"
        hint += f" and {len(below) - NAMED_FOLDERS} more" if len(below) > NAMED_FOLDERS else ""
        hint += ": name one of these."
    raise ValueError(
        f"folder {folder} holds no slices; one DICOM series, or .tif or .tiff files are "
        f"expected.{hint}"
    )


def checked_volume(array: np.ndarray, what: str) -> np.ndarray:
    """Return `array` as contiguous float32 (Z, Y, X), or say what is wrong with it.

    Args:
        array: any array.
        what: how an error names it.

    Raises:
        ValueError: not three-dimensional, not numbers, NaN or infinite, constant, or thinner than
            two voxels.
    """
    _check_shape(array.shape, what)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"{what} holds {array.dtype} values; real numbers are expected.")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise ValueError(
            f"{what} holds {bad} NaN or infinite voxels; finite values are expected: fill them, "
            "outside of the scanner's field with air (-1000 HU)."
        )
    if array.min() == array.max():
        raise ValueError(
            f"{what} is constant ({array.min():g} everywhere); there is nothing to scan."
        )
    return array


def _check_shape(shape: tuple[int, ...], what: str) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"{what} has {len(shape)} dimensions (shape {shape}); a three-dimensional (Z, Y, X) "
            "volume is expected."
        )
    if min(shape) < 2:
        raise ValueError(f"{what} has shape {shape}; at least two voxels a side are expected.")


def read_array(path: Path, what: str) -> np.ndarray:
    """Read an NPY file without executing anything in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, holds pickled objects, or is no NPY file.
    """
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} {path} does not exist.") from None
    except (PermissionError, IsADirectoryError) as error:
        raise ValueError(f"{what} {path} cannot be read: {error.strerror}.") from error
    except NPY_ERRORS as error:
        raise ValueError(
            f"{what} {path} cannot be read as an NPY array: it is truncated, damaged or no array "
            f"of numbers."
        ) from error


def save_volume(
    path: str | Path,
    volume: np.ndarray | Tensor,
    grid: VolumeGrid,
    window_hu: tuple[float, float] | None = None,
    frame_origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    frame_direction: Direction = UNTILTED,
) -> Path:
    """Write a volume as NIfTI with its spacing and position; the file appears whole or not at all.

    Args:
        path: a .nii or .nii.gz file; its folder is made where it is missing.
        volume: (Z, Y, X) normalised attenuation.
        grid: where its voxels are.
        window_hu: HU of the values 0 and 1; with it the file is in HU, without it in the volume's
            own unit.
        frame_origin_mm: where the grid's world origin lies in the source volume's world (x, y, z),
            so that the result lies on its source in a viewer.
        frame_direction: rows of the (3, 3) matrix that turns the grid's axes into that world's.

    Raises:
        ValueError: a shape that is not the grid's, or a file that cannot be written.
    """
    path = Path(path)
    if _suffix(path) not in (".nii", ".nii.gz"):
        raise ValueError(
            f"volume file {path} has the type {_suffix(path)!r}; .nii or .nii.gz is expected."
        )
    array = volume.detach().cpu().numpy() if isinstance(volume, Tensor) else np.asarray(volume)
    if array.shape != grid.shape:
        raise ValueError(f"volume has shape {array.shape}, its grid {grid.shape}; they must agree.")
    array = np.asarray(array, dtype=np.float32)
    if window_hu is not None:
        low, high = window_hu
        array = low + array * (high - low)
    import SimpleITK

    turn = np.reshape(frame_direction, (3, 3))
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array, dtype=np.float32))
    image.SetSpacing([float(edge) for edge in grid.voxel_mm[::-1]])
    image.SetOrigin((turn @ grid.origin_mm + frame_origin_mm).tolist())
    image.SetDirection(turn.ravel().tolist())
    with replacing(path) as part:
        try:
            SimpleITK.WriteImage(image, str(part), useCompression=True)
        except RuntimeError as error:
            raise ValueError(f"{path} cannot be written: the image writer failed.") from error
        _refuse_cut_short(part, path, array.size)
    return path


def _refuse_cut_short(written: Path, path: Path, voxels: int) -> None:
    """Refuse a NIfTI file of float32 that is not whole: of a full disk the writer tells on the terminal alone."""
    expected = NIFTI_HEADER + 4 * voxels
    with written.open("rb") as file:
        found = file.seek(0, os.SEEK_END)
        if _suffix(path) == ".nii.gz":
            file.seek(max(0, found - 4))
            found = int.from_bytes(file.read(4), "little")  # what gzip has packed, modulo 2^32
            expected %= 2**32
    if found != expected:
        raise ValueError(f"{path} cannot be written: it was cut short, as where a disk is full.")


def _spacing(
    given: float | tuple[float, float, float] | None,
    found: tuple[float, float, float],
    stored: StoredVolume,
    path: Path,
) -> tuple[float, float, float]:
    edges = found
    if given is not None:
        edges = tuple(np.broadcast_to(np.asarray(given, dtype=float), 3).tolist())
    elif stored.spacing == "unknown":
        raise ValueError(f"volume {path} {stored.remark}; say it by spacing_mm (z, y, x).")
    elif stored.spacing == "assumed":
        LOGGER.warning(
            "%s %s; 1 mm is assumed (give spacing_mm if it is another)", path.name, stored.remark
        )
    if not all(0 < edge < np.inf for edge in edges):
        raise ValueError(
            f"spacing of {path} is {edges}; positive lengths (z, y, x) in mm are expected."
        )
    return edges


def _checked_unit(
    array: np.ndarray, asked: Unit | Literal["auto"], stored: Unit | None, path: Path
) -> Unit:
    """Return the unit that was asked for, that the header states, or that the values suggest."""
    low, high = float(array.min()), float(array.max())
    outside = low < HU_RANGE[0] or high > HU_RANGE[1]
    if asked == "HU" and outside:
        LOGGER.warning(
            "%s: values from %g to %g cannot all be HU; what lies beyond the window is clipped",
            path.name, low, high,
        )  # fmt: skip
    if asked != "auto":
        return asked
    unit = stored or ("HU" if low <= HU_FLOOR else "arbitrary")
    if unit == "HU" and outside:
        raise ValueError(
            f"volume {path} holds values from {low:g} to {high:g}, which cannot be HU (air is "
            "-1000, water 0, dense metal below 32767); say --unit arbitrary for grey values, or "
            "--unit HU if a few voxels are marked by such a number."
        )
    if stored == "HU" and low > HU_FLOOR:
        LOGGER.warning(
            "%s is in HU by its header, but its smallest value is %g, far above air (say "
            "unit=arbitrary if these are grey values)",
            path.name, low,
        )  # fmt: skip
    LOGGER.info(
        "%s: %s, so its unit is taken to be %s (give unit to override)",
        path.name, f"its header says {stored}" if stored else f"smallest value {low:g}", unit,
    )  # fmt: skip
    return unit


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _stem(path: Path) -> str:
    if path.is_file():
        return path.name[: len(path.name) - len(_suffix(path))]
    # `.` is the folder that it stands for.
    return path.resolve().name
