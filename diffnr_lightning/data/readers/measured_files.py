"""Measured projections in whatever file they lie: scans that are whole, or images with fields beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffnr_lightning.data.readers import data_exchange, npz_scan
from diffnr_lightning.data.readers.image_stack import SUFFIXES as IMAGES
from diffnr_lightning.data.readers.image_stack import ImageStack, check_folder, read_images
from diffnr_lightning.data.readers.raw_scan import AngleUnit, RawScan
from diffnr_lightning.data.readers.readout import Readout

READERS = {
    **dict.fromkeys(npz_scan.SUFFIXES, npz_scan.read_npz),
    **dict.fromkeys(data_exchange.SUFFIXES, data_exchange.read_data_exchange),
}


def holds_its_fields(path: str | Path) -> bool:
    """Return whether a file is of a type that holds a whole scan, with flat and dark field."""
    return Path(path).suffix.lower() in READERS


def read_raw(
    path: str | Path,
    angle_unit: AngleUnit = "file",
    *,
    flat: float | Path | None = None,
    dark: float | Path | None = None,
    line_integrals: bool = False,
    readout: Readout = Readout(),
) -> RawScan:
    """Read measured projections.

    Args:
        path: NPZ archive or Data Exchange HDF5 file with all that belongs to the scan (`npz_scan.read_npz`,
            `data_exchange.read_data_exchange`), or images alone (`image_stack.read_images`).
        angle_unit: of the angles in the file; ``"file"`` takes what the file says.
        flat: counts without object beside images alone: an image, a stack or one number.
        dark: counts without beam, likewise.
        line_integrals: whether images alone are -log of the transmission already; they need no fields then.
        readout: how the images are turned and binned.

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
        return reader(path, angle_unit).read_out(readout)
    if path.is_dir():
        check_folder(path)
    elif path.suffix.lower() not in IMAGES:
        raise ValueError(
            f"scan {path} has the type {path.suffix!r}; a file {', '.join([*READERS, *IMAGES])} or a "
            "folder of TIFF images is expected."
        )
    if line_integrals:
        return _of_line_integrals(path, flat, dark, readout)
    return _of_images(path, flat, dark, readout)


def _of_line_integrals(
    path: Path, flat: float | Path | None, dark: float | Path | None, readout: Readout
) -> RawScan:
    """Return the scan of the transmission, of which the images are -log."""
    if flat is not None or dark is not None:
        raise ValueError(
            "flat or dark is given with line_integrals, of which they are divided out already; leave them out."
        )
    stack = read_images(path, lambda images: readout(np.exp(-images.astype(np.float32))))
    return _scan(path, stack, float(readout.binning**2), 0.0, readout)


def _of_images(
    path: Path, flat: float | Path | None, dark: float | Path | None, readout: Readout
) -> RawScan:
    """Return the scan of counts, whose fields lie elsewhere."""
    for name, field, done in (
        ("flat", flat, "1 if it was divided out"),
        ("dark", dark, "0 if it was subtracted"),
    ):
        if field is None:
            raise ValueError(
                f"scan {path} holds images alone, and --{name} is not given; give a file, or {done} already, or "
                "--line_integrals true if the images are -log of the transmission."
            )
    fields = (
        field * readout.binning**2
        if isinstance(field, float | int)
        else read_images(Path(field), readout).images
        for field in (flat, dark)
    )
    return _scan(path, read_images(path, readout), *fields, readout)


def _scan(
    path: Path,
    stack: ImageStack,
    flat: float | np.ndarray,
    dark: float | np.ndarray,
    readout: Readout,
) -> RawScan:
    pitch = stack.pixel_mm
    return RawScan(
        stack.images,
        np.asarray(flat),
        np.asarray(dark),
        None,
        path.name if path.is_dir() else path.stem,
        str(path),
        pixel_mm=pitch[::-1] if pitch is not None and readout.transpose else pitch,
        # Where the file's first pixel lies says nothing of images that are turned.
        first_mm=None if readout.flip or readout.transpose else stack.first_mm,
        detector_shape=readout.upright(stack.shape),
        binning=readout.binning,
    )
