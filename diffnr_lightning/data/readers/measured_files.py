"""Measured projections in whatever file they lie: scans that are whole, or images with fields beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffnr_lightning.data.readers import data_exchange, image_stack, npz_scan
from diffnr_lightning.data.readers.raw_scan import AngleUnit, RawScan

READERS = {
    **dict.fromkeys(npz_scan.SUFFIXES, npz_scan.read_npz),
    **dict.fromkeys(data_exchange.SUFFIXES, data_exchange.read_data_exchange),
}


def read_raw(
    path: str | Path,
    angle_unit: AngleUnit = "file",
    *,
    flat: float | Path | None = None,
    dark: float | Path | None = None,
    line_integrals: bool = False,
) -> RawScan:
    """Read measured projections.

    Args:
        path: NPZ archive or Data Exchange HDF5 file with all that belongs to the scan (`npz_scan.read_npz`,
            `data_exchange.read_data_exchange`), or images alone (`image_stack.read_images`).
        angle_unit: of the angles in the file; ``"file"`` takes what the file says.
        flat: counts without object beside images alone: an image, a stack or one number.
        dark: counts without beam, likewise.
        line_integrals: whether images alone are -log of the transmission already; they need no fields then.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another type, a damaged file, a missing entry or field, or shapes that disagree.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"scan {path} does not exist; check the path.")
    reader = None if path.is_dir() else READERS.get(path.suffix.lower())
    if reader is not None:
        if flat is not None or dark is not None or line_integrals:
            raise ValueError(
                f"scan {path} holds its flat and dark field; flat, dark and line_integrals are for images alone."
            )
        return reader(path, angle_unit)
    if not path.is_dir() and path.suffix.lower() not in image_stack.SUFFIXES:
        raise ValueError(
            f"scan {path} has the type {path.suffix!r}; a file {', '.join([*READERS, *image_stack.SUFFIXES])} or a "
            "folder of TIFF images is expected."
        )
    return _of_images(path, flat, dark, line_integrals)


def _of_images(
    path: Path, flat: float | Path | None, dark: float | Path | None, line_integrals: bool
) -> RawScan:
    stack = image_stack.read_images(path)
    images = stack.images[None] if stack.images.ndim == 2 else stack.images
    if line_integrals:
        if flat is not None or dark is not None:
            raise ValueError(
                "flat or dark is given with line_integrals, of which they are divided out already; leave them out."
            )
        images, flat, dark = np.exp(-images.astype(np.float32)), 1.0, 0.0
    for name, field, done in (
        ("flat", flat, "1 if it was divided out"),
        ("dark", dark, "0 if it was subtracted"),
    ):
        if field is None:
            raise ValueError(
                f"scan {path} holds images alone, and --{name} is not given; give a file, or {done} already, or "
                "--line_integrals true if the images are -log of the transmission."
            )
    fields = [
        f if isinstance(f, float | int) else image_stack.read_images(Path(f)).images
        for f in (flat, dark)
    ]
    name = path.name if path.is_dir() else path.stem
    return RawScan(
        images, *map(np.asarray, fields), None, name, str(path), stack.pixel_mm, stack.first_mm
    )
