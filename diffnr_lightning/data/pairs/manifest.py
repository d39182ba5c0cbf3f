"""The manifest of a pairs folder: which scans it holds, and in which shares.

`manifest.json` is made of the headers of the files and is for people; training reads the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffnr_lightning.data.pairs.files import read_info
from diffnr_lightning.files import whole_files, write_bytes

MANIFEST = "manifest.json"
SHARED_OUT = ("representation", "layout", "views")
"""What shares are counted by."""

# The same for many scans and long; the files' own headers keep it.
LEFT_OUT = ("method",)


def write_manifest(folder: Path) -> dict[str, Any]:
    """Write ``manifest.json`` of the scans that a folder holds by now.

    Processes that share the folder may all call this when they have added their scans: the last
    manifest to be written names every scan.

    Args:
        folder: of pairs; its files' headers are read and nothing else.

    Returns:
        `shares` (see there) and `scans`, file name -> the `info` that `write_pairs` was given.

    Raises:
        ValueError: a damaged file, by name.
    """
    infos: dict[str, dict[str, Any]] = {}
    while True:
        files = whole_files(folder, "*.safetensors")
        infos = {file.name: infos.get(file.name) or read_info(file) for file in files}
        manifest = {"shares": shares(list(infos.values())), "scans": _shortened(infos)}
        write_bytes(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        # Another process may have added a scan, and its manifest, since the files were listed.
        if whole_files(folder, "*.safetensors") == files:
            return manifest


def shares(infos: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Count scans and degraded volumes by representation, by layout and by number of views.

    Args:
        infos: one for each scan. Scans of earlier versions lack `psnr`.

    Returns:
        Property -> value -> `scans`, `volumes`, `share` (of all volumes, in [0, 1]) and, where it
        is known, `psnr` (mean over volumes, dB).
    """
    total = sum(len(_volumes(info)) for info in infos)
    counted: dict[str, dict[str, dict[str, float]]] = {}
    for key in SHARED_OUT:
        values = sorted(
            {info.get(key, "unknown") for info in infos}, key=lambda v: (str(type(v)), v)
        )
        counted[key] = {
            str(value): _count([i for i in infos if i.get(key, "unknown") == value], total)
            for value in values
        }
    return counted


def _count(infos: list[dict[str, Any]], total: int) -> dict[str, float]:
    volumes = sum(len(_volumes(info)) for info in infos)
    count = {"scans": len(infos), "volumes": volumes, "share": round(volumes / total, 4)}
    psnr = [value for info in infos for value in info.get("psnr", [])]
    return {**count, "psnr": round(float(np.mean(psnr)), 2)} if psnr else count


def _volumes(info: dict[str, Any]) -> list[Any]:
    return info.get("iterations") or [None]


def _shortened(infos: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value for key, value in info.items() if key not in LEFT_OUT}
        for name, info in infos.items()
    }
