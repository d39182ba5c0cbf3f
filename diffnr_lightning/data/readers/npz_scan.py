"""Raw scans in NPZ archives."""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from diffnr_lightning.data.readers.raw_scan import AngleUnit, RawScan, radians

SUFFIXES = (".npz",)
FIELDS = ("raw", "flat", "dark")
ANGLES = {"angles_deg": "deg", "angles_rad": "rad"}


def read_npz(path: Path, angle_unit: AngleUnit = "file") -> RawScan:
    """Read ``raw`` (V, H, W), ``flat``, ``dark`` and ``angles_deg`` or ``angles_rad`` (V,).

    ``flat`` and ``dark`` are (H, W), a stack of such, or one number.

    Args:
        path: the archive.
        angle_unit: of the angles; ``"file"`` takes it from the name of the entry.

    Raises:
        ValueError: a damaged file, a missing entry or shapes that disagree.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except PermissionError as error:
        raise ValueError(f"scan {path} cannot be read: {error.strerror}.") from error
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        AttributeError,  # of an array alone, of which Python 3.10 says that it cannot be entered
        RuntimeError,  # of which NotImplementedError is one: a kind of compression that there is not
        BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"scan {path} cannot be read as an NPZ archive: it is damaged.") from error
    key = next((key for key in ANGLES if key in arrays), None)
    missing = [name for name in FIELDS if name not in arrays] + ([] if key else ["angles_deg"])
    if missing:
        hint = "; dark = 0 says that it was subtracted already" if missing == ["dark"] else ""
        raise ValueError(
            f"scan {path} lacks {missing[0]!r}; raw, flat, dark and angles_deg or angles_rad are "
            f"expected{hint}."
        )
    angles = _numbers(arrays[key], f"{key} of {path}")
    fields = (arrays[name] for name in FIELDS)
    return RawScan(
        *fields, radians(angles, ANGLES[key], angle_unit, f"{key} of {path}"), path.stem, str(path)
    )


def _numbers(angles: np.ndarray, where: str) -> np.ndarray:
    if not np.issubdtype(angles.dtype, np.number) or np.iscomplexobj(angles):
        raise ValueError(f"{where} is of type {angles.dtype}; real numbers are expected.")
    return angles.astype(np.float64)
