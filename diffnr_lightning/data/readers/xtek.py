"""Settings of a scan as scanners of Nikon (X-Tek) write them beside their images."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import NamedTuple

SUFFIX = ".xtekct"
SECTION = "XTekCT"


class XtekScan(NamedTuple):
    """Hold what an ``.xtekct`` file says of a scan.

    Attributes:
        source_to_axis_mm: ``SrcToObject``.
        source_to_detector_mm: ``SrcToDetector``.
        pixel_mm: pitch (v, u), ``DetectorPixelSizeY`` and ``DetectorPixelSizeX``.
        step_deg: ``AngularStep``.
        white_level: counts without object, ``WhiteLevel``; the images are divided by their flat field already.
    """

    source_to_axis_mm: float
    source_to_detector_mm: float
    pixel_mm: tuple[float, float]
    step_deg: float
    white_level: float


KEYS = (
    "SrcToObject",
    "SrcToDetector",
    "DetectorPixelSizeY",
    "DetectorPixelSizeX",
    "AngularStep",
    "WhiteLevel",
)


def read_xtek(path: Path) -> XtekScan:
    """Read an ``.xtekct`` file. Its first angle, which turns the volume alone, and its centre of rotation are not used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, or without one of the numbers that are needed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"geometry {path} does not exist; check the path.")
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig", errors="replace"))
        found = [float(parser.get(SECTION, key)) for key in KEYS]
    except (configparser.NoSectionError, configparser.NoOptionError) as error:
        raise ValueError(
            f"geometry {path} lacks [{SECTION}] or one of {', '.join(KEYS)} in it; the file of a scanner of Nikon is "
            "expected."
        ) from error
    except (configparser.Error, ValueError, OSError) as error:
        raise ValueError(
            f"geometry {path} cannot be read: it is damaged, or holds words for numbers."
        ) from error
    to_axis, to_detector, pitch_v, pitch_u, step, white = found
    return XtekScan(to_axis, to_detector, (pitch_v, pitch_u), step, white)
