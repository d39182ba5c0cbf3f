"""Files of slice pairs: what `curate` writes for each curated scan and finetuning reads.

A pairs folder holds one safetensors file for each curated scan: snapshots of the reconstruction
while it ran, the truth, and the biplanar projections. `manifest.json` lists the files for people;
the reader trusts the files' own headers.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = "diffnr slice pairs 1"


class ScanPairs(NamedTuple):
    """One curated scan, mapped from its file (nothing is read before it is used).

    Attributes:
        degraded: (S, Z, Y, X) float16 in [0, 1], S snapshots.
        clean: (Z, Y, X) float16 in [0, 1].
        biplanar: (2, h, w) float16 in [0, 1].
        info: what `write_pairs` was told: case, views, layout, seed, ...
    """

    degraded: Tensor
    clean: Tensor
    biplanar: Tensor
    info: dict[str, Any]


def write_pairs(
    folder: str | Path,
    name: str,
    *,
    degraded: Tensor,
    clean: Tensor,
    biplanar: Tensor,
    info: dict[str, Any],
) -> Path:
    """Add one curated scan to a pairs folder, and the folder's manifest with it.

    Args:
        folder: created if missing.
        name: of the file, without ending.
        degraded: (S, Z, Y, X), clipped to [0, 1]; all snapshots of one run, or of several runs from
            the same projections.
        clean: (Z, Y, X), clipped to [0, 1].
        biplanar: (2, h, w) in [0, 1], see `priors.biplanar_conditioning`.
        info: anything JSON can hold. `case` (str, what hold-outs are chosen by) and `views` (int)
            are required; layout, iterations, representation, num_gaussians, seed and repaired are
            customary.

    Returns:
        The file. It is written in one step: a reader sees all of it or nothing.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, info without case or views.
    """
    folder = Path(folder)
    if degraded.ndim != 4 or degraded.shape[1:] != clean.shape or not len(degraded):
        raise ValueError(
            f"degraded has shape {tuple(degraded.shape)} and clean {tuple(clean.shape)}; expected "
            "(S, Z, Y, X) with S >= 1 and (Z, Y, X)."
        )
    if biplanar.ndim != 3 or len(biplanar) != 2:
        raise ValueError(f"biplanar has shape {tuple(biplanar.shape)}; expected (2, h, w).")
    if not {"case", "views"} <= info.keys():
        raise ValueError(f"info has the keys {sorted(info)}; expected at least case and views.")
    tensors = {"degraded": degraded, "clean": clean, "biplanar": biplanar}
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{key} of {name} is not finite everywhere; leave this scan out.")
        tensors[key] = tensor.detach().cpu().clamp(0, 1).to(torch.float16).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    header = {"format": FORMAT, "info": json.dumps(info)}
    _replace(path, save(tensors, metadata=header))
    manifest = {file.name: _open(file).info for file in sorted(folder.glob("*.safetensors"))}
    _replace(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return path


def open_pairs(folder: str | Path) -> dict[str, ScanPairs]:
    """All curated scans of a folder by file name, mapped into memory.

    Raises:
        FileNotFoundError: no such folder, or no pairs in it.
        ValueError: a file that `write_pairs` did not write or that was damaged since.
    """
    folder = Path(folder)
    scans = {file.stem: _open(file) for file in sorted(folder.glob("*.safetensors"))}
    if not scans:
        raise FileNotFoundError(
            f"{folder} holds no slice pairs (*.safetensors); make some with `diffnr curate`."
        )
    return scans


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _open(path: Path) -> ScanPairs:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError("not written by this program")
            scan = ScanPairs(
                *(file.get_tensor(key) for key in ("degraded", "clean", "biplanar")),
                info=json.loads(header["info"]),
            )
        if scan.degraded.ndim != 4 or scan.degraded.shape[1:] != scan.clean.shape:
            raise ValueError("shapes that do not fit together")
        if scan.biplanar.ndim != 3 or len(scan.biplanar) != 2:
            raise ValueError("projections that are no pair")
        if not isinstance(scan.info, dict) or not {"case", "views"} <= scan.info.keys():
            raise ValueError("a header without case and views")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a file of slice pairs or is damaged ({error}); delete it and run "
            "`diffnr curate` again."
        ) from error
    return scan
