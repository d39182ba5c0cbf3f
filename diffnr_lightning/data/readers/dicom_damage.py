"""Slices of a DICOM folder that were cut short.

GDCM lists the files of a series that it can read, and passes over the others in silence: whole files that are no
images, such as contours and reports, which is right, and slices of which a copy or a download left the beginning, which
loses them.

Source: DICOM PS3.10 (chapter 7, the meta header of a file and its SOP class).
"""

from __future__ import annotations

import struct
from pathlib import Path

DICOM_MAGIC = b"DICM"
PREAMBLE = 132
SUFFIX = ".dcm"
# MediaStorageSOPClassUID, the third element of a meta header.
SOP_CLASS = struct.pack("<HH2s", 0x0002, 0x0002, b"UI")
HEAD = 512


def is_dicom(file: Path) -> bool:
    """Return whether a file says that it is a DICOM file."""
    return _head(file)[:PREAMBLE].endswith(DICOM_MAGIC)


def check_none_cut(folder: Path, listed: list[Path]) -> None:
    """Refuse a folder in which slices were left out of the series because they are damaged.

    Args:
        folder: of the slices; hidden files in it are passed over.
        listed: the files of its series.

    Raises:
        ValueError: a file that is not listed, though it is of the kind of the slices, or ends before it says its kind.
    """
    known = {file.name for file in listed}
    kind = _sop_class(_head(listed[0]))
    for file in sorted(folder.iterdir()):
        if file.name in known or file.name.startswith(".") or not file.is_file():
            continue
        if _is_cut(file, kind):
            raise ValueError(
                f"DICOM file {file} cannot be read: it is damaged or was cut short ({file.stat().st_size} bytes); copy "
                "it anew, or move it away if the series is whole without it."
            )


def _is_cut(file: Path, kind: bytes | None) -> bool:
    head = _head(file)
    if len(head) < PREAMBLE:
        return file.suffix.lower() == SUFFIX
    if not head[:PREAMBLE].endswith(DICOM_MAGIC):
        return False
    found = _sop_class(head)
    return found == kind or (found is None and len(head) < HEAD)


def _sop_class(head: bytes) -> bytes | None:
    """Return what kind of object a file holds; None where its beginning does not say."""
    at = head.find(SOP_CLASS, PREAMBLE)
    value = at + len(SOP_CLASS) + 2
    if at < 0 or value > len(head):
        return None
    (length,) = struct.unpack_from("<H", head, value - 2)
    # Of a file that ends here, a part would be another kind.
    return head[value : value + length].strip(b" \0") if value + length <= len(head) else None


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            return content.read(HEAD)
    except OSError:
        return b""
