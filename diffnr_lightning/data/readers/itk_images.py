"""MetaImage (``.mha``, ``.mhd``) and NRRD files (``.nrrd``, ``.nhdr``), read by ITK.

What ITK passes over in their headers is read here: units of length, and MetaImage's scale of
values.

Source: the format definitions of MetaIO (DistanceUnits, ElementToIntensityFunction) and of NRRD
(`units`, `space units`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from diffnr_lightning.data.readers.length_units import in_millimetres
from diffnr_lightning.data.readers.stored_volume import StoredVolume

if TYPE_CHECKING:
    import SimpleITK

Result = TypeVar("Result")

META_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
# What a header says in the place of the file of its values: they follow it, or their files do.
LOCAL, LIST = "LOCAL", "LIST"
# Headers are text in front of the values; longer than this is none.
MOST_HEADER_BYTES = 1 << 20


def read_itk(path: Path) -> StoredVolume:
    """Read a MetaImage or NRRD file.

    Raises:
        ValueError: damaged or truncated, not one three-dimensional volume of single numbers, or a
            unit that is no length.
    """
    what = f"volume {path}"
    image = _image(path, what)
    array = _array(image)
    affine = _affine(image)
    fields = _header_fields(path)
    if path.suffix.lower() in META_SUFFIXES:
        return _meta_image(array, affine, fields, what)
    return _nrrd(array, affine, fields)


def data_files(path: Path) -> list[Path]:
    """Return the files in which a header says that its values lie; none of a file that holds them itself.

    Args:
        path: of the header. It names one file, a pattern with its numbers, or a list in the lines that follow.
    """
    key, separator = ("data ?file", ":") if _is_nrrd(path) else ("elementdatafile", "=")
    entry = re.compile(rf"\s*{key}\s*{separator}\s*(\S.*)", re.IGNORECASE)
    lines = iter(_header_lines(path))
    named = next((match[1].strip() for match in map(entry.match, lines) if match), LOCAL)
    first = named.split()[0]
    if named.upper() == LOCAL:
        return []
    if first.upper() == LIST:
        return [path.parent / line.strip() for line in lines if line.strip()]
    return [path.parent / name for name in (_numbered(named) if "%" in first else [named])]


def _numbered(entry: str) -> list[str]:
    """Return the names that a pattern stands for, as in `slice_%03d.raw 1 40 1`; none of another kind of entry."""
    pattern, *numbers = entry.split()
    try:
        first, last, step = (int(number) for number in (*numbers, "1")[:3])
        return [pattern % number for number in range(first, last + 1, step)]
    except (TypeError, ValueError):
        return []


def quietly(read: Callable[[], Result]) -> Result:
    """Call `read` without ITK's warnings on the terminal, and return what it returns."""
    import SimpleITK

    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return read()
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)


def _image(path: Path, what: str) -> SimpleITK.Image:
    import SimpleITK

    try:
        image = quietly(lambda: SimpleITK.ReadImage(str(path)))
    except RuntimeError as error:
        raise ValueError(
            f"{what} cannot be read: it is damaged, truncated, not of its type, or its data file "
            "is missing."
        ) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        shape = "x".join(map(str, image.GetSize()))
        raise ValueError(
            f"{what} has the size {shape} with {image.GetNumberOfComponentsPerPixel()} value(s) a "
            "voxel (several volumes, colours or vectors); one three-dimensional volume of single "
            "numbers is expected."
        )
    return image


def _array(image: SimpleITK.Image) -> np.ndarray:
    import SimpleITK

    return SimpleITK.GetArrayFromImage(image)


def _affine(image: SimpleITK.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def _header_fields(path: Path) -> dict[str, str]:
    """Return the lines ``key = value`` or ``key: value`` of a header, keys in small letters."""
    fields: dict[str, str] = {}
    nrrd = _is_nrrd(path)
    for line in _header_lines(path):
        key, found, value = line.partition(":" if nrrd else "=")
        if found and not line.startswith("#"):
            fields[key.strip().lower()] = value.lstrip("=").strip()
        if key.strip().lower() == "elementdatafile":
            break
    return fields


def _header_lines(path: Path) -> list[str]:
    """Return the first lines of a file; of NRRD those up to the empty one that ends its header."""
    with path.open("rb") as file:
        head = file.read(MOST_HEADER_BYTES)
    lines = head.decode("utf-8", errors="replace").splitlines()
    return list(takewhile(str.strip, lines)) if _is_nrrd(path) else lines


def _is_nrrd(path: Path) -> bool:
    return path.suffix.lower() in NRRD_SUFFIXES


def _meta_image(
    array: np.ndarray, affine: np.ndarray, fields: dict[str, str], what: str
) -> StoredVolume:
    slope, offset = (
        _number(fields.get(f"elementtointensityfunction{name}", otherwise), what)
        for name, otherwise in (("slope", "1"), ("offset", "0"))
    )
    if (slope, offset) != (1.0, 0.0):
        array = array * slope + offset
    try:
        scale = in_millimetres(fields.get("distanceunits"))
    except ValueError as error:
        return _without_size(array, affine, f"has DistanceUnits {error}")
    affine = np.diag([*[scale or 1.0] * 3, 1.0]) @ affine
    if not {"elementspacing", "elementsize"} & set(fields):
        return StoredVolume(array, affine, spacing="assumed", remark="stores no ElementSpacing")
    return StoredVolume(array, affine)


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"{what} has an ElementToIntensityFunction of {text!r}, which is no number."
        ) from error


def _nrrd(array: np.ndarray, affine: np.ndarray, fields: dict[str, str]) -> StoredVolume:
    stated = [fields[name] for name in ("space directions", "spacings") if name in fields]
    # NaN is how the format says that a spacing is not known.
    if all("nan" in text.lower() for text in stated):
        remark = "stores neither space directions nor spacings"
        return StoredVolume(array, affine, spacing="assumed", remark=remark)
    try:
        world = [in_millimetres(word) or 1.0 for word in _words(fields.get("space units", ""))]
        along = [in_millimetres(word) or 1.0 for word in _words(fields.get("units", ""))]
    except ValueError as error:
        return _without_size(array, affine, f"has units of which {error}")
    if len(world) == 3:
        affine = np.diag([*world, 1.0]) @ affine
    elif len(along) == 3:
        affine = affine @ np.diag([*along, 1.0])
    return StoredVolume(array, affine)


def _words(text: str) -> list[str]:
    """Split NRRD's list of units: quoted strings, or words where nothing is quoted."""
    return text.split('"')[1::2] if '"' in text else text.split()


def _without_size(array: np.ndarray, affine: np.ndarray, remark: str) -> StoredVolume:
    return StoredVolume(array, affine, spacing="unknown", remark=remark)
