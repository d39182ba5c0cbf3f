"""DICOM files as scanners write them: slices of CT series, element by element."""

import struct

SPACING = (2.5, 0.8, 0.7)
CT_IMAGE, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


def element(tag, kind, value):
    """One data element of explicit VR in little endian; `value` is bytes or text."""
    content = value.encode() if isinstance(value, str) else value
    content += (b"\0" if kind in ("UI", "OW") else b" ") * (len(content) % 2)
    form = "<HH2s2xI" if kind == "OW" else "<HH2sH"
    return struct.pack(form, tag >> 16, tag & 0xFFFF, kind.encode(), len(content)) + content


def short(number):
    return struct.pack("<H", number & 0xFFFF)


def write_slice(file, stored, position, series="1.2.3.4", number=1, **changes):
    """Write a CT slice of 16 stored bits; `changes` replace elements by tag, None removes one."""
    signed = stored.dtype.kind == "i"
    tags = {
        0x00080016: ("UI", CT_IMAGE),
        0x00080018: ("UI", f"{series}.{number}"),
        0x00080060: ("CS", "CT"),
        0x0020000D: ("UI", "1.2.3"),
        0x0020000E: ("UI", series),
        0x00200013: ("IS", str(number)),
        0x00200032: ("DS", "\\".join(f"{n:.5f}" for n in position)),
        0x00200037: ("DS", "1\\0\\0\\0\\1\\0"),
        0x00280002: ("US", short(1)),
        0x00280004: ("CS", "MONOCHROME2"),
        0x00280010: ("US", short(stored.shape[-2])),
        0x00280011: ("US", short(stored.shape[-1])),
        0x00280030: ("DS", f"{SPACING[1]}\\{SPACING[2]}"),
        0x00280100: ("US", short(16)),
        0x00280101: ("US", short(16)),
        0x00280102: ("US", short(15)),
        0x00280103: ("US", short(int(signed))),
        0x00281052: ("DS", "-1024"),
        0x00281053: ("DS", "1"),
        0x7FE00010: ("OW", stored.astype("<i2" if signed else "<u2").tobytes()),
        **{int(tag, 16): value for tag, value in changes.items()},
    }
    meta = element(0x00020002, *tags[0x00080016]) + element(0x00020010, "UI", EXPLICIT)
    body = b"".join(element(tag, *tags[tag]) for tag in sorted(tags) if tags[tag] is not None)
    length = element(0x00020000, "UL", struct.pack("<I", len(meta)))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(128) + b"DICM" + length + meta + body)


def write_series(folder, hu, series="1.2.3.4", **changes):
    """Write axial slices whose names are in no order."""
    for number, layer in enumerate(hu):
        place = (-10, -20, number * SPACING[0] - 40)
        file = folder / f"{(number * 5) % 7}_{series}.dcm"
        write_slice(file, layer + 1024, place, series, number + 1, **changes)
    return folder
