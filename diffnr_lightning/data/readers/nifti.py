"""NIfTI-1 and NIfTI-2 files, one file a volume (``.nii``, ``.nii.gz``).

Read here and not by ITK, which turns NaN into zeros, fills what a truncated file lacks with zeros
and takes the quaternion where the header's two descriptions of the axes differ, all silently.

Source: the headers nifti1.h and nifti2.h of the NIfTI Data Format Working Group (byte offsets,
codes, and methods 1 to 3 of placing voxels).
"""

from __future__ import annotations

import gzip
import logging
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffnr_lightning.data.readers.stored_volume import StoredVolume, centred_affine

LOGGER = logging.getLogger("diffnr")
GZIP_MAGIC = b"\x1f\x8b"
NUMBER_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
OTHER_TYPES = {
    1: "single bits",
    32: "complex numbers",
    128: "colours (RGB)",
    1536: "128-bit numbers",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "colours (RGBA)",
}
# The lower three bits of xyzt_units; 0 is "unknown", which everybody takes for mm.
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
# NIfTI's x runs to the right and its y to the front; DICOM's to the left and to the back.
TO_DICOM = np.diag([-1.0, -1.0, 1.0, 1.0])
# Voxel edges of pixdim and of the affine that differ by a smaller share are the same, rounded.
EDGE_TOLERANCE = 1e-3
SCALE = ("scl_slope", "scl_inter")
# Field -> kind of number and first byte.
NIFTI_1 = {
    "dim": ("8h", 40),
    "datatype": ("h", 70),
    "pixdim": ("8f", 76),
    "vox_offset": ("f", 108),
    "scl_slope": ("f", 112),
    "scl_inter": ("f", 116),
    "xyzt_units": ("b", 123),
    "qform_code": ("h", 252),
    "sform_code": ("h", 254),
    "quatern": ("3f", 256),
    "qoffset": ("3f", 268),
    "srow": ("12f", 280),
}
NIFTI_2 = {
    "dim": ("8q", 16),
    "datatype": ("h", 12),
    "pixdim": ("8d", 104),
    "vox_offset": ("q", 168),
    "scl_slope": ("d", 176),
    "scl_inter": ("d", 184),
    "xyzt_units": ("i", 500),
    "qform_code": ("i", 344),
    "sform_code": ("i", 348),
    "quatern": ("3d", 352),
    "qoffset": ("3d", 376),
    "srow": ("12d", 400),
}


@dataclass(frozen=True)
class NiftiHeader:
    """Hold the fields of a header that decide what its values are and where they lie.

    Attributes:
        order: ``"<"`` or ``">"``.
        shape: (I, J, K, ...) without trailing ones beyond three.
        datatype: code of the number type.
        pixdim: handedness of the quaternion, then voxel edges in the file's unit.
        offset: first byte of the values.
        slope: of the values; 0 where they are not scaled.
        intercept: of the values.
        units: code of the unit of lengths.
        qform_code: whether the quaternion is used, and for what.
        sform_code: whether the rows are used, and for what.
        quaternion: (b, c, d).
        shift: translation (x, y, z) that belongs to the quaternion.
        rows: (3, 4) of the general affine.
    """

    order: str
    shape: tuple[int, ...]
    datatype: int
    pixdim: tuple[float, ...]
    offset: int
    slope: float
    intercept: float
    units: int
    qform_code: int
    sform_code: int
    quaternion: tuple[float, float, float]
    shift: tuple[float, float, float]
    rows: np.ndarray


def read_nifti(path: Path) -> StoredVolume:
    """Read a volume with every field of its header that bears on values or place.

    Values are scaled by scl_slope and scl_inter; lengths are turned from the header's unit to mm.
    The affine is the sform's where there is one, otherwise the quaternion's; a warning names both
    where they differ by more than half a voxel.

    Raises:
        ValueError: damaged or truncated, several volumes, colours or complex numbers, or a unit
            that is no length.
    """
    what = f"volume {path}"
    content = _content(path, what)
    header = _header(content, what)
    if header.datatype not in NUMBER_TYPES:
        kind = OTHER_TYPES.get(header.datatype, f"values of the unknown type {header.datatype}")
        raise ValueError(f"{what} holds {kind}; one real number a voxel is expected.")
    if len(header.shape) != 3 or 0 in header.shape:
        shape = "x".join(map(str, header.shape))
        raise ValueError(
            f"{what} has the shape {shape} (no volume, several, or several values a voxel); one "
            "three-dimensional volume is expected: save the one that is wanted."
        )
    numbers = np.dtype(header.order + NUMBER_TYPES[header.datatype])
    count = math.prod(header.shape)
    stored = len(content) - header.offset
    if stored < count * numbers.itemsize:
        raise ValueError(
            f"{what} cannot be read: it is truncated, with {max(stored, 0)} bytes of values where "
            f"{count * numbers.itemsize} are expected."
        )
    values = np.frombuffer(content, numbers, count, header.offset)
    array = values.reshape(header.shape[::-1]).astype(numbers.newbyteorder("="), copy=False)
    if header.slope != 0 and (header.slope, header.intercept) != (1.0, 0.0):
        array = array.astype(np.float64) * header.slope + header.intercept
    return _placed(array, header, path)


def _content(path: Path, what: str) -> bytes:
    """Return the bytes of a file, uncompressed where they are compressed, whatever its name."""
    content = path.read_bytes()
    try:
        return gzip.decompress(content) if content[:2] == GZIP_MAGIC else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{what} cannot be read: its compression is damaged or truncated."
        ) from error


def _header(content: bytes, what: str) -> NiftiHeader:
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", content.ljust(4, b"\0"))
        if size == 348 and len(content) >= 352 and content[344:347] == b"n+1":
            return _fields(content, order, NIFTI_1, 352)
        if size == 540 and len(content) >= 544 and content[4:7] == b"n+2":
            return _fields(content, order, NIFTI_2, 544)
    raise ValueError(
        f"{what} cannot be read: it is damaged, empty or no NIfTI file (a header of its own in "
        "an .hdr file is not read; convert it to .nii)."
    )


def _fields(
    content: bytes, order: str, layout: dict[str, tuple[str, int]], first: int
) -> NiftiHeader:
    found = {
        name: struct.unpack_from(order + kind, content, place)
        for name, (kind, place) in layout.items()
    }
    # A scale that is no number scales nothing.
    slope, intercept = (float(np.nan_to_num(found[name][0], posinf=0, neginf=0)) for name in SCALE)
    return NiftiHeader(
        order=order,
        shape=_shape(found["dim"]),
        datatype=found["datatype"][0],
        pixdim=found["pixdim"],
        # Values cannot begin inside of the header; some writers leave 0 there.
        offset=max(int(np.nan_to_num(found["vox_offset"][0], posinf=0, neginf=0)), first),
        slope=slope,
        intercept=intercept,
        units=found["xyzt_units"][0] & 7,
        qform_code=found["qform_code"][0],
        sform_code=found["sform_code"][0],
        quaternion=found["quatern"],
        shift=found["qoffset"],
        rows=np.reshape(found["srow"], (3, 4)),
    )


def _shape(dim: tuple[int, ...]) -> tuple[int, ...]:
    shape = [max(n, 0) for n in dim[1 : 1 + min(max(dim[0], 0), 7)]]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def _placed(array: np.ndarray, header: NiftiHeader, path: Path) -> StoredVolume:
    what = f"volume {path}"
    if header.units not in UNIT_MM:
        raise ValueError(
            f"{what} has the unit code {header.units} for its lengths; metre, millimetre or "
            "micrometre (1 to 3) is expected."
        )
    edges = np.abs(header.pixdim[1:4]) * UNIT_MM[header.units]
    sized = bool((np.isfinite(edges) & (edges > 0)).all())
    if not sized and header.sform_code <= 0:
        affine = centred_affine(array.shape)
        return StoredVolume(array, affine, spacing="assumed", remark="stores no voxel size")
    forms = _forms(header)
    if not forms:
        LOGGER.warning(
            "%s says nothing about its axes (qform_code and sform_code are 0); they are taken to "
            "run to the patient's left, back and head",
            path.name,
        )
        return StoredVolume(array, np.diag([*edges, 1.0]))
    affine = forms.get("sform", forms.get("qform"))
    _compare_forms(forms, array.shape[::-1], path)
    affine = _as_wide_as(edges, affine, path) if sized else affine
    return StoredVolume(array, TO_DICOM @ affine)


def _forms(header: NiftiHeader) -> dict[str, np.ndarray]:
    """Return the affines (i, j, k) to NIfTI's mm that the header holds, by name."""
    scale = UNIT_MM[header.units]
    forms = {}
    if header.sform_code > 0:
        forms["sform"] = np.vstack([header.rows * scale, [0, 0, 0, 1]])
    if header.qform_code > 0:
        b, c, d = header.quaternion
        a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        edges = np.abs(header.pixdim[1:4])
        edges = edges * [1, 1, -1 if header.pixdim[0] < 0 else 1]
        forms["qform"] = np.eye(4)
        forms["qform"][:3, :3] = turn * edges * scale
        forms["qform"][:3, 3] = np.multiply(header.shift, scale)
    return forms


def _compare_forms(forms: dict[str, np.ndarray], shape: tuple[int, int, int], path: Path) -> None:
    """Warn where two affines put a corner of the volume elsewhere by more than half a voxel."""
    if len(forms) < 2:
        return
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1])).reshape(4, -1)
    apart = np.linalg.norm((forms["sform"] - forms["qform"])[:3] @ corners, axis=0).max()
    if apart > 0.5 * np.linalg.norm(forms["sform"][:3, :3], axis=0).min():
        LOGGER.warning(
            "%s: its sform (x, y, z of voxel axes: %s) and its qform (%s) differ by up to %.3g mm; "
            "the sform is used",
            path.name, *(_written(forms[name]) for name in ("sform", "qform")), apart,
        )  # fmt: skip


def _written(affine: np.ndarray) -> str:
    columns = [f"[{', '.join(f'{n:.4g}' for n in column)}]" for column in affine[:3, :3].T]
    return " ".join(columns) + f" from [{', '.join(f'{n:.5g}' for n in affine[:3, 3])}]"


def _as_wide_as(edges: np.ndarray, affine: np.ndarray, path: Path) -> np.ndarray:
    """Return the affine with exactly the voxel edges of pixdim, or its own where those differ."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    share = edges / np.where(lengths > 0, lengths, np.inf)
    if np.allclose(share, 1, atol=EDGE_TOLERANCE):
        return affine * np.array([*share, 1.0])
    LOGGER.warning(
        "%s: its voxel edges are %s mm by pixdim and %s mm by its affine; the affine is used",
        path.name, *(" x ".join(f"{n:.4g}" for n in numbers) for numbers in (edges, lengths)),
    )  # fmt: skip
    return affine
