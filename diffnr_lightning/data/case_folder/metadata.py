"""The ``meta_data.json`` of a case folder: read, checked, and turned into geometry."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, from_r2_scanner

logger = logging.getLogger("diffnr")

META_FILE = "meta_data.json"
ENTRIES = {META_FILE, "vol_gt.npy"} | {
    f"{name}_{part}{ending}"
    for part in ("train", "test")
    for name, ending in (("proj", ""), ("counts", ".npy"), ("air", ".npy"))
}
"""What `writing.write_case` writes into a folder."""
SCANNER_NUMBERS = {
    "DSD": 1,
    "DSO": 1,
    "nDetector": 2,
    "sDetector": 2,
    "nVoxel": 3,
    "sVoxel": 3,
    "offOrigin": 3,
    "offDetector": 2,
}
# What the format says twice: edge of a voxel or pixel -> edge of the whole and number of them.
STEPS = {"dVoxel": ("sVoxel", "nVoxel"), "dDetector": ("sDetector", "nDetector")}
# Share by which the two may differ, of lengths that were rounded.
STEP_TOLERANCE = 0.01


def refuse_to_replace(path: Path) -> None:
    """Refuse to write a case where something else would be lost; hidden files in a case are nobody's.

    Args:
        path: folder of the case that is to be written.

    Raises:
        ValueError: it is a file, a folder that holds no case, or a case with something else in it.
    """
    if path.is_file():
        raise ValueError(f"case folder {path} is a file; name a folder that does not exist yet.")
    entries = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if entries and META_FILE not in entries:
        raise ValueError(
            f"folder {path} exists and holds no case ({META_FILE} is missing); choose an empty or new folder."
        )
    others = [name for name in entries if name not in ENTRIES and not name.startswith(".")]
    if others:
        raise ValueError(
            f"case folder {path} holds {others[0]}, which is not of a case and would be removed with the old one; move "
            "it elsewhere, or choose another folder."
        )


def read_meta(meta_path: Path) -> dict[str, Any]:
    """Read the file and check that its two indispensable entries are there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object, or lacks an entry.
    """
    try:
        # Editors on Windows put a byte order mark before the text.
        meta = json.loads(meta_path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{meta_path} does not exist; a case folder holds {META_FILE}, proj_train/ and, where "
            f"known, vol_gt.npy."
        ) from None
    except OSError as error:
        raise ValueError(f"{meta_path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{meta_path} cannot be read as JSON: {error}.") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{meta_path} holds a {type(meta).__name__}; a JSON object is expected.")
    for key in ("scanner", "proj_train"):
        if key not in meta:
            raise ValueError(
                f"{meta_path} lacks the key {key!r}; scanner and proj_train are expected."
            )
    if not isinstance(meta["scanner"], dict):
        raise ValueError(
            f"{meta_path} has a scanner that is no JSON object; its keys DSD, DSO, ... are "
            f"expected."
        )
    return meta


def view_entries(meta: Mapping[str, Any], key: str, meta_path: Path) -> list[tuple[str, float]]:
    """Return file and angle (radians) of each view listed under `key`.

    Raises:
        ValueError: an entry without them.
    """
    entries = meta.get(key) or []
    try:
        pairs = [(str(entry["file_path"]), float(entry["angle"])) for entry in entries]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{meta_path} has an entry under {key} without file_path and angle (radians); both "
            f"are expected."
        ) from error
    if not np.isfinite([angle for _, angle in pairs]).all():
        raise ValueError(f"{meta_path} has an angle under {key} that is not finite.")
    return pairs


def described_geometry(
    scanner: Mapping[str, Any],
    meta: Mapping[str, Any],
    part: str,
    entries: Sequence[tuple[str, float]],
    meta_path: Path,
) -> tuple[ScanGeometry, VolumeGrid]:
    """Build scan and grid from the scanner, or from per-view vectors where there are any.

    Args:
        scanner: the scanner entry.
        meta: the whole file; ``views_train`` and ``views_test`` hold vectors.
        part: ``"train"`` or ``"test"``.
        entries: file and angle of each view.
        meta_path: how an error names the file.

    Raises:
        ValueError: missing or contradictory entries.
    """
    _check_scanner(scanner, meta_path)
    try:
        scan, grid = from_r2_scanner(scanner, [angle for _, angle in entries])
        vectors = meta.get(f"views_{part}")
        if vectors is None and meta.get("centre_mm") is not None:
            # Written where the scan is no circle, so that the scanner's numbers are nominal ones.
            raise ValueError(
                f"centre_mm is given without views_{part}, the poses that it belongs to"
            )
        if vectors is not None:
            poses = [vectors[key] for key in ("source_mm", "detector_mm", "u_mm", "v_mm")]
            scan = ScanGeometry(vectors["beam"], scan.detector_shape, *poses)
            grid = VolumeGrid(grid.shape, grid.voxel_mm, tuple(meta["centre_mm"]))
    except KeyError as error:
        raise ValueError(f"{meta_path} has views_{part} but lacks the key {error}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{meta_path}: {str(error).rstrip('.?')}.") from error
    if len(scan) != len(entries):
        raise ValueError(
            f"{meta_path} describes {len(scan)} poses and {len(entries)} projections under "
            f"proj_{part}; they must agree."
        )
    return scan, grid


def warn_of_steps(scanner: Mapping[str, Any], meta_path: Path) -> None:
    """Say so where voxels or pixels are stated with an edge that the whole and their number do not give.

    Args:
        scanner: the scanner entry, whose numbers were checked.
        meta_path: how the warning names the file.
    """
    for key, (whole, number) in STEPS.items():
        if scanner.get(key) is None:
            continue
        steps = np.divide(scanner[whole], scanner[number])
        stated = scanner[key]
        numbers = isinstance(stated, list) and len(stated) == steps.size
        if not (
            numbers
            and all(map(_finite, stated))
            and np.allclose(stated, steps, rtol=STEP_TOLERANCE, atol=0.0)
        ):
            logger.warning(
                "%s has scanner %s = %s, but %s / %s is %s; the latter is used",
                *(meta_path, key, stated, whole, number, [float(f"{step:.4g}") for step in steps]),
            )


def checked_seed(seed: Any, meta_path: Path) -> int:
    """Return the seed of a case.

    Raises:
        ValueError: it is no non-negative integer.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"{meta_path} has seed {seed!r}; a non-negative integer is expected.")
    return seed


def checked_provenance(provenance: Any, meta_path: Path) -> dict[str, Any]:
    """Return what is known of how a case was made, empty where nothing is.

    Raises:
        ValueError: it is no JSON object.
    """
    if provenance is None:
        return {}
    if not isinstance(provenance, dict):
        raise ValueError(
            f"{meta_path} has provenance {provenance!r:.40}; a JSON object is expected."
        )
    return dict(provenance)


def simulated_noise(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `Noise` that a scan was simulated with; empty where that is not known."""
    node: Any = provenance
    for key in ("simulation", "recipe", "noise"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return dict(node) if isinstance(node, Mapping) else {}


def total_angle(scanner: Mapping[str, Any]) -> float | None:
    """Return the arc in degrees that the scanner states, or None where it states none."""
    total = scanner.get("totalAngle", scanner.get("total_angle"))
    return float(total) if _finite(total) and total > 0 else None


def checked_window(window: Sequence[float], meta_path: Path) -> tuple[float, float]:
    """Return the window of a case, HU of 0 and 1.

    Raises:
        ValueError: it is not two numbers, low < high.
    """
    try:
        low, high = (float(bound) for bound in window)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not low < high:
        raise ValueError(
            f"{meta_path} has window_hu {window}; two numbers, low < high, are expected."
        )
    return low, high


def _check_scanner(scanner: Mapping[str, Any], meta_path: Path) -> None:
    """Refuse entries that are not as many finite numbers as they should be."""
    for key, count in SCANNER_NUMBERS.items():
        value = scanner.get(key)
        if value is None:
            continue
        numbers = list(value) if isinstance(value, list) else [value]
        if len(numbers) != count or not all(map(_finite, numbers)):
            raise ValueError(
                f"{meta_path} has scanner {key} = {value!r}; {count} finite number(s) are expected."
            )
        if key.startswith(("n", "s")) and min(numbers) <= 0:
            raise ValueError(f"{meta_path} has scanner {key} = {value!r}; it must be positive.")
        if key.startswith("n") and any(n != int(n) for n in numbers):
            raise ValueError(
                f"{meta_path} has scanner {key} = {value!r}; whole numbers are expected."
            )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
