"""Units of length as file headers spell them."""

from __future__ import annotations

MILLIMETRES = {
    "pm": 1e-9,
    "picometre": 1e-9,
    "a": 1e-7,
    "å": 1e-7,
    "angstrom": 1e-7,
    "nm": 1e-6,
    "nanometre": 1e-6,
    "um": 1e-3,
    "micron": 1e-3,
    "micrometre": 1e-3,
    "mm": 1.0,
    "millimetre": 1.0,
    "cm": 10.0,
    "centimetre": 10.0,
    "dm": 100.0,
    "m": 1e3,
    "metre": 1e3,
    "km": 1e6,
    "in": 25.4,
    "inch": 25.4,
    "inches": 25.4,
}
# Words by which programs say that they know no unit.
NO_UNIT = {"", "?", "???", "none", "null", "nan", "unknown", "pixel", "px", "voxel", "slice"}


def in_millimetres(word: str | None) -> float | None:
    """Return how many mm a unit is: ``"um"``, ``"Microns"``, ``"µm"`` and ``"micrometer"`` are 0.001.

    Args:
        word: as the header spells it; None, empty or `"pixel"` stand for no unit.

    Returns:
        None where the header names no unit.

    Raises:
        ValueError: a word that is no unit of length.
    """
    plain = "" if word is None else word.strip().strip("\"'").strip().lower()
    plain = plain.replace("\\u00b5", "u").replace("\u00b5", "u").replace("\u03bc", "u")
    plain = plain.replace("meter", "metre")
    single = plain[:-1] if len(plain) > 2 and plain.endswith("s") else plain
    if single in NO_UNIT:
        return None
    factor = MILLIMETRES.get(plain, MILLIMETRES.get(single))
    if factor is None:
        raise ValueError(f"{word!r} is no unit of length")
    return factor
