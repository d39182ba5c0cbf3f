"""MetaImage (``.mha``, ``.mhd``) and NRRD files (``.nrrd``, ``.nhdr``), read by ITK.

What ITK passes over in their headers is read here: units of length, and MetaImage's scale of
values.

Source: the format definitions of MetaIO (DistanceUnits, ElementToIntensityFunction) and of NRRD
(`units`, `space units`).
"""

from __future__ import annotations

from collections.abc import Callable
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
    with path.open("rb") as file:
        head = file.read(MOST_HEADER_BYTES)
    fields: dict[str, str] = {}
    nrrd = path.suffix.lower() in NRRD_SUFFIXES
    for line in head.decode("utf-8", errors="replace").splitlines():
        if nrrd and not line.strip():
            break
        key, found, value = line.partition(":" if nrrd else "=")
        if found and not line.startswith("#"):
            fields[key.strip().lower()] = value.lstrip("=").strip()
        if key.strip().lower() == "elementdatafile":
            break
    return fields


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
