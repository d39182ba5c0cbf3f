"""What an enhanced (multi-frame) DICOM file says about each of its frames.

ITK reads the values of such a file but hands on no sequences, in which the frames' positions,
pixel sizes and rescale stand. They are read here, and nothing else.

Source: DICOM PS3.5 (chapter 7, data elements and sequences; A.1 and A.2, little endian) and PS3.3
(C.7.6.16, multi-frame functional groups).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

IMPLICIT = "1.2.840.10008.1.2"
# Written in another byte order, and compressed as a whole; all other syntaxes are explicit.
UNREADABLE = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
TRANSFER_SYNTAX, PIXEL_DATA = 0x00020010, 0x7FE00010
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
# Pixel measures, plane orientation, plane position, pixel value transformation.
GROUPS = (0x00289110, 0x00209116, 0x00209113, 0x00289145)
# Where kinds are not written, these are known to be sequences.
SEQUENCES = {SHARED_GROUPS, FRAME_GROUPS, *GROUPS}
ITEM_END, SEQUENCE_END, UNDEFINED = 0xFFFEE00D, 0xFFFEE0DD, 0xFFFFFFFF
# These kinds of value have four bytes of length after two of nothing.
LONG_KINDS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT",
              b"UV"}  # fmt: skip


def frame_fields(path: Path) -> list[dict[str, str]]:
    """Return the fields of every frame, shared ones included, by tag as ITK writes it.

    Raises:
        ValueError: no functional group for each frame, or a file that is damaged.
    """
    try:
        root = _root(path.read_bytes())
        shared = (root.get(SHARED_GROUPS) or [{}])[0]
        return [_fields(frame, shared) for frame in root[FRAME_GROUPS]]
    except (struct.error, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(
            f"DICOM file {path} does not say where its slices lie: neither a place of a single "
            "frame (ImagePositionPatient) nor those of a multi-frame file (per-frame functional "
            "groups) can be read; convert it to NIfTI first, for example by dcm2niix."
        ) from error


def _fields(frame: dict[int, Any], shared: dict[int, Any]) -> dict[str, str]:
    found = {}
    for group in GROUPS:
        for item in (frame.get(group) or shared.get(group) or [])[:1]:
            for tag, value in item.items():
                if isinstance(value, bytes):
                    name = f"{tag >> 16:04x}|{tag & 0xFFFF:04x}"
                    found[name] = value.decode("ascii", errors="replace").strip(" \0")
    return found


def _root(content: bytes) -> dict[int, Any]:
    """Return the elements of a file up to its pixels; sequences are lists of such dictionaries."""
    (length,) = struct.unpack_from("<I", content, 140)
    begin = 144 + length
    meta, _ = _elements(content, 132, begin, True)
    syntax = meta[TRANSFER_SYNTAX].decode("ascii").strip(" \0")
    if syntax in UNREADABLE:
        raise KeyError(syntax)
    return _elements(content, begin, len(content), syntax != IMPLICIT)[0]


def _elements(content: bytes, at: int, end: int, explicit: bool) -> tuple[dict[int, Any], int]:
    """Return the elements from byte `at` on and the byte after them."""
    found: dict[int, Any] = {}
    while at < end:
        tag = _tag(content, at)
        if tag == ITEM_END:
            return found, at + 8
        if tag == PIXEL_DATA:
            break
        kind, length, at = _kind_and_length(content, at + 4, explicit)
        if kind == b"SQ" or length == UNDEFINED or (not explicit and tag in SEQUENCES):
            # What is of unknown kind and length is a sequence in implicit form.
            found[tag], at = _items(content, at, length, explicit and kind != b"UN")
        else:
            found[tag] = content[at : at + length]
            at += length
    return found, at


def _items(
    content: bytes, at: int, length: int, explicit: bool
) -> tuple[list[dict[int, Any]], int]:
    end = len(content) if length == UNDEFINED else at + length
    items = []
    while at < end:
        tag, (size,) = _tag(content, at), struct.unpack_from("<I", content, at + 4)
        at += 8
        if tag == SEQUENCE_END:
            break
        item, after = _elements(content, at, end if size == UNDEFINED else at + size, explicit)
        at = after if size == UNDEFINED else at + size
        items.append(item)
    return items, at


def _tag(content: bytes, at: int) -> int:
    group, element = struct.unpack_from("<HH", content, at)
    return group << 16 | element


def _kind_and_length(content: bytes, at: int, explicit: bool) -> tuple[bytes, int, int]:
    """Return the kind of a value (empty where it is not written), its length and first byte."""
    if not explicit:
        return b"", struct.unpack_from("<I", content, at)[0], at + 4
    kind = content[at : at + 2]
    if kind in LONG_KINDS:
        return kind, struct.unpack_from("<I", content, at + 4)[0], at + 8
    return kind, struct.unpack_from("<H", content, at + 2)[0], at + 4
