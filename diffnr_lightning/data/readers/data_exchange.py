"""Raw scans in Data Exchange files, the HDF5 layout of synchrotron beamlines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffnr_lightning.data.readers.raw_scan import AngleUnit, RawScan, radians

SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs")
KEYS = ("data", "data_white", "data_dark", "theta")
ORDER = ("theta", "y", "x")
UNITS = {
    **dict.fromkeys(("deg", "degree", "degrees", "°"), "deg"),
    **dict.fromkeys(("rad", "radian", "radians"), "rad"),
}


def read_data_exchange(path: Path, angle_unit: AngleUnit = "file") -> RawScan:
    """Read ``data``, ``data_white``, ``data_dark`` and ``theta`` of the group ``exchange``.

    The attribute ``units`` of ``theta`` is honoured (degrees where there is none), and so is the
    attribute ``axes`` of the three images. ``data`` without one is ``theta:y:x``; fields without one
    lie as its views do, one image or a stack of them.

    Args:
        path: the file.
        angle_unit: of ``theta``; ``"file"`` takes what the attribute says.

    Raises:
        ValueError: a damaged file, a missing entry, files that it points to and that are missing, a compression that
            is not installed, an unknown unit or order of axes, or shapes that disagree.

    Source: F. De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw
    and analyzed data", J. Synchrotron Rad. 21 (2014); theta is in degrees there.
    """
    try:
        with h5py.File(path, "r") as file:
            entries = _entries(file, path)
            axes = _axes(entries["data"]) or ORDER
            views = ("theta", *(name for name in axes if name != "theta"))
            orders = (axes, views, views)
            arrays = [
                _images(entries[key], path, order) for key, order in zip(KEYS, orders, strict=False)
            ]
            theta = np.asarray(entries["theta"][()])
            unit = _text(entries["theta"].attrs.get("units"))
    except PermissionError as error:
        # What HDF5 says spans several sentences.
        raise ValueError(f"scan {path} cannot be read: Permission denied.") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f"scan {path} cannot be read as HDF5: it is damaged.") from error
    where = f"exchange/theta of {path}"
    if unit and unit.lower() not in UNITS and angle_unit == "file":
        raise ValueError(
            f"{where} has the unit {unit!r}; degrees or radians are expected, or say "
            "angle_unit=deg or angle_unit=rad."
        )
    if not np.issubdtype(theta.dtype, np.number):
        raise ValueError(f"{where} is of type {theta.dtype}; real numbers are expected.")
    stored = UNITS.get((unit or "deg").lower(), "deg")
    angles = radians(theta.astype(np.float64), stored, angle_unit, where)
    return RawScan(*arrays, angles, path.stem, str(path))


def _entries(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    exchange = file.get("exchange")
    held = exchange if isinstance(exchange, h5py.Group) else {}
    for key in KEYS:
        if not isinstance(held.get(key), h5py.Dataset):
            link = exchange.get(key, getlink=True) if held else None
            if isinstance(link, h5py.ExternalLink):
                raise _missing(f"exchange/{key} of {path}", link.filename)
            raise ValueError(
                f"scan {path} lacks 'exchange/{key}'; a Data Exchange file with {', '.join(KEYS)} "
                "is expected."
            )
    return {key: held[key] for key in KEYS}


def _images(entry: h5py.Dataset, path: Path, otherwise: Sequence[str]) -> np.ndarray:
    """Return a stack of images in the order theta, y, x, or one image in the order y, x; other shapes as they are.

    Args:
        entry: the images.
        path: of the file, for messages.
        otherwise: order of the axes where the entry names none.
    """
    _check_stored(entry, path)
    array = np.asarray(entry[()])
    if array.ndim not in (2, 3):
        return array
    wanted = ORDER[-array.ndim :]
    names = _axes(entry) or otherwise
    names = [name for name in names if name in wanted or name != "theta"]
    if sorted(names) != sorted(wanted):
        raise ValueError(
            f"{entry.name} of {path} has the axes {':'.join(names)!r}; "
            f"{'theta, y' if array.ndim == 3 else 'y'} and x in some order are expected."
        )
    return array.transpose([names.index(name) for name in wanted])


def _axes(entry: h5py.Dataset) -> list[str]:
    """Return the names of the axes, none where there are none; fields call theta theta_white and theta_dark."""
    axes = _text(entry.attrs.get("axes"))
    return [name.strip().split("_")[0] for name in axes.split(":")] if axes else []


def _check_stored(entry: h5py.Dataset, path: Path) -> None:
    """Refuse what HDF5 would read as zeros, for want of a file, or as damage, for want of a filter."""
    where = f"{entry.name.lstrip('/')} of {path}"
    if entry.is_virtual:
        folders = [path.parent, Path(), Path(os.environ.get("HDF5_VDS_PREFIX", ""))]
        for name in dict.fromkeys(source.file_name for source in entry.virtual_sources()):
            # Patterns, such as scan_%b.h5, are left to HDF5; a dot is the file itself.
            if "%" not in name and not any((folder / name).exists() for folder in folders):
                raise _missing(where, name)
    properties = entry.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, *_, name = properties.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            called = f"{code} {name.decode(errors='replace')}".rstrip()
            raise ValueError(
                f"{where} is compressed by the filter {called}, which HDF5 does not find; pip install hdf5plugin and "
                "set HDF5_PLUGIN_PATH to its PLUGIN_PATH, or save the file with gzip."
            )


def _missing(where: str, name: str) -> ValueError:
    return ValueError(f"{where} lies in the file {name}, which is missing; put it where it was.")


def _text(attribute: Any) -> str:
    """Return an attribute as text; HDF5 has it as text, bytes or an array of one."""
    if attribute is None:
        return ""
    value = np.asarray(attribute).ravel()[0] if np.size(attribute) else ""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.strip()
