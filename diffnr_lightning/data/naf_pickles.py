"""Scans in NAF's format: one pickle with scanner, projections, angles and, where known, the truth.

A pickle is a program. This one is run by a machine that knows arrays of numbers and plain
containers only; whatever else it asks for is refused before it is touched. NumPy's own
reconstruction is replaced as well, because a crafted element type can make it write outside its
memory.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.data.case_folder.metadata import described_geometry
from diffnr_lightning.data.cases import Case, plausible
from diffnr_lightning.data.plausibility import ARC_TOLERANCE_RAD, check_angles
from diffnr_lightning.data.volumes import checked_volume
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid

SUFFIXES = (".pickle", ".pkl")
# The files count projections in metres and all lengths in millimetres.
MM_PER_METRE = 1000.0
SCANNER_KEYS = ("DSD", "DSO", "nDetector", "dDetector", "nVoxel", "dVoxel")
# What a broken or hostile stream can raise while it is run; RuntimeError covers endless recursion.
BREAKDOWNS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


def read_naf_pickle(path: str | Path) -> Case:
    """Read a scan that was written for NAF, SAX-NeRF or, in that format, for R2-Gaussian.

    Ground truth (``image``) and the views under ``val``, which become test views, are optional.
    Projections are turned from metres to millimetres, the truth from (x, y, z) to (Z, Y, X).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no pickle, a pickle of other things than arrays of numbers and plain
            containers, missing keys, contradictory geometry, wrong shapes, NaN, fewer than two views.

    Source: the format of NAF's generator of data: lengths in mm; nVoxel, dVoxel, offOrigin and
    image in (x, y, z); nDetector and dDetector in (v, u), but offDetector in (u, v); angles in
    radians, totalAngle and startAngle in degrees; row 0 of a projection is the top. NAF's renderer
    reads nDetector as (u, v) and counts offDetector's v downwards; the generator, which made the
    projections, decides here. Its val views cover 180 degrees whatever totalAngle says.
    """
    path = Path(path)
    data = _unpickled(path)
    scan, projections, grid = _views(data, "train", path)
    _check_arc(data, path)
    volume = None
    if data.get("image") is not None:
        volume = _truth(data["image"], grid, path)
    test_scan, test_projections = None, None
    if data.get("val") is not None:
        test_scan, test_projections, _ = _views(data, "val", path)
        angles = _numbers(data["val"]["angles"], "val angles", path)
        check_angles(angles, None, f"NAF pickle {path}, val,")
    case = Case(
        name=path.stem,
        scan=scan,
        projections=projections,
        grid=grid,
        test_scan=test_scan,
        test_projections=test_projections,
        volume=volume,
        source=str(path),
        provenance={"kind": "NAF pickle"},
    )
    return plausible(case, f"NAF pickle {path}", unit="metres times the unit of the image")


class _RefusedError(Exception):
    """The stream asks for something that is neither an array of numbers nor a plain container."""


class _NumberType:
    """The element type of an array; numbers only."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise _RefusedError(f"an array of type {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _Array:
    """An array of numbers, filled when the stream gives its content."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.values = _shaped(content, kind, shape, "F" if fortran else "C")


def _shaped(content: bytes, kind: _NumberType, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order)


def _empty(*_: Any) -> _Array:
    return _Array()


def _array(content: bytes, kind: _NumberType, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.values = _shaped(content, kind, shape, order)
    return array


def _number_type(code: str, *_: Any) -> _NumberType:
    return _NumberType(code)


def _number(kind: _NumberType, content: bytes) -> float:
    return np.frombuffer(content, kind.dtype)[0].item()


def _latin_bytes(text: str, _: str) -> bytes:
    return text.encode("latin1")


# NumPy 1 and 2 name the same functions differently. `_codecs.encode` is how protocol 2 and older
# spell bytes.
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _number_type,
    ("_codecs", "encode"): _latin_bytes,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _empty
    _KNOWN[f"{_core}.multiarray", "scalar"] = _number
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _array


class _NumbersOnly(pickle.Unpickler):
    """Run a pickle that may ask for nothing but arrays of numbers."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"{module}.{name}")
        return _KNOWN[module, name]


def _unpickled(path: Path) -> Mapping[str, Any]:
    """Return the dictionary in the file, its arrays as `_Array`."""
    try:
        with path.open("rb") as file:
            data = _NumbersOnly(file).load()
    except FileNotFoundError:
        raise FileNotFoundError(f"NAF pickle {path} does not exist; check the path.") from None
    except OSError as error:
        raise ValueError(f"NAF pickle {path} cannot be read: {error.strerror}.") from error
    except _RefusedError as error:
        raise ValueError(
            f"NAF pickle {path} holds {error}, which is refused; only arrays of numbers and plain "
            f"containers are read."
        ) from error
    except BREAKDOWNS as error:
        raise ValueError(
            f"NAF pickle {path} is truncated, damaged or no pickle; copy or generate it again."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"NAF pickle {path} holds no dictionary; keys DSD, train, ... are expected."
        )
    for key in (*SCANNER_KEYS, "train"):
        if key not in data:
            raise ValueError(
                f"NAF pickle {path} lacks the key {key!r}; {', '.join(SCANNER_KEYS)} and train are "
                f"expected."
            )
    return data


def _numbers(value: Any, what: str, path: Path) -> np.ndarray:
    """Return an array, a number or a list of numbers as a finite array."""
    try:
        array = value.values if isinstance(value, _Array) else np.asarray(value)
        if array.dtype == object or not np.issubdtype(array.dtype, np.number):
            raise ValueError
    except (ValueError, AttributeError):
        raise ValueError(f"NAF pickle {path} has a {what} that is not made of numbers.") from None
    if not np.isfinite(array).all():
        raise ValueError(
            f"NAF pickle {path} has a {what} with NaN or infinite values; finite ones are expected."
        )
    return array


def _scanner(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the numbers of the scanner under R2-Gaussian's keys, in mm."""
    given = {
        key: _numbers(data[key], key, path).tolist()
        for key in (*SCANNER_KEYS, "offOrigin", "offDetector")
        if data.get(key) is not None
    }
    scanner = {key: value for key, value in given.items() if not key.startswith("d")}
    for what in ("Detector", "Voxel"):
        counts, edges = np.atleast_1d(given[f"n{what}"]), np.atleast_1d(given[f"d{what}"])
        if counts.shape != edges.shape:
            raise ValueError(
                f"NAF pickle {path} has n{what} {given[f'n{what}']} and d{what} "
                f"{given[f'd{what}']}; as many of one as of the other are expected."
            )
        scanner[f"s{what}"] = (counts * edges).tolist()
    if "offDetector" in scanner:
        scanner["offDetector"] = np.atleast_1d(scanner["offDetector"])[::-1].tolist()
    scanner["mode"] = data.get("mode", "cone")
    return scanner


def _views(
    data: Mapping[str, Any], part: str, path: Path
) -> tuple[ScanGeometry, Tensor, VolumeGrid]:
    """Return geometry, projections (V, H, W) in mm and grid of the views under `part`."""
    views = data[part]
    if not isinstance(views, dict) or not {"projections", "angles"} <= views.keys():
        raise ValueError(
            f"NAF pickle {path} has no projections and angles under {part!r}; both are expected."
        )
    angles = _numbers(views["angles"], f"{part} angles", path)
    projections = _numbers(views["projections"], f"{part} projections", path)
    if angles.ndim != 1 or projections.ndim != 3 or len(angles) != len(projections):
        raise ValueError(
            f"NAF pickle {path} has {part} angles of shape {angles.shape} and projections of shape "
            f"{projections.shape}; (views,) and (views, rows, columns) are expected."
        )
    least, count_key = (2, "numTrain") if part == "train" else (1, "numVal")
    if len(angles) < least:
        raise ValueError(
            f"NAF pickle {path} has {len(angles)} view(s) under {part!r}; at least {least} are "
            f"expected."
        )
    stated = data.get(count_key)
    if stated is not None and _numbers(stated, count_key, path).tolist() != len(angles):
        raise ValueError(
            f"NAF pickle {path} has another {count_key} than the {len(angles)} views it holds; they "
            f"must agree."
        )
    entries = [(str(index), float(angle)) for index, angle in enumerate(angles)]
    scan, grid = described_geometry(_scanner(data, path), {}, part, entries, path)
    if projections.shape[1:] != scan.detector_shape:
        raise ValueError(
            f"NAF pickle {path} has {part} projections of {projections.shape[1:]} pixels; nDetector "
            f"(rows, columns) asks for {scan.detector_shape}."
        )
    millimetres = (MM_PER_METRE * projections).astype(np.float32)
    return scan, torch.from_numpy(np.ascontiguousarray(millimetres)), grid


def _truth(image: Any, grid: VolumeGrid, path: Path) -> Tensor:
    values = _numbers(image, "image", path)
    if values.shape != grid.shape[::-1]:
        raise ValueError(
            f"NAF pickle {path} has an image of shape {values.shape} (x, y, z); nVoxel asks for "
            f"{grid.shape[::-1]}."
        )
    turned = checked_volume(values.transpose(2, 1, 0), f"image of {path}")
    # The bytes of a pickle are read-only.
    return torch.from_numpy(turned.copy())


def _check_arc(data: Mapping[str, Any], path: Path) -> None:
    """Refuse views that lie outside the arc the file states, such as angles in degrees."""
    angles = _numbers(data["train"]["angles"], "train angles", path)
    if data.get("totalAngle") is None:
        check_angles(angles, None, f"NAF pickle {path}")
        return
    total = _numbers(data["totalAngle"], "totalAngle", path)
    span = float(np.ptp(angles))
    if total.ndim or span > np.deg2rad(total) + ARC_TOLERANCE_RAD:
        raise ValueError(
            f"NAF pickle {path} has train angles that span {span:.4g} rad, more than its totalAngle "
            f"of {total.tolist()} degrees; angles are expected in radians, totalAngle in degrees."
        )
