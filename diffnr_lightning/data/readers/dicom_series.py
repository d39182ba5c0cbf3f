"""DICOM series: one folder of slices, as archives such as TCIA hand them out.

Source: DICOM PS3.3 (C.7.6.2 image plane, C.8.2.1 CT image with its Hounsfield units and gantry
tilt, C.7.5.1.1.2 pixel padding, C.7.6.3 photometric interpretation).
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffnr_lightning.data.readers.dicom_damage import check_none_cut, is_dicom
from diffnr_lightning.data.readers.dicom_frames import frame_fields
from diffnr_lightning.data.readers.itk_images import quietly
from diffnr_lightning.data.readers.stored_volume import StoredVolume
from diffnr_lightning.files import folders_below

if TYPE_CHECKING:
    import SimpleITK

LOGGER = logging.getLogger("diffnr")
MODALITY, PHOTOMETRY = "0008|0060", "0028|0004"
POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
PADDING, PADDING_LIMIT, SIGNED = "0028|0120", "0028|0121", "0028|0103"
INTERCEPT, SLOPE, RESCALE_TYPE = "0028|1052", "0028|1053", "0028|1054"
# Share of the distance of slices by which one may differ: some scanners round positions to a tenth of a millimetre.
EVENNESS = 0.2
# Direction cosines are written with six digits; slices of one stack differ by no more.
ORIENTATION_TOLERANCE = 1e-3
# Slices that move sideways by this share of a pixel from one to the next are a tilted gantry's:
# over 100 slices it comes to a pixel.
TILT_TOLERANCE = 0.01
AIR_HU = -1000.0
INDEX = "DICOMDIR"
FIRST_FILES = 3


@dataclass(frozen=True, eq=False)
class Slice:
    """Hold one slice of a series: the values (H, W) as float32, and its header's fields by tag."""

    file: Path
    values: np.ndarray
    fields: dict[str, str]

    def numbers(self, tag: str, count: int) -> np.ndarray:
        """Return the numbers of a field.

        Raises:
            ValueError: it does not hold as many.
        """
        try:
            numbers = np.array([float(n) for n in self.fields[tag].split("\\")])
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise ValueError(
                f"DICOM file {self.file} has {self.fields[tag]!r} in ({tag.replace('|', ',')}); "
                f"{count} numbers are expected."
            )
        return numbers

    @property
    def position(self) -> np.ndarray:
        """The centre of the first pixel, (x, y, z) in mm."""
        return self.numbers(POSITION, 3)

    @property
    def orientation(self) -> np.ndarray:
        """Direction cosines of the rows, then of the columns, (6,)."""
        return self.numbers(ORIENTATION, 6)

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance of rows and of columns; 1 where the file does not say."""
        return tuple(self.numbers(PIXEL_SPACING, 2)) if PIXEL_SPACING in self.fields else (1.0, 1.0)


def series_in(folder: Path) -> tuple[str, ...]:
    """Return the identifiers of the series in a folder, none where there is no DICOM file.

    Raises:
        ValueError: a file whose header is damaged.
    """
    import SimpleITK

    try:
        return tuple(quietly(lambda: SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))))
    except RuntimeError as error:
        raise ValueError(
            f"folder {folder} holds a DICOM file that cannot be read: its header is damaged."
        ) from error


def series_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each series in a folder by its identifier.

    Raises:
        ValueError: a file whose header is damaged.
    """
    import SimpleITK

    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames
    return {
        uid: [Path(file) for file in quietly(lambda uid=uid: names(str(folder), uid))]
        for uid in series_in(folder)
    }


def folders_with_series(folder: Path, most: int | None = None) -> list[Path]:
    """Return the folders that hold DICOM files, judged by their first files alone, from one folder downwards.

    Hidden files and folders, such as those that a Mac leaves beside every file, are passed over.

    Args:
        folder: where to begin.
        most: folders that are looked into; None is all.
    """
    found = []
    for place, files in islice(folders_below(folder, hidden=False), most):
        # The index of a CD is no slice.
        seen = sorted(f for f in files if not f.startswith(".") and f.upper() != INDEX)
        if any(is_dicom(place / file) for file in seen[:FIRST_FILES]):
            found.append(place)
    return found


def read_series(folder: Path, spacing_given: bool = False) -> StoredVolume:
    """Read the only series of a folder, in the order of the slices' positions.

    Values are stored value times RescaleSlope plus RescaleIntercept of each slice, so HU for CT;
    pixels that PixelPaddingValue marks as outside of the picture become air, in other units than
    HU the smallest value of the others. A gantry's tilt is taken out by shifting each slice in its
    plane (linear interpolation, air beyond its border).

    Args:
        folder: of the slices.
        spacing_given: whether the voxel size is known otherwise, so that PixelSpacing may lack.

    Raises:
        ValueError: several series, a single slice, slices that cannot be read, differ in size or
            orientation, or are not evenly spaced, as where one is missing; colours; an enhanced
            multi-frame file whose frames have no place of their own; no voxel size.
    """
    slices = [one for file in _files(folder) for one in _read_file(file)]
    slices = _ordered(slices, folder)
    if PIXEL_SPACING not in slices[0].fields and not spacing_given:
        affine = np.eye(4)
        remark = "has no PixelSpacing, so the size of its voxels is not known"
        return StoredVolume(_stacked(slices), affine, _unit(slices[0]), "unknown", remark)
    array, affine = _straightened(_stacked(slices), slices, folder)
    return StoredVolume(array, affine, _unit(slices[0]))


def _files(folder: Path) -> list[Path]:
    """Return the files of the only series."""
    series = series_files(folder)
    if len(series) != 1:
        listed = ", ".join(f"{uid} of {len(files)} slices" for uid, files in series.items())
        raise ValueError(
            f"folder {folder} holds {len(series)} DICOM series ({listed}); one is expected: move "
            "the slices of the one that is wanted to a folder of their own."
        )
    (files,) = series.values()
    check_none_cut(folder, files)
    return files


def _read_file(file: Path) -> list[Slice]:
    """Return the slice in a file, or the frames of an enhanced one."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    # Each slice has its own slope; in the first one's number type others would be cut to integers.
    reader.SetOutputPixelType(SimpleITK.sitkFloat64)
    try:
        quietly(reader.ReadImageInformation)
        header = {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}
        if reader.GetNumberOfComponents() != 1:
            raise ValueError(
                f"DICOM file {file} is in colours ({header.get(PHOTOMETRY, 'unknown')}); grey "
                "values are expected."
            )
        inverted = header.get(PHOTOMETRY) == "MONOCHROME1"
        image = _read_as_stored(reader, file) if inverted else quietly(reader.Execute)
    except RuntimeError as error:
        raise ValueError(f"DICOM file {file} cannot be read: it is damaged.") from error
    array = SimpleITK.GetArrayFromImage(image)
    alone = len(array) == 1 and POSITION in header
    frames = [{}] if alone else _frames(file, len(array))
    return [
        _without_padding(Slice(file, values.astype(np.float32), header | fields))
        for values, fields in zip(array, frames, strict=True)
    ]


def _frames(file: Path, count: int) -> list[dict[str, str]]:
    """Return the fields of the frames of an enhanced file, whose values ITK scales alike."""
    frames = frame_fields(file)
    scales = {(fields.get(SLOPE, "1"), fields.get(INTERCEPT, "0")) for fields in frames}
    if len(frames) != count or len(scales) > 1:
        raise ValueError(
            f"DICOM file {file} is a multi-frame file of {count} frames with {len(frames)} "
            f"descriptions and {len(scales)} rescales; one description a frame and one rescale for "
            "all are expected: convert it to single-frame slices first."
        )
    return frames


def _read_as_stored(reader: SimpleITK.ImageFileReader, file: Path) -> SimpleITK.Image:
    """Read a MONOCHROME1 slice without the inversion that ITK does for displays.

    MONOCHROME1 says that the smallest value is shown white. The rescale that makes HU applies to
    stored values, not to inverted ones. Both words are equally long, so a copy that says
    MONOCHROME2 is the same file otherwise.
    """
    content = file.read_bytes()
    if b"MONOCHROME1" not in content:
        raise ValueError(
            f"DICOM file {file} is MONOCHROME1 in a compressed header, which is not read; convert "
            "it to MONOCHROME2 first."
        )
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "slice.dcm")
        copy.write_bytes(content.replace(b"MONOCHROME1", b"MONOCHROME2", 1))
        reader.SetFileName(str(copy))
        return quietly(reader.Execute)


def _without_padding(one: Slice) -> Slice:
    """Return a slice with NaN where PixelPaddingValue (to its limit) is stored, for CT."""
    if not one.fields.get(PADDING) or one.fields.get(MODALITY) != "CT":
        return one

    def number(tag: str, missing: float) -> float:
        return float(one.numbers(tag, 1)[0]) if one.fields.get(tag) else missing

    slope, intercept = number(SLOPE, 1.0), number(INTERCEPT, 0.0)
    bounds = [int(number(tag, 0.0)) for tag in (PADDING, PADDING_LIMIT) if one.fields.get(tag)]
    if one.fields.get(SIGNED) == "1":
        # The field's number type is unsigned in some files whose pixels are signed.
        bounds = [n - (1 << 16) if n >= 1 << 15 else n for n in bounds]
    low, high = (slope * n + intercept for n in (min(bounds), max(bounds)))
    slack = 1e-3 * abs(slope)
    padded = (one.values >= low - slack) & (one.values <= high + slack)
    return replace(one, values=np.where(padded, np.float32(np.nan), one.values))


def _unit(first: Slice) -> str | None:
    """Return the unit that the header states; a CT image without RescaleType is in HU."""
    stated = first.fields.get(RESCALE_TYPE, "").upper()
    if not stated and first.fields.get(MODALITY) == "CT" and first.fields.get(INTERCEPT):
        return "HU"
    return {"": None, "US": None, "HU": "HU"}.get(stated, "arbitrary")


def _ordered(slices: list[Slice], folder: Path) -> list[Slice]:
    """Sort slices along their normal, and refuse what is no stack of evenly spaced slices."""
    if len(slices) < 2:
        raise ValueError(f"folder {folder} holds one DICOM slice; at least two are expected.")
    for one in slices:
        if not all(one.fields.get(tag) for tag in (POSITION, ORIENTATION)):
            raise ValueError(
                f"the DICOM series in {folder} does not say where its slices lie; "
                f"ImagePositionPatient and ImageOrientationPatient are expected in each (not in "
                f"{one.file.name})."
            )
    _check_alike(slices, folder)
    row, column = np.reshape(slices[0].orientation, (2, 3))
    along = np.cross(row, column)
    slices = sorted(slices, key=lambda one: float(one.position @ along))
    steps = np.diff([one.position @ along for one in slices])
    usual = float(np.median(steps))
    if usual <= 0:
        first = int(steps.argmin())
        raise ValueError(
            f"the DICOM series in {folder} has most slices twice or more at one place, such as "
            f"{slices[first].file.name} and {slices[first + 1].file.name}; move what is there again, or "
            "another series, to a folder of its own."
        )
    wrong = np.abs(steps - usual) > EVENNESS * usual
    if wrong.any():
        first = int(wrong.argmax())
        names = [slices[first].file.name, slices[first + 1].file.name]
        fault = "is there twice" if steps[first] <= EVENNESS * usual else "may be missing"
        raise ValueError(
            f"the DICOM series in {folder} is not evenly spaced: {steps[first]:.3g} mm from "
            f"{names[0]} to {names[1]} where {usual:.3g} mm is expected; a slice {fault}."
        )
    return slices


def _check_alike(slices: list[Slice], folder: Path) -> None:
    """Refuse slices of another size, pixel size or orientation than most have."""
    kinds = [(one.values.shape, one.spacing_mm, tuple(one.orientation.round(2))) for one in slices]
    usual = Counter(kinds).most_common(1)[0][0]
    odd = [n for n, kind in enumerate(kinds) if kind[0] != usual[0]]
    if odd:
        raise ValueError(
            f"the DICOM series in {folder} has slices of two sizes: {slices[odd[0]].file.name} has "
            f"{kinds[odd[0]][0]} pixels where {usual[0]} is usual; move a scout or another "
            "picture to a folder of its own."
        )
    reference = slices[kinds.index(usual)]
    for one in slices:
        turned = np.abs(one.orientation - reference.orientation).max()
        if turned > ORIENTATION_TOLERANCE:
            raise ValueError(
                f"the DICOM series in {folder} has slices of two orientations: that of "
                f"{one.file.name} is {one.fields[ORIENTATION]} where "
                f"{reference.fields[ORIENTATION]} is usual; move it to a folder of its own."
            )
        if not np.allclose(one.spacing_mm, reference.spacing_mm, rtol=1e-4):
            raise ValueError(
                f"the DICOM series in {folder} has slices of two pixel sizes: {one.spacing_mm} mm "
                f"in {one.file.name} where {reference.spacing_mm} mm is usual."
            )


def _stacked(slices: list[Slice]) -> np.ndarray:
    """Return the values (K, H, W) of all slices, with air in the place of padding."""
    array = np.stack([one.values for one in slices])
    padded = np.isnan(array)
    if padded.any():
        # In another unit -1000 may lie anywhere, and would pass for the air of HU.
        in_hu = _unit(slices[0]) == "HU"
        array[padded] = AIR_HU if in_hu else np.fmin.reduce(array, axis=None)
    return array


def _straightened(
    array: np.ndarray, slices: list[Slice], folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return the stack on a grid of perpendicular axes, and its affine (i, j, k) to mm.

    The slices of a tilted gantry lie above each other along the table, not along their normal. On
    a grid whose third axis is the normal, each is its neighbour shifted in the plane.

    Args:
        array: (K, H, W).
        slices: that it was stacked from.
        folder: how a warning names the series.
    """
    row, column = np.reshape(slices[0].orientation, (2, 3))
    row = row / np.linalg.norm(row)
    column = column - row * (row @ column)
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    first, last = (slices[n].position for n in (0, -1))
    step = (last - first) / (len(slices) - 1)
    down, across = slices[0].spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * across, column * down, normal * (normal @ step)], axis=1)
    affine[:3, 3] = first
    # Pixels (down, across) by which each slice lies beside the one before.
    sideways = np.array([column @ step / down, row @ step / across])
    if np.abs(sideways).max() <= TILT_TOLERANCE:
        return array, affine
    angle = np.rad2deg(np.arccos(np.clip(normal @ step / np.linalg.norm(step), -1, 1)))
    LOGGER.warning(
        "%s was acquired with a gantry tilted by %.1f degrees; its slices are shifted onto a "
        "straight grid",
        folder.name, angle,
    )  # fmt: skip
    shifts = np.arange(len(slices))[:, None] * sideways
    before = np.ceil(np.maximum(-shifts.min(axis=0), 0)).astype(int)
    after = np.ceil(np.maximum(shifts.max(axis=0), 0)).astype(int)
    affine[:3, 3] -= affine[:3, :2] @ before[::-1]
    return _shifted(array, shifts + before, before + after), affine


def _shifted(array: np.ndarray, shifts: np.ndarray, wider: np.ndarray) -> np.ndarray:
    """Shift each slice (H, W) by its pixels (down, across) into a picture `wider` than it was."""
    from scipy import ndimage

    height, width = np.add(array.shape[1:], wider)
    outside = float(array.min())
    result = np.full((len(array), height, width), outside, dtype=np.float32)
    for image, shift, target in zip(array, shifts, result, strict=True):
        ndimage.affine_transform(
            image, np.ones(2), -shift, (height, width), target, order=1, cval=outside
        )
    return result
