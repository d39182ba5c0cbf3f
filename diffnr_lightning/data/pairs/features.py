"""Features of biplanar projections, computed once and kept with the pairs.

A frozen encoder of 518 x 518 pixels costs more than the slices of a training step; its
features of a scan are two short vectors that never change.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffnr_lightning.data.pairs.files import ScanPairs
from diffnr_lightning.files import write_bytes

logger = logging.getLogger("diffnr")

FOLDER = "features"


class ProjectionEncoder(Protocol):
    """What embeds pairs of projections."""

    def digest(self) -> str:
        """Hexadecimal digits that tell its weights from others."""
        ...

    def __call__(self, biplanar: Tensor) -> Tensor:
        """Embed (N, 2, h, w) as (N, 2, F)."""
        ...


def with_features(
    folder: Path,
    scans: dict[str, ScanPairs],
    encoder: ProjectionEncoder,
    device: torch.device | str = "cpu",
    start: int = 0,
) -> dict[str, ScanPairs]:
    """Return the scans with features, float32 (2, F), in the place of their biplanar projections.

    They lie in `features/<digest of the encoder>/` of the pairs folder, one file a scan, each with
    the digest of the projections that it belongs to; what is missing or belongs to others is
    computed and written. Where the folder cannot be written, they are computed for this process
    alone, and the log says so.

    Args:
        folder: of the pairs.
        scans: by the name of their file.
        encoder: embeds projections.
        device: where the encoder lies.
        start: scan to begin with; processes that begin at different ones share the work.
    """
    kept = folder / FOLDER / encoder.digest()[:16]
    names = list(scans)
    features: dict[str, Tensor] = {}
    for name in names[start:] + names[:start]:
        biplanar = scans[name].biplanar
        path = kept / f"{name}.safetensors"
        digest = hashlib.sha256(biplanar.contiguous().numpy().tobytes()).hexdigest()
        found = _read(path, digest)
        if found is None:
            found = encoder(biplanar[None].float().to(device))[0].float().cpu()
            _write(path, found, digest)
        features[name] = found
    return {name: scan._replace(biplanar=features[name]) for name, scan in scans.items()}


def _read(path: Path, digest: str) -> Tensor | None:
    """Features of the projections of a digest; None where the file holds none."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("features") if file.metadata() == {"of": digest} else None
    except (SafetensorError, OSError):
        return None


def _write(path: Path, features: Tensor, digest: str) -> None:
    try:
        write_bytes(path, save({"features": features.contiguous()}, metadata={"of": digest}))
    except (OSError, ValueError) as error:
        logger.warning("features are not kept: %s", error)
