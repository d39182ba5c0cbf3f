"""Files of slice pairs: what `curate` writes for each curated scan and finetuning reads.

A pairs folder holds one safetensors file for each curated scan: snapshots of the reconstruction
while it ran, the truth, and the biplanar projections. Files are mapped into memory: opening
thousands of them reads their headers only, and an axial slice reads the pages it lies on (a
sagittal one touches every page of its volume). Several processes may add files to one folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffnr_lightning.files import whole_files, write_bytes

FORMAT = "diffnr slice pairs 1"


class ScanPairs(NamedTuple):
    """One curated scan, mapped from its file (no voxel is read before it is used).

    Attributes:
        degraded: (S, Z, Y, X) float16 in [0, 1], S snapshots.
        clean: (Z, Y, X) float16 in [0, 1].
        biplanar: (2, h, w) float16 in [0, 1].
        residual: (S, Z, Y, X) float16 in [-1, 1], backprojected residuals of the snapshots; None
            where the curation did not keep them.
        noise: (Z, Y, X) float16 in [0, 1], standard deviation of the noise in those residuals, which hardly
            depends on the snapshot; None where it is not known.
        info: what `write_pairs` was given: case, views, layout, seed, ...
    """

    degraded: Tensor
    clean: Tensor
    biplanar: Tensor
    info: dict[str, Any]
    residual: Tensor | None = None
    noise: Tensor | None = None


def write_pairs(
    folder: str | Path,
    name: str,
    *,
    degraded: Tensor,
    clean: Tensor,
    biplanar: Tensor,
    info: dict[str, Any],
    residual: Tensor | None = None,
    noise: Tensor | None = None,
) -> Path:
    """Add one curated scan to a pairs folder; the same scan makes the same bytes.

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
        residual: (S, Z, Y, X), clipped to [-1, 1], see `solvers.backprojected_residual`.
        noise: (Z, Y, X), clipped to [0, 1], see `solvers.residual_evidence`; that of the last snapshot.

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
    for key, tensor, fits in (("residual", residual, degraded), ("noise", noise, clean)):
        if tensor is None:
            continue
        if tensor.shape != fits.shape:
            raise ValueError(
                f"{key} has shape {tuple(tensor.shape)}; {tuple(fits.shape)} is expected."
            )
        tensors[key] = tensor
    refuse_not_finite(name, tensors)
    for key, tensor in tensors.items():
        lowest = -1 if key == "residual" else 0
        tensors[key] = tensor.detach().cpu().clamp(lowest, 1).to(torch.float16).contiguous()
    path = folder / f"{name}.safetensors"
    content = save(tensors, metadata={"format": FORMAT, "info": json.dumps(info)})
    write_bytes(path, *_ordered(content))
    return path


def refuse_not_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of a scan that hold NaN or an infinity, as a method leaves them that diverged.

    Raises:
        ValueError: one that does, by name.
    """
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{key} of {name} is not finite everywhere; leave this scan out.")


def open_pairs(folder: str | Path) -> dict[str, ScanPairs]:
    """All curated scans of a folder by file name, mapped into memory.

    Raises:
        FileNotFoundError: no such folder, or no pairs in it.
        ValueError: a file that `write_pairs` did not write or that was damaged since.
    """
    folder = Path(folder)
    scans = {file.stem: _open(file) for file in whole_files(folder, "*.safetensors")}
    if not scans:
        raise FileNotFoundError(
            f"{folder} holds no slice pairs (*.safetensors); make some with `diffnr curate`."
        )
    return scans


def read_info(path: Path) -> dict[str, Any]:
    """Return the `info` that `write_pairs` was given for a scan, from the header of its file.

    Raises:
        ValueError: a file that `write_pairs` did not write or that was damaged since.
    """
    return _open(path).info


def _ordered(content: bytes) -> tuple[bytes, bytes, memoryview]:
    """A safetensors file in pieces, its header sorted: safetensors leaves the order to chance."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # keeps the tensors aligned
    return len(header).to_bytes(8, "little"), header, memoryview(content)[end:]


def _open(path: Path) -> ScanPairs:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError("not written by this program")
            scan = ScanPairs(
                *(file.get_tensor(key) for key in ("degraded", "clean", "biplanar")),
                info=json.loads(header["info"]),
                **{
                    key: file.get_tensor(key)
                    for key in ("residual", "noise")
                    if key in file.keys()  # noqa: SIM118 -- no mapping
                },
            )
        if scan.degraded.ndim != 4 or scan.degraded.shape[1:] != scan.clean.shape:
            raise ValueError("shapes that do not fit together")
        if scan.residual is not None and scan.residual.shape != scan.degraded.shape:
            raise ValueError("a residual of another shape")
        if scan.noise is not None and scan.noise.shape != scan.clean.shape:
            raise ValueError("noise of another shape")
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
