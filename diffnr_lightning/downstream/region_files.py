"""Regions of interest from a small file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import yaml

from diffnr_lightning.downstream.regions import Mask, Point, RegionPlan, ball, box

KEYS = ("unit", "regions", "labels", "contrasts", "lines")


def read_regions(
    path: str | Path,
    shape: tuple[int, int, int],
    voxel_mm: Point,
    placed: str | Path | None = None,
) -> RegionPlan:
    """Read a YAML file of regions.

    Points are (x, y, z): with `unit: mm` from the middle of the volume, with `unit: voxel` the indices of voxels.
    `regions` has balls (centre, radius) and boxes (centre, size) by name; `labels` a label map of the volume's shape
    (`file`, beside this one) and `names` by label; `contrasts` pairs of names, by default each region with the one
    before; `lines` start and end by name.

    Args:
        path: of the file.
        shape: of the volume (Z, Y, X).
        voxel_mm: its edges (z, y, x).
        placed: file of the volume, which says where its voxels are; None where that is not known. A label map that
            says it too has to lie there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is none, a label map of another place, or names what it does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"the file of regions {path} does not exist; a YAML file is expected."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, Mapping) or set(content) - set(KEYS):
        keys = ", ".join(map(str, content)) if isinstance(content, Mapping) else repr(content)
        raise ValueError(f"{path} has {keys}; a mapping with {', '.join(KEYS)} is expected.")
    unit = content.get("unit", "mm")
    if unit not in ("mm", "voxel"):
        raise ValueError(f"{path} has the unit {unit!r}; mm or voxel is expected.")
    place = _Place(path, unit, shape, voxel_mm)
    masks = {
        str(name): place.region(name, entry) for name, entry in _named(path, content, "regions")
    }
    if content.get("labels"):
        for name, mask in _labelled(path, content["labels"], shape, placed):
            if name in masks:
                raise ValueError(
                    f"{path} calls two regions {name}; a name for each of them is expected."
                )
            masks[name] = mask
    if not masks:
        raise ValueError(f"{path} has neither regions nor labels; at least one region is expected.")
    lines = {str(name): place.line(name, entry) for name, entry in _named(path, content, "lines")}
    return RegionPlan(masks, _contrasts(path, content.get("contrasts"), list(masks)), lines)


def _named(path: Path, content: Mapping[str, Any], key: str) -> Iterable[tuple[Any, Any]]:
    entries = content.get(key) or {}
    if not isinstance(entries, Mapping):
        raise ValueError(f"{path}: {key} is {entries!r}; a mapping from names is expected.")
    return entries.items()


class _Place:
    """Turn what a file says into voxels (z, y, x)."""

    def __init__(self, path: Path, unit: str, shape: Sequence[int], voxel_mm: Point) -> None:
        self.path = path
        self.shape = tuple(shape)
        self.edges = np.array(voxel_mm) if unit == "mm" else np.ones(3)
        self.origin = (np.array(shape) - 1) / 2 if unit == "mm" else np.zeros(3)

    def region(self, name: Any, entry: Any) -> Mask:
        keys = set(entry) if isinstance(entry, Mapping) else set()
        if keys == {"centre", "radius"}:
            radius = self._extent(name, entry["radius"], [entry["radius"]] * 3)
            return ball(self.shape, self._point(name, entry["centre"]), tuple(radius / self.edges))
        if keys == {"centre", "size"}:
            size = self._extent(name, entry["size"], entry["size"])
            return box(self.shape, self._point(name, entry["centre"]), tuple(size / self.edges))
        raise ValueError(
            f"{self.path}: region {name} is {entry!r}; centre and radius of a ball, or centre and size of a box, are "
            "expected."
        )

    def line(self, name: Any, entry: Any) -> tuple[Point, Point]:
        if not isinstance(entry, Mapping) or set(entry) != {"start", "end"}:
            raise ValueError(f"{self.path}: line {name} is {entry!r}; start and end are expected.")
        ends = self._point(name, entry["start"]), self._point(name, entry["end"])
        # Beyond the middle of the last voxels its values would be repeated, without end.
        if not all(
            -0.5 <= p <= n - 0.5 for end in ends for p, n in zip(end, self.shape, strict=True)
        ):
            raise ValueError(
                f"{self.path}: line {name} goes from {entry['start']} to {entry['end']}, outside of the volume; points "
                "in it are expected, in mm from its middle or, with unit: voxel, as indices."
            )
        return ends

    def _extent(self, name: Any, given: Any, numbers: Any) -> np.ndarray:
        """Return three lengths (x, y, z) of the file as (z, y, x)."""
        lengths = self._numbers(name, numbers)
        if not (lengths > 0).all():
            raise ValueError(
                f"{self.path}: {name} has the extent {given}; more than 0 is expected."
            )
        return lengths

    def _point(self, name: Any, numbers: Any) -> Point:
        z, y, x = self._numbers(name, numbers) / self.edges + self.origin
        return float(z), float(y), float(x)

    def _numbers(self, name: Any, numbers: Any) -> np.ndarray:
        """Return three numbers (x, y, z) of the file as (z, y, x)."""
        try:
            array = np.array(numbers, dtype=float)[::-1]
        except (TypeError, ValueError):
            array = np.zeros(0)
        if array.shape != (3,) or not np.isfinite(array).all():
            raise ValueError(
                f"{self.path}: {name} has {numbers!r}; three numbers x, y, z are expected."
            )
        return array


def _labelled(
    path: Path, entry: Any, shape: tuple[int, int, int], placed: str | Path | None
) -> list[tuple[str, Mask]]:
    if not isinstance(entry, Mapping) or "file" not in entry or set(entry) - {"file", "names"}:
        raise ValueError(f"{path}: labels is {entry!r}; file and perhaps names are expected.")
    file = path.parent / str(entry["file"])
    try:
        # Programs store maps along other axes of the patient than volumes have here: to the left, back and head.
        read = SimpleITK.ReadImage(str(file))
        stored = SimpleITK.DICOMOrient(read, "LPS")
    except RuntimeError as error:
        raise ValueError(
            f"the label map {file} cannot be read; an image such as NIfTI is expected."
        ) from error
    labels = SimpleITK.GetArrayFromImage(stored)
    if labels.shape != tuple(shape):
        raise ValueError(
            f"the label map {file} has the shape {labels.shape}; that of the volume, {tuple(shape)}, is expected."
        )
    if placed is not None:
        _refuse_another_place(file, stored, Path(placed), any(read.GetOrigin()))
    names = entry.get("names") or {int(n): f"label {n}" for n in np.unique(labels) if n}
    if not isinstance(names, Mapping) or not all(isinstance(label, int) for label in names):
        raise ValueError(
            f"{path}: names of labels is {names!r}; a mapping from whole numbers to names is expected."
        )
    return [(str(name), labels == label) for label, name in names.items()]


def _refuse_another_place(
    file: Path, labels: SimpleITK.Image, placed: Path, anchored: bool
) -> None:
    """Refuse a label map whose voxels are not those of the volume; half a voxel is left to rounding.

    Of a map that begins at zero the extent alone is compared, and nothing where its voxels are of 1 mm too: programs
    that do not know a place, or no spacing either, write these.

    Args:
        file: of the map.
        labels: the map along the axes of the volume.
        placed: file of the volume.
        anchored: whether the map begins elsewhere than at zero, as it is stored.

    Raises:
        ValueError: another spacing, origin or direction.
    """
    volume = SimpleITK.ImageFileReader()
    volume.SetFileName(str(placed))
    volume.ReadImageInformation()
    if not anchored and set(labels.GetSpacing()) == {1.0}:
        return
    if anchored:
        shift = np.subtract(labels.GetOrigin(), volume.GetOrigin())
        difference = np.column_stack([_edges(labels) - _edges(volume), shift])
    else:
        last = np.array(labels.GetSize()) - 1
        difference = np.subtract(labels.GetSpacing(), volume.GetSpacing()) * last
    if np.abs(difference).max() > min(volume.GetSpacing()) / 2:
        found, expected = _place_in_words(labels), _place_in_words(volume)
        raise ValueError(
            f"the label map {file} has {found}, and {placed} has {expected}; a map that was resampled to that "
            "volume is expected."
        )


def _edges(image: Any) -> np.ndarray:
    """Return in columns the ways (x, y, z) from the first voxel to the last one along each axis, in mm."""
    lengths = np.array(image.GetSpacing()) * (np.array(image.GetSize()) - 1)
    return np.reshape(image.GetDirection(), (3, 3)) * lengths


def _place_in_words(image: Any) -> str:
    spacing, origin = (_in_words(numbers) for numbers in (image.GetSpacing(), image.GetOrigin()))
    return f"voxels of {spacing} mm from {origin} on"


def _in_words(numbers: Sequence[float]) -> str:
    return f"({', '.join(f'{number:.4g}' for number in numbers)})"


def _contrasts(path: Path, entry: Any, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if entry is None:
        return tuple(zip(names[1:], names[:-1], strict=True))
    if not isinstance(entry, Sequence):
        raise ValueError(f"{path}: contrasts is {entry!r}; a list of pairs of names is expected.")
    for pair in entry:
        named = {str(name) for name in pair} if isinstance(pair, Sequence) else set()
        if not named or len(pair) != 2 or not named <= set(names):
            raise ValueError(
                f"{path}: contrasts has {pair!r}; two of {', '.join(names)} are expected."
            )
    return tuple((str(a), str(b)) for a, b in entry)
