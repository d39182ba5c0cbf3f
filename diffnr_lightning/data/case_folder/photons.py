"""The counts of a case folder: one NPY file for each set of views beside the projections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.data.case_folder.metadata import META_FILE
from diffnr_lightning.data.volumes import read_array
from diffnr_lightning.photons import PhotonCounts

# Photons without object: as the released DiffNR case spells it, and as R2-Gaussian's generator does.
NOISE_KEYS = ("poisson_noise", "possion_noise")
ORIGINS = ("counted", "assumed")


def write_photons(folder: Path, part: str, photons: PhotonCounts) -> dict[str, Any]:
    """Write `counts_<part>.npy` (V, H, W), and `air_<part>.npy` where it is not one number.

    Returns:
        The entry of the meta data.
    """
    np.save(folder / f"counts_{part}.npy", photons.counts.cpu().numpy())
    entry = {"electronic": photons.electronic, "scale": photons.scale, "origin": photons.origin}
    if photons.air.numel() == 1:
        return {"air": photons.air.item(), **entry}
    air = photons.air.expand_as(photons.counts)
    np.save(folder / f"air_{part}.npy", air.cpu().numpy())
    return entry


def read_photons(
    folder: Path, meta: Mapping[str, Any], part: str, projections: Tensor | None
) -> PhotonCounts | None:
    """Read what `write_photons` wrote.

    Of a case that has no counts but says by which rule its noise was made, as R2-Gaussian's generator does,
    they are computed from the projections.

    Args:
        folder: of the case.
        meta: its meta data.
        part: `train` or `test`.
        projections: (V, H, W) of that part, or None where there are none.

    Raises:
        FileNotFoundError: a file of counts is missing.
        ValueError: a damaged file, other shapes than the projections', or numbers that make no sense.

    Source: TIGRE's CTnoise.add, which R2-Gaussian's generator uses: the exponent of the photons is the
    projection over the largest of all.
    """
    if projections is None:
        return None
    entry = meta.get(f"photons_{part}")
    meta_path = folder / META_FILE
    if entry is None:
        # Our own cases say how they were made, and those without counts have no noise.
        foreign = part == "train" and not meta.get("provenance")
        return _of_noise_rule(meta["scanner"], projections, meta_path) if foreign else None
    if not isinstance(entry, dict):
        raise ValueError(
            f"{meta_path} has photons_{part} {entry!r:.40}; a JSON object is expected."
        )
    electronic = _number(entry, "electronic", meta_path)
    scale = _positive(entry, "scale", meta_path)
    counts = _stored(folder, f"counts_{part}.npy", tuple(projections.shape))
    if "air" in entry:
        air = torch.full((1, 1, 1), _positive(entry, "air", meta_path))
    else:
        air = _stored(folder, f"air_{part}.npy", tuple(projections.shape))
    origin = entry.get("origin", "counted")
    if origin not in ORIGINS:
        raise ValueError(
            f"{meta_path} has photons with origin = {origin!r}; one of {', '.join(ORIGINS)} is expected."
        )
    return PhotonCounts(counts, air, electronic, scale, origin)


def _of_noise_rule(
    scanner: Mapping[str, Any], projections: Tensor, meta_path: Path
) -> PhotonCounts | None:
    largest = float(projections.max())
    key = next((key for key in NOISE_KEYS if scanner.get(key) is not None), None)
    if not scanner.get("noise") or key is None or not largest > 0:
        return None
    photons = _positive(scanner, key, meta_path)
    mean_and_deviation = scanner.get("gaussian_noise")
    if mean_and_deviation is None:
        mean_and_deviation = [0.0, 0.0]
    if not isinstance(mean_and_deviation, list) or len(mean_and_deviation) != 2:
        raise ValueError(
            f"{meta_path} has gaussian_noise = {mean_and_deviation!r}; two numbers, mean and deviation in "
            "photons, are expected."
        )
    deviation = _number({"gaussian_noise": mean_and_deviation[1]}, "gaussian_noise", meta_path)
    assumed = PhotonCounts.assumed(projections, photons, 1.0 / largest)
    return assumed._replace(electronic=deviation)


def _number(entry: Mapping[str, Any], key: str, meta_path: Path) -> float:
    value = entry.get(key)
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not 0 <= value < np.inf:
        raise ValueError(
            f"{meta_path} has photons with {key} = {value!r}; a number of at least 0 is expected."
        )
    return float(value)


def _positive(entry: Mapping[str, Any], key: str, meta_path: Path) -> float:
    value = _number(entry, key, meta_path)
    if not value:
        raise ValueError(
            f"{meta_path} has photons with {key} = {value}; a positive number is expected."
        )
    return value


def _stored(folder: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    array = read_array(folder / name, "counts")
    if array.shape != shape:
        raise ValueError(
            f"{folder / name} has shape {array.shape}; {shape}, as the projections have, is expected."
        )
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{folder / name} holds {array.dtype} values; real numbers are expected.")
    if not np.isfinite(array).all():
        raise ValueError(f"{folder / name} holds NaN or infinite values; finite ones are expected.")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
