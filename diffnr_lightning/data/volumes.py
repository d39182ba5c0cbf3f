"""Volume files: NIfTI, MHA/MHD, DICOM series, NPY and TIFF stacks in, NIfTI out.

Inside the package a volume is an array (Z, Y, X) whose indices grow with +z, +y and +x. For a
patient these axes are DICOM's: +x to the left, +y to the back, +z to the head. Files with another
direction are turned once, when they are read; NPY and TIFF files say nothing about direction and
are taken as (Z, Y, X) as they are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK
import tifffile
from torch import Tensor

from diffnr_lightning.data.dicom_series import read_series, series_in
from diffnr_lightning.files import replacing
from diffnr_lightning.geometry import VolumeGrid

Unit = Literal["HU", "arbitrary"]

LOGGER = logging.getLogger("diffnr")
ITK_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
TIFF_SUFFIXES = (".tif", ".tiff")
# Air is -1000 HU, so a CT volume reaches far below zero; lung at its densest does not get lower
# than this.
HU_FLOOR = -200.0
# A rotation below this (direction cosines) is rounding of the file, not a tilted acquisition.
OBLIQUE_TOLERANCE = 1e-3


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
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    unit: Unit
    name: str
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source: str = ""

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
            series, or of equally large TIFF slices (sorted by name, first slice lowest).
        unit: what the numbers mean; ``"auto"`` takes them for HU where the smallest is -200 or
            less, and logs the choice.
        spacing_mm: voxel edges (z, y, x) or one number; overrides the file's. NPY and TIFF have
            none: 1 mm is assumed and logged.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, is not three-dimensional, holds NaN or infinite
            values, or is constant.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"volume {path} does not exist; check the path.")
    if unit not in ("auto", "HU", "arbitrary"):
        raise ValueError(f"unit is {unit!r}; 'auto', 'HU' or 'arbitrary' is expected.")
    suffix = _suffix(path)
    centre = (0.0, 0.0, 0.0)
    spacing: tuple[float, float, float] | None = None
    if suffix in TIFF_SUFFIXES or (path.is_dir() and not series_in(path)):
        array = _read_tiff(path)
    elif suffix == ".npy":
        array = read_array(path, "volume")
    elif suffix in ITK_SUFFIXES or path.is_dir():
        array, spacing, centre = _read_itk(path)
    else:
        raise ValueError(
            f"volume {path} has the unknown type {suffix or 'without suffix'!r}; one of "
            f"{', '.join((*ITK_SUFFIXES, '.npy', *TIFF_SUFFIXES))} or a folder of DICOM or TIFF "
            f"slices is expected."
        )
    array = checked_volume(array, f"volume {path}")
    spacing = _spacing(spacing_mm, spacing, path)
    if unit == "auto":
        unit = "HU" if float(array.min()) <= HU_FLOOR else "arbitrary"
        LOGGER.info(
            "%s: smallest value %g, so its unit is taken to be %s (say unit=... to override)",
            path.name, array.min(), unit,
        )  # fmt: skip
    return LoadedVolume(array, spacing, unit, _stem(path), centre, str(path))


def checked_volume(array: np.ndarray, what: str) -> np.ndarray:
    """Return `array` as contiguous float32 (Z, Y, X), or say what is wrong with it.

    Args:
        array: any array.
        what: how an error names it.

    Raises:
        ValueError: not three-dimensional, not numbers, NaN or infinite, constant, or thinner than
            two voxels.
    """
    if array.ndim != 3:
        raise ValueError(
            f"{what} has {array.ndim} dimensions (shape {array.shape}); a three-dimensional (Z, "
            f"Y, X) volume is expected."
        )
    if min(array.shape) < 2:
        raise ValueError(
            f"{what} has shape {array.shape}; at least two voxels a side are expected."
        )
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"{what} holds {array.dtype} values; real numbers are expected.")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise ValueError(f"{what} holds {bad} NaN or infinite voxels; finite values are expected.")
    if array.min() == array.max():
        raise ValueError(
            f"{what} is constant ({array.min():g} everywhere); there is nothing to scan."
        )
    return array


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
    except (ValueError, OSError, EOFError) as error:
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
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array, dtype=np.float32))
    image.SetSpacing([float(edge) for edge in grid.voxel_mm[::-1]])
    image.SetOrigin([float(o + f) for o, f in zip(grid.origin_mm, frame_origin_mm, strict=True)])
    with replacing(path) as part:
        try:
            SimpleITK.WriteImage(image, str(part), useCompression=True)
        except RuntimeError as error:
            raise ValueError(f"{path} cannot be written: the image writer failed.") from error
    return path


def _read_itk(
    path: Path,
) -> tuple[np.ndarray, tuple[float, float, float], tuple[float, float, float]]:
    """Read with ITK, turn to DICOM axes; return array, spacing (z, y, x), centre (x, y, z)."""
    previous = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = read_series(path) if path.is_dir() else SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(
            f"volume {path} cannot be read: it is damaged or not of its type."
        ) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(previous)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(
            f"volume {path} has size {image.GetSize()} with "
            f"{image.GetNumberOfComponentsPerPixel()} value(s) a voxel; "
            "one three-dimensional volume of single numbers is expected."
        )
    image = SimpleITK.DICOMOrient(image, "LPS")
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    if np.abs(direction - np.eye(3)).max() > OBLIQUE_TOLERANCE:
        LOGGER.warning(
            "%s is tilted against the patient axes; its own axes are used and results will not "
            "carry the tilt",
            path.name,
        )
    middle = [0.5 * (n - 1) for n in image.GetSize()]
    centre = image.TransformContinuousIndexToPhysicalPoint(middle)
    return (
        SimpleITK.GetArrayFromImage(image),
        tuple(float(s) for s in image.GetSpacing()[::-1]),
        tuple(float(c) for c in centre),
    )


def _read_tiff(path: Path) -> np.ndarray:
    """Read a multi-page TIFF file or a folder of slices as (Z, Y, X)."""
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in TIFF_SUFFIXES)
        if not files:
            raise ValueError(
                f"folder {path} holds no slices; one DICOM series, or .tif or .tiff files are "
                "expected."
            )
    pages = []
    for file in files:
        try:
            page = tifffile.imread(file)
        except (tifffile.TiffFileError, ValueError, OSError, IndexError) as error:
            raise ValueError(
                f"TIFF file {file} cannot be read: it is truncated or damaged."
            ) from error
        if page.size == 0:
            raise ValueError(f"TIFF file {file} cannot be read: it holds no image.")
        pages.append(page)
        if path.is_dir() and (pages[-1].ndim != 2 or pages[-1].shape != pages[0].shape):
            raise ValueError(
                f"TIFF slice {file} has shape {pages[-1].shape}; every slice of the folder must "
                f"be an image of one size "
                f"(the first has {pages[0].shape})."
            )
    return np.stack(pages) if path.is_dir() else pages[0]


def _spacing(
    given: float | tuple[float, float, float] | None,
    stored: tuple[float, float, float] | None,
    path: Path,
) -> tuple[float, float, float]:
    if given is not None:
        edges = tuple(np.broadcast_to(np.asarray(given, dtype=float), 3).tolist())
    elif stored is not None:
        edges = stored
    else:
        LOGGER.info("%s stores no voxel size; 1 mm is assumed (say spacing_mm=...)", path.name)
        edges = (1.0, 1.0, 1.0)
    if not all(0 < edge < np.inf for edge in edges):
        raise ValueError(
            f"spacing of {path} is {edges}; positive lengths (z, y, x) in mm are expected."
        )
    return edges


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(_suffix(path))] if path.is_file() else path.name
