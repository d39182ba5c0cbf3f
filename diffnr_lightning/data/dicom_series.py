"""DICOM series: one folder of slices, as archives such as TCIA hand them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

POSITION_TAG, ORIENTATION_TAG = "0020|0032", "0020|0037"
# Positions are rounded to hundredths of a millimetre by some scanners.
EVENNESS_MM = 0.05


def series_in(folder: Path) -> tuple[str, ...]:
    """Return the identifiers of the series in a folder, none where there is no DICOM file."""
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return tuple(SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)


def read_series(folder: Path) -> SimpleITK.Image:
    """Read the only series of a folder, in the order of the slices' positions.

    Values are stored value times RescaleSlope plus RescaleIntercept, so HU for CT.

    Raises:
        ValueError: several series, a single slice, slices that cannot be read, or slices that are
            not evenly spaced, as where one is missing.
    """
    found = series_in(folder)
    if len(found) != 1:
        listed = ", ".join(found)
        raise ValueError(
            f"folder {folder} holds {len(found)} DICOM series ({listed}); one is expected: move "
            "the slices of the one that is wanted to a folder of their own."
        )
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0])
    if len(files) < 2:
        raise ValueError(f"folder {folder} holds one DICOM slice; at least two are expected.")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(
            f"the DICOM series in {folder} cannot be read: a slice is damaged or of another size."
        ) from error
    _check_spacing(reader, files, folder)
    return image


def _check_spacing(
    reader: SimpleITK.ImageSeriesReader, files: tuple[str, ...], folder: Path
) -> None:
    """Refuse slices whose distances differ: ITK would stretch them to even ones."""
    tags = (POSITION_TAG, ORIENTATION_TAG)
    if not all(reader.HasMetaDataKey(n, tag) for n in range(len(files)) for tag in tags):
        raise ValueError(
            f"the DICOM series in {folder} does not say where its slices lie; ImagePositionPatient "
            "and ImageOrientationPatient are expected in each."
        )
    row, column = np.reshape(_numbers(reader, 0, ORIENTATION_TAG), (2, 3))
    along = np.cross(row, column)
    places = np.array([_numbers(reader, n, POSITION_TAG) @ along for n in range(len(files))])
    steps = np.diff(places)
    wrong = np.abs(steps - np.median(steps)) > EVENNESS_MM
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"the DICOM series in {folder} is not evenly spaced: {steps[first]:.2f} mm from "
            f"{Path(files[first]).name} to {Path(files[first + 1]).name} where "
            f"{np.median(steps):.2f} mm is expected; a slice may be missing."
        )


def _numbers(reader: SimpleITK.ImageSeriesReader, slice_number: int, tag: str) -> np.ndarray:
    return np.array([float(n) for n in reader.GetMetaData(slice_number, tag).split("\\")])
