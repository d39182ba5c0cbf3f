"""The released checkpoint format (.pkl, pix2pix-turbo's layout): what its entries mean, both ways."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from diffnr_lightning.priors.slicefixers.slicefixer import Orientation, SliceFixer
from diffnr_lightning.priors.slicefixers.turbo_backbone import UNET_TARGETS, VAE_TARGETS

logger = logging.getLogger("diffnr")

TARGETS = {
    "unet_lora_target_modules": UNET_TARGETS,
    "vae_lora_target_modules": VAE_TARGETS,
}
RANKS = ("rank_unet", "rank_vae")
STATES = {"state_dict_unet": "unet.", "state_dict_vae": "vae."}
"""The six entries of the official format, and the prefix of their tensors in `trained_state`."""

ADAPTER = "state_dict_fusion_adapter"
ORIENTATION = "slice_orientation"
INTENSITIES = "intensity_domain"
OTHERS = (
    ADAPTER,
    ORIENTATION,
    "use_xray_conditioning",
    INTENSITIES,
    "xray_conditioning",
)
"""Entries beside the official ones: a continuation of the official code adds all but `ORIENTATION`, which is ours."""

MOST_RANK = 1024


class TurboCheckpoint(NamedTuple):
    """What a .pkl says.

    Attributes:
        architecture: arguments of `SliceFixer` that follow from it.
        state: for `SliceFixer.load_trained_state`.
    """

    architecture: dict[str, Any]
    state: dict[str, Tensor]


def read_turbo_checkpoint(path: str | Path) -> TurboCheckpoint:
    """Read a .pkl of pix2pix-turbo's layout; no code in it is run.

    Without the fusion adapter, which the official code forgets to save, the projections cannot
    condition the repair: biplanar is False then, and the log says so.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one that would run code, or one with other entries.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a SliceFixer's checkpoint (.pkl).")
    try:
        entries = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # A damaged pickle may raise anything.
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, numbers and words and would run code "
            f"({type(error).__name__}); expected a SliceFixer's checkpoint in the layout of "
            "pix2pix-turbo."
        ) from error
    try:
        _check(entries)
    except ValueError as error:
        raise ValueError(
            f"{path} is no SliceFixer's checkpoint in the layout of pix2pix-turbo ({error}); "
            "expected the six entries of the released ones."
        ) from error
    adapter = ADAPTER in entries and entries.get("use_xray_conditioning", True)
    if not adapter:
        why = "turns it off itself" if ADAPTER in entries else "holds no fusion adapter for it"
        logger.warning("conditioning by projections is off: %s %s", path, why)
    if INTENSITIES in entries:
        logger.warning(
            "%s was trained on intensities %s; it is shown attenuation, 0 of -1000 HU as a rule",
            path,
            entries[INTENSITIES],
        )
    parts = {entry: prefix for entry, prefix in STATES.items()}
    if adapter:
        parts[ADAPTER] = "fusion_adapter."
    state = {
        prefix + name: tensor.float()
        for entry, prefix in parts.items()
        for name, tensor in entries[entry].items()
    }
    return TurboCheckpoint(
        architecture={
            **{rank: entries[rank] for rank in RANKS},
            "biplanar": adapter,
            # As the released code shows its slices, but undone afterwards. The continuation, which alone has the entry,
            # shows its network slices as they are, in [-1, 1].
            "normalisation": "global" if INTENSITIES in entries else "per_slice_minmax",
            "signed_input": INTENSITIES in entries,
            # The official code slices volumes of (x, y, z).
            "orientation": entries.get(ORIENTATION, "xyz"),
        },
        state=state,
    )


def _check(entries: Any) -> None:
    """Raise ValueError, with the reason alone, for what is not the six entries (and the known others)."""
    if not isinstance(entries, dict):
        raise ValueError(f"it holds a {type(entries).__name__}")
    required = {*TARGETS, *RANKS, *STATES}
    if missing := sorted(required - entries.keys()):
        raise ValueError(f"it has no entry {missing[0]}")
    if surplus := sorted(map(str, entries.keys() - required - set(OTHERS))):
        raise ValueError(f"its entry {surplus[0]} is unknown")
    for entry, targets in TARGETS.items():
        given = entries[entry]
        if not isinstance(given, list | tuple) or {*map(str, given)} != {*targets}:
            raise ValueError(f"{entry} is not the list of layers that a SliceFixer adapts")
    for entry in RANKS:
        rank = entries[entry]
        if type(rank) is not int or not 1 <= rank <= MOST_RANK:
            raise ValueError(f"{entry} is {rank!r}")
    for entry in (*STATES, ADAPTER):
        state = entries.get(entry, {})
        if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
        ):
            raise ValueError(f"{entry} is no dictionary of tensors")
        if not all(torch.isfinite(tensor).all() for tensor in state.values()):
            raise ValueError(f"{entry} holds weights that are not finite")
    if type(entries.get("use_xray_conditioning", True)) is not bool:
        raise ValueError("use_xray_conditioning is neither true nor false")
    if entries.get(ORIENTATION, "xyz") not in get_args(Orientation):
        raise ValueError(f"{ORIENTATION} is {entries[ORIENTATION]!r}")


def turbo_entries(prior: SliceFixer) -> dict[str, Any]:
    """The six entries of a SliceFixer, its orientation, and the adapter where there is one."""
    state = {name: tensor.float().cpu() for name, tensor in prior.trained_state().items()}

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor.contiguous()
            for name, tensor in state.items()
            if name.startswith(prefix)
        }

    entries: dict[str, Any] = {entry: list(targets) for entry, targets in TARGETS.items()}
    entries |= {rank: prior.architecture[rank] for rank in RANKS}
    entries[ORIENTATION] = prior.orientation
    entries |= {entry: part(prefix) for entry, prefix in STATES.items()}
    if prior.fusion_adapter is not None:
        entries[ADAPTER] = part("fusion_adapter.")
    return entries
