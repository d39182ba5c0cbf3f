"""TIFF files of many pages, and folders of TIFF slices.

Voxel sizes come from OME's or ImageJ's metadata, or from the resolution that the TIFF standard
defines.

Source: TIFF 6.0 (XResolution, YResolution, ResolutionUnit, PhotometricInterpretation), the OME
data model (PhysicalSizeX and its unit, micrometres where none is named), and ImageJ's
ImageDescription (unit, spacing; resolution in pixels per unit; calibration of values by a function
cf with coefficients c0, c1, ...; its FileSaver leaves out a spacing of 1).
"""

from __future__ import annotations

import logging
import re
import struct
import xml.etree.ElementTree
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffnr_lightning.data.readers.length_units import in_millimetres
from diffnr_lightning.data.readers.stored_volume import StoredVolume, centred_affine

if TYPE_CHECKING:
    import tifffile

LOGGER = logging.getLogger("diffnr")
TIFF_SUFFIXES = (".tif", ".tiff")
INCH_MM = 25.4
RESOLUTION_UNITS_MM = {2: INCH_MM, 3: 10.0}
# Resolutions that image programs write where they know none, in dots per inch.
PRINT_DPI = (1, 72, 75, 90, 96, 100, 120, 150, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200)
WHITE_IS_ZERO, COLOURS, PALETTE = 0, 2, 3
# ImageJ's numbers of functions of values: c0 + c1 * value, and none.
STRAIGHT_LINE, UNCALIBRATED = 0, 20
# Versions of ImageJ that tell of themselves; tifffile writes that of the year 2000 in the place of its own.
OWN_VERSION, TIFFFILES_VERSION = re.compile(r"1\.\d{1,2}[a-z]?"), "1.11a"
# What tifffile says of a chain of pages that breaks off, of a stack with fewer pages than its
# description names, and of one whose other files are missing, before it goes on with what is there.
INCOMPLETE = (
    "invalid page offset",
    "failed to reshape",
    "corrupted file",
    "missing data",
    "missing files",
    "failed to read",
    "incompletely written",
)
# tifffile's parser meets damaged tags with whatever Python raises there.
PARSER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    struct.error,
    zlib.error,
)
# The package by which tifffile unpacks LZW, JPEG and more, and which it asks for by name.
CODECS = "imagecodecs"


class PixelSize(NamedTuple):
    """Voxel edges (z, y, x) in mm, each None where the file does not say, and what else is known of it."""

    edges: tuple[float | None, float | None, float | None]
    remark: str = ""


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts names as people count: ``slice_9`` before ``slice_10``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def tiff_slices(folder: Path) -> list[Path]:
    """Return the TIFF files of a folder in natural order, without hidden ones (macOS's ``._x.tif``)."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in TIFF_SUFFIXES and f.is_file()]
    files = [file for file in files if not file.name.startswith(".")]
    return sorted(files, key=lambda file: (natural_key(file.stem), file.name))


def read_tiff(path: Path) -> StoredVolume:
    """Read a TIFF file of many pages, the first lowest.

    Raises:
        ValueError: damaged or truncated, colours, images of several sizes, or values that ImageJ calibrated by
            something else than a straight line.
    """
    what = f"TIFF file {path}"
    with _opened(path) as tif:
        _check_photometry(tif.pages[0], what)
        if len(tif.series) > 1:
            sizes = ", ".join("x".join(map(str, s.shape)) for s in tif.series[:3])
            raise ValueError(
                f"{what} holds {len(tif.series)} series of images (of {sizes}); one stack of "
                "slices of one size is expected."
            )
        series = tif.series[0]
        array = series.asarray()
        lengths = [n for n in array.shape if n > 1]
        if array.ndim > 3:
            array = array.reshape(lengths)
        axes = "".join(a for a, n in zip(series.axes, series.shape, strict=True) if n > 1)
        if set(axes) & set("TC") and array.ndim == 3:
            LOGGER.warning(
                "%s: its %d pages are called %s; they are taken for slices",
                path.name, len(array), "times" if "T" in axes else "channels",
            )  # fmt: skip
        return _sized(_calibrated(array, tif, what), _pixel_size(tif))


def read_tiff_slices(
    folder: Path, each: Callable[[np.ndarray], np.ndarray] | None = None
) -> StoredVolume:
    """Read a folder of equally large TIFF slices in natural order of their names, first lowest.

    Args:
        folder: of the slices.
        each: what is kept of every image (H, W), as soon as it is read; None is all of it.

    Raises:
        ValueError: a file that is damaged, in colours, of another size, or of more pages than one, or whose values
            ImageJ calibrated by something else than a straight line; or names of several kinds, as of two stacks in
            one folder.
    """
    files = tiff_slices(folder)
    _check_names(files, folder)
    slices: list[np.ndarray] = []
    first: tuple[int, ...] | None = None
    size = PixelSize((None, None, None))
    for file in files:
        with _opened(file) as tif:
            _check_photometry(tif.pages[0], f"TIFF file {file}")
            if len(tif.pages) > 1:
                raise ValueError(
                    f"TIFF slice {file} holds {len(tif.pages)} pages; one image a file is expected "
                    "in a folder of slices: name the file itself if it is the whole stack."
                )
            image = tif.pages[0].asarray()
            size = size if slices else _pixel_size(tif)
            image = _calibrated(image, tif, f"TIFF file {file}")
        first = first or image.shape
        if image.ndim != 2 or image.shape != first:
            raise ValueError(
                f"TIFF slice {file} has shape {image.shape}; every slice of the folder must be an "
                f"image of one size (the first has {first})."
            )
        slices.append(image if each is None else each(image))
    return _sized(np.stack(slices), size)


class _Complaints(logging.Handler):
    """Collect what tifffile says about a damaged file, which it goes on reading."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.severe = False

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().lower()
        self.severe |= any(words in text for words in INCOMPLETE)


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file; what goes wrong while it is read becomes one sentence."""
    import tifffile

    complaints = _Complaints()
    log = logging.getLogger("tifffile")
    propagates, log.propagate = log.propagate, False
    log.addHandler(complaints)
    message = (
        f"TIFF file {path} cannot be read: it is truncated, damaged, or one of several files of a "
        "stack that are not all there."
    )
    try:
        with tifffile.TiffFile(path) as tif:
            if not len(tif.pages) or not tif.pages[0].size:
                raise ValueError(f"TIFF file {path} cannot be read: it holds no image.")
            yield tif
    except (tifffile.TiffFileError, *PARSER_ERRORS) as error:
        raise ValueError(message) from error
    except ValueError as error:
        if f"requires the '{CODECS}' package" in str(error):
            raise ValueError(
                f"TIFF file {path} is compressed by {tif.pages[0].compression.name}, which the package {CODECS} "
                f"unpacks; pip install {CODECS}, or save it without compression or with DEFLATE."
            ) from error
        raise (error if str(path) in str(error) else ValueError(message)) from error
    finally:
        log.removeHandler(complaints)
        log.propagate = propagates
    if complaints.severe:
        raise ValueError(message)


def _check_photometry(page: tifffile.TiffPage, what: str) -> None:
    photometric = int(page.photometric)
    if page.samplesperpixel > 1 or photometric in (COLOURS, PALETTE):
        raise ValueError(
            f"{what} is in colours ({page.samplesperpixel} values a pixel or a palette); grey "
            "values, one a pixel, are expected."
        )
    if photometric == WHITE_IS_ZERO:
        LOGGER.warning("%s says that zero is white; its values are kept as they are stored", what)


def _calibrated(array: np.ndarray, tif: tifffile.TiffFile, what: str) -> np.ndarray:
    """Return the values that ImageJ shows: it stores signed numbers, such as HU, as unsigned ones and a line."""
    described = (tif.imagej_metadata or {}) if tif.is_imagej else {}
    function = described.get("cf", UNCALIBRATED)
    if function == UNCALIBRATED:
        return array
    if function != STRAIGHT_LINE:
        raise ValueError(
            f"{what} has values that ImageJ calibrated by its function {function}; a straight line is expected: "
            "convert the image to 32-bit in ImageJ, which applies it, and save it again."
        )
    coefficients = [described.get(name) for name in ("c0", "c1")]
    try:
        offset, slope = map(float, coefficients)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{what} has values that ImageJ calibrated by a straight line of {coefficients}; two numbers, c0 and c1, "
            "are expected in its ImageDescription."
        ) from error
    return array.astype(np.float32) * np.float32(slope) + np.float32(offset)


def _check_names(files: list[Path], folder: Path) -> None:
    """Refuse two stacks in one folder; warn where numbers are missing."""
    kinds = Counter(re.sub(r"\d+", "#", file.stem) for file in files)
    if len(kinds) > 1 and max(kinds.values()) > 1:
        (first, one), (second, other) = kinds.most_common(2)
        raise ValueError(
            f"folder {folder} holds TIFF files of several kinds ({one} called {first}, {other} "
            f"called {second}); the slices of one volume are expected: move them to a folder of "
            "their own."
        )
    numbers = np.array([[int(n) for n in re.findall(r"\d+", file.stem)] for file in files], object)
    if len(kinds) > 1 or len(files) < 3 or not numbers.size:
        return
    for column in numbers.T.astype(float):
        steps = np.diff(column)
        usual = np.median(steps)
        if (steps > usual).any() and usual > 0:
            gap = int((steps > usual).argmax())
            LOGGER.warning(
                "%s: from %s to %s the numbers step by %d where %d is usual; a slice may be "
                "missing, and slices are taken as evenly spaced",
                folder.name, files[gap].name, files[gap + 1].name, steps[gap], usual,
            )  # fmt: skip


def _sized(array: np.ndarray, size: PixelSize) -> StoredVolume:
    """Return the volume with the voxel edges that are known."""
    z, y, x = size.edges
    if array.ndim != 3:
        return StoredVolume(array, np.eye(4))
    if y is None or x is None:
        remark = size.remark or "stores no voxel size"
        return StoredVolume(array, centred_affine(array.shape), spacing="assumed", remark=remark)
    if z is None:
        LOGGER.warning(
            "the TIFF header has pixels of %.4g x %.4g mm but no distance of slices%s; it is taken "
            "to be %.4g mm too (give spacing_mm if it is another)",
            y, x, size.remark, x,
        )  # fmt: skip
    return StoredVolume(array, centred_affine(array.shape, (z or x, y, x)))


def _pixel_size(tif: tifffile.TiffFile) -> PixelSize:
    try:
        if tif.is_ome:
            return _ome_size(tif.ome_metadata)
        if tif.is_imagej:
            return _imagej_size(tif)
        return _resolution_size(tif.pages[0])
    except (ValueError, TypeError, ZeroDivisionError, xml.etree.ElementTree.ParseError) as error:
        return PixelSize((None, None, None), f"has a voxel size that cannot be read ({error})")


def _ome_size(description: str) -> PixelSize:
    root = xml.etree.ElementTree.fromstring(description)
    pixels = next(node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels")
    edges = []
    for axis in "ZYX":
        length = float(pixels.get(f"PhysicalSize{axis}", "nan"))
        unit = in_millimetres(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"))
        edges.append(length * unit if unit and 0 < length < np.inf else None)
    return PixelSize(tuple(edges))


def _imagej_size(tif: tifffile.TiffFile) -> PixelSize:
    described = tif.imagej_metadata or {}
    unit = in_millimetres(str(described.get("unit", "")))
    distance = abs(float(described.get("spacing", "nan")))
    size = _size_by_resolution(tif.pages[0], unit, distance if 0 < distance < np.inf else None)
    z, y, x = size.edges
    if z is not None or y is None or "spacing" in described or described.get("images", 1) < 2:
        return size
    version = str(described.get("ImageJ", ""))
    if OWN_VERSION.fullmatch(version) and version != TIFFFILES_VERSION:
        return PixelSize((unit, y, x))
    return PixelSize(size.edges, f", which ImageJ takes for {unit:.4g} mm")


def _resolution_size(page: tifffile.TiffPage) -> PixelSize:
    tag = page.tags.get("ResolutionUnit")
    # 2, the inch, is the standard's default where there is a resolution without a unit.
    return _size_by_resolution(page, RESOLUTION_UNITS_MM.get(int(tag.value) if tag else 2), None)


def _size_by_resolution(
    page: tifffile.TiffPage, unit_mm: float | None, distance: float | None
) -> PixelSize:
    """Return the pixel size by resolutions in pixels per unit, and the slices' distance in units."""
    down, across = (_resolution(page, tag) for tag in ("YResolution", "XResolution"))
    if unit_mm is None or down is None or across is None:
        return PixelSize((None, None, None))
    dpi = across * INCH_MM / unit_mm
    # ImageJ carries the dots per inch of a picture along as if they were its scale.
    printed = unit_mm in RESOLUTION_UNITS_MM.values()
    if printed and distance is None and any(abs(dpi - known) < 0.5 for known in PRINT_DPI):
        remark = f"has {dpi:.0f} dots per inch, which image programs write where they know no size"
        return PixelSize((None, None, None), remark)
    thick = None if distance is None else distance * unit_mm
    return PixelSize((thick, unit_mm / down, unit_mm / across))


def _resolution(page: tifffile.TiffPage, name: str) -> float | None:
    """Return pixels per unit, None where there is no such tag or it is not positive."""
    tag = page.tags.get(name)
    if tag is None or not (np.ndim(tag.value) and tag.value[1]):
        return None
    pixels = tag.value[0] / tag.value[1]
    return pixels if pixels > 0 else None
