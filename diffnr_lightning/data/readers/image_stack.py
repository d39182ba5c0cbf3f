"""Images of a detector as files hold them: stacks, folders of images, or one image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffnr_lightning.data.readers.raw_scan import view_blocks
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
        images: (N, h, w) in the order of the file, in the type in which they are stored.
        shape: rows and columns of the file's images.
        pixel_mm: pitch of its rows and columns (v, u); None where it does not say.
        first_mm: place of its first pixel (v, u), as ITK's files have it; likewise.
    """

    images: np.ndarray
    shape: tuple[int, int]
    pixel_mm: tuple[float, float] | None = None
    first_mm: tuple[float, float] | None = None


def read_images(
    path: Path, each: Callable[[np.ndarray], np.ndarray] = lambda images: images
) -> ImageStack:
    """Read a TIFF file, a folder of TIFF images in natural order, NPY, or a stack of ITK (MHA, MHD, NRRD).

    Args:
        path: the file or folder.
        each: what is kept of images (n, H, W): (n, h, w). Of a folder no more than one image is held besides.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another type, a damaged file, or no images in it.
    """
    if not path.exists():
        raise FileNotFoundError(f"images {path} do not exist; check the path.")
    if path.is_dir():
        return _read_folder(path, each)
    suffix, pitch, first = path.suffix.lower(), None, None
    if suffix in TIFF_SUFFIXES:
        images = read_tiff(path).array
    elif suffix == NPY:
        images = _read_npy(path)
    elif suffix in ITK_SUFFIXES:
        images, pitch, first = _read_itk(path)
    else:
        raise ValueError(
            f"images {path} have the type {path.suffix!r}; a folder of TIFF images or a file "
            f"{', '.join(SUFFIXES)} is expected."
        )
    if images.ndim not in (2, 3) or not images.size:
        raise ValueError(
            f"images {path} have the shape {images.shape}; (views, rows, columns), or one image, is expected."
        )
    images = images.reshape(-1, *images.shape[-2:])
    kept = np.concatenate([each(images[views]) for views in view_blocks(images.shape)])
    return ImageStack(kept, images.shape[1:], pitch, first)


def check_folder(folder: Path) -> None:
    """Refuse a folder without images.

    Raises:
        ValueError: there is no TIFF file in it.
    """
    if not tiff_slices(folder):
        raise ValueError(f"folder {folder} holds no TIFF images; one TIFF file a view is expected.")


def _read_folder(folder: Path, each: Callable[[np.ndarray], np.ndarray]) -> ImageStack:
    check_folder(folder)
    shapes = []

    def one(image: np.ndarray) -> np.ndarray:
        shapes.append(image.shape)
        return each(image[None])[0]

    return ImageStack(read_tiff_slices(folder, one).array, shapes[0])


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"images {path} cannot be read as NPY: the file is damaged.") from error


def _read_itk(path: Path) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Return images, pitch and place of the first pixel (v, u)."""
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"images {path} cannot be read: the file is damaged.") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise ValueError(f"images {path} are in colours; grey values, one a pixel, are expected.")
    pitch, first = image.GetSpacing(), image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image), pitch[1::-1], first[1::-1]
