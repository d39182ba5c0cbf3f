"""Images of a detector as files hold them: stacks, folders of images, or one image."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffnr_lightning.data.readers.tiff_stack import (
    TIFF_SUFFIXES,
    read_tiff,
    read_tiff_slices,
    tiff_slices,
)

NPY, ITK_SUFFIXES = ".npy", (".mha", ".mhd", ".nrrd", ".nhdr")
SUFFIXES = (*TIFF_SUFFIXES, NPY, *ITK_SUFFIXES)


class ImageStack(NamedTuple):
    """Hold images and, where the file says it, where their pixels lie.

    Attributes:
        images: (N, H, W) in the order of the file, or one image (H, W), in the type in which they are stored.
        pixel_mm: pitch of rows and columns (v, u); None where the file does not say.
        first_mm: place of the first pixel (v, u), as ITK's files have it; likewise.
    """

    images: np.ndarray
    pixel_mm: tuple[float, float] | None = None
    first_mm: tuple[float, float] | None = None


def read_images(path: Path) -> ImageStack:
    """Read a TIFF file, a folder of TIFF images in natural order, NPY, or a stack of ITK (MHA, MHD, NRRD).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another type, or a damaged file.
    """
    if not path.exists():
        raise FileNotFoundError(f"images {path} do not exist; check the path.")
    if path.is_dir():
        if not tiff_slices(path):
            raise ValueError(
                f"folder {path} holds no TIFF images; one TIFF file a view is expected."
            )
        return ImageStack(read_tiff_slices(path).array)
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        return ImageStack(read_tiff(path).array)
    if suffix == NPY:
        return ImageStack(_read_npy(path))
    if suffix in ITK_SUFFIXES:
        return _read_itk(path)
    raise ValueError(
        f"images {path} have the type {path.suffix!r}; a folder of TIFF images or a file "
        f"{', '.join(SUFFIXES)} is expected."
    )


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"images {path} cannot be read as NPY: the file is damaged.") from error


def _read_itk(path: Path) -> ImageStack:
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"images {path} cannot be read: the file is damaged.") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise ValueError(f"images {path} are in colours; grey values, one a pixel, are expected.")
    pitch, first = image.GetSpacing(), image.GetOrigin()
    return ImageStack(SimpleITK.GetArrayFromImage(image), pitch[1::-1], first[1::-1])
