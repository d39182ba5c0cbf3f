"""Files of priors: safetensors with architecture and history in the header, and the released .pkl."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from diffnr_lightning.files import write_bytes
from diffnr_lightning.priors.network_classes import OURS, network_class, network_name
from diffnr_lightning.priors.prior import Prior
from diffnr_lightning.priors.slicefixers.compact import CompactSliceFixer
from diffnr_lightning.priors.slicefixers.slicefixer import SliceFixer
from diffnr_lightning.priors.slicefixers.turbo_checkpoints import (
    read_turbo_checkpoint,
    turbo_entries,
)

logger = logging.getLogger("diffnr")

FORMAT = "diffnr prior 1"
DEFAULT = "compact_slicefixer"
"""Name of the prior of the package that is taken where no other is named."""
BUNDLED = Path(__file__).parents[1] / "assets"
RELEASED = ".pkl"
"""Ending of the released checkpoints, in the layout of pix2pix-turbo."""

FIXED = ("rank_unet", "rank_vae")
"""Arguments of the SliceFixer that its weights decide."""


def save_prior(
    path: str | Path,
    prior: nn.Module,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write the weights and all that is needed to build the network again.

    Of the compact network all weights, as float16; of the SliceFixer all that is trained, as
    float32, and where its base and encoder come from; of a class of the user's own all weights, as
    float32, and the import path of the class.

    Args:
        path: of the safetensors file; replaced in one step, so that no reader sees half a file. Its
            folder is created if missing.
        prior: network with an `architecture` dictionary of its constructor's arguments.
        metadata: anything JSON can hold: steps, data, configuration.

    Raises:
        ValueError: a class that could not be built again, see `network_name`, or weights that the
            file cannot hold (inf or NaN).
    """
    network = network_name(prior)
    tensors, dtype = _stored(prior)
    # Copies, since weights under two names share their memory, which safetensors refuses.
    tensors = {
        name: t.detach().to("cpu", dtype, copy=True).contiguous() for name, t in tensors.items()
    }
    _refuse_infinite(tensors, str(dtype).removeprefix("torch."))
    header = {
        "format": FORMAT,
        "network": network,
        "architecture": json.dumps(prior.architecture),
        "metadata": json.dumps(metadata or {}),
    }
    write_bytes(Path(path), save(tensors, metadata=header))


def export_turbo_checkpoint(path: str | Path, prior: SliceFixer) -> None:
    """Write what is trained as a .pkl in the layout of pix2pix-turbo, as the released ones are.

    The orientation of slices and the fusion adapter, where there is one, are further entries, which
    the official loader ignores: it gives every network slices of (x, y, z) volumes. The
    format holds neither prompt nor size nor normalisation: give them again when it is read.

    Args:
        path: of the file; replaced in one step. Its folder is created if missing.
        prior: a SliceFixer.

    Raises:
        ValueError: a network of another class, a path without the ending .pkl, or weights that are
            inf or NaN.
    """
    path = Path(path)
    if not isinstance(prior, SliceFixer) or path.suffix != RELEASED:
        raise ValueError(
            f"prior is a {type(prior).__name__} and path {path}; expected a SliceFixer and a path "
            f"that ends in {RELEASED}."
        )
    _refuse_infinite(prior.trained_state(), "float32")
    content = io.BytesIO()
    torch.save(turbo_entries(prior), content)
    write_bytes(path, content.getvalue())


def _stored(prior: nn.Module) -> tuple[dict[str, Tensor], torch.dtype]:
    if isinstance(prior, SliceFixer):
        return prior.trained_state(), torch.float32
    return prior.state_dict(), torch.float16 if type(prior) is CompactSliceFixer else torch.float32


def _refuse_infinite(tensors: dict[str, Tensor], dtype: str) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(
            f"weight {broken[0]} of the prior is not finite in {dtype}; do not export a run that "
            "diverged: lower its learning rate."
        )


def read_header(path: str | Path) -> dict[str, Any]:
    """Header of a prior's file: network (str), architecture (dict) and metadata (dict).

    Of a released .pkl the architecture is what follows from its entries.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a prior's file, or a damaged one.
    """
    path = Path(path)
    if path.suffix == RELEASED:
        architecture = read_turbo_checkpoint(path).architecture
        return {"network": "SliceFixer", "architecture": architecture, "metadata": {}}
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; name a prior's weights file (.safetensors) as written by "
            "`diffnr finetune`."
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        if header.get("format") != FORMAT or not header.get("network"):
            raise ValueError("not written by this program")
        parsed = {key: json.loads(header[key]) for key in ("architecture", "metadata")}
        if not all(isinstance(value, dict) for value in parsed.values()):
            raise ValueError("no dictionaries in the header")
        if header["network"] not in OURS and "." not in header["network"]:
            raise ValueError(f"no network is called {header['network']}")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not the weights file of a prior or is damaged ({error}); expected "
            "safetensors as written by `diffnr finetune`."
        ) from error
    return {"network": header["network"], **parsed}


def load_prior(path: str | Path, *, allow: Sequence[str] = (), **overrides: Any) -> nn.Module:
    """Build the network that a file describes and load its weights, ready to repair.

    Args:
        path: safetensors written by `save_prior`, or a released SliceFixer (.pkl). Of a .pkl, slices
            are normalised as the released code does (per_slice_minmax, but undone afterwards) and
            turned as its slices lie (orientation xyz, unless the file says otherwise), and
            projections condition the repair only if it holds the fusion adapter.
        allow: packages or modules, beside this one, whose classes the file may name: the module of
            the class is imported, which runs its code.
        **overrides: arguments of `SliceFixer` that replace what the file says, such as base,
            encoder (folders on this machine), organ, precision; of a CompactSliceFixer only
            residual=True and noise=True, see `CompactSliceFixer.with_residual`.

    Raises:
        FileNotFoundError: no such file, or the SliceFixer's base model is not to be had.
        ImportError: a SliceFixer, and transformers or peft is not installed.
        ValueError: not a prior's file, a damaged one, weights that do not fit the architecture, or
            an override that does not exist, or a class of a package that is not allowed.
    """
    return _built(Path(path), allow, overrides).eval().requires_grad_(False)


def load_trainable_prior(
    path: str | Path, *, allow: Sequence[str] = (), **overrides: Any
) -> nn.Module:
    """Build the network that a file describes and load its weights, ready to train.

    What the constructor of its class freezes stays frozen.

    Args:
        path: see `load_prior`, also for what is raised.
        allow: see `load_prior`.
        **overrides: see `load_prior`.
    """
    return _built(Path(path), allow, overrides).train()


def _built(path: Path, allow: Sequence[str], overrides: dict[str, Any]) -> nn.Module:
    """Return the network of a file, as its constructor and its weights leave it."""
    if path.suffix == RELEASED:
        checkpoint = read_turbo_checkpoint(path)
        if (normalisation := checkpoint.architecture["normalisation"]) != "global":
            logger.info(
                "%s does not say how slices are normalised; taken as %s unless that is overridden",
                path,
                normalisation,
            )
        return _load_slicefixer(
            path, SliceFixer, checkpoint.architecture, checkpoint.state, overrides
        )
    header = read_header(path)
    try:
        kind = network_class(header["network"], allow)
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}.") from error
    if issubclass(kind, SliceFixer):
        tensors = _tensors(path, header["network"])
        return _load_slicefixer(path, kind, header["architecture"], tensors, overrides)
    widens = (("residual", True), ("noise", True)) if issubclass(kind, CompactSliceFixer) else ()
    if refused := [f"{k}={v}" for k, v in overrides.items() if (k, v) not in widens]:
        raise ValueError(
            f"{path} holds a {header['network']}, which takes no {', '.join(refused)}; expected "
            "those only with a SliceFixer, and residual=True or noise=True with a CompactSliceFixer."
        )
    tensors = _tensors(path, header["network"])
    # torch 2.8 cannot import its compiler on the meta device, as the first network of diffusers would.
    importlib.import_module("diffusers.models.modeling_utils")
    try:
        with torch.device("meta"):
            expected = kind(**header["architecture"]).state_dict()
        if {n: t.shape for n, t in expected.items()} != {n: t.shape for n, t in tensors.items()}:
            raise ValueError("its weights do not have the names and shapes of its architecture")
    except (ValueError, TypeError, RuntimeError) as error:
        raise _unusable(path, header["network"], error) from error
    prior = kind(**header["architecture"])
    prior.load_state_dict(tensors)
    if "residual" in overrides:
        prior = prior.with_residual()
    if "noise" in overrides:
        prior = prior.with_noise()
    return prior


def _tensors(path: Path, network: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("it holds weights that are not finite")
    except (SafetensorError, OSError, ValueError) as error:
        raise _unusable(path, network, error) from error
    return tensors


def _unusable(path: Path, network: str, error: Exception) -> ValueError:
    return ValueError(f"{path} holds no usable {network} ({error}); train or copy it anew.")


def _load_slicefixer(
    path: Path,
    kind: type[SliceFixer],
    architecture: dict[str, Any],
    state: dict[str, Tensor],
    overrides: dict[str, Any],
) -> SliceFixer:
    """Build a SliceFixer on its base model and load what was trained."""
    known = [name for name in inspect.signature(kind).parameters if name not in FIXED]
    if unknown := [name for name in overrides if name not in known]:
        raise ValueError(
            f"{unknown[0]} is no argument that may replace what {path} says; expected some of "
            f"{', '.join(known)}."
        )
    arguments = {**architecture, **overrides}
    if strange := sorted(arguments.keys() - {*known, *FIXED}):
        raise _unusable(path, "SliceFixer", ValueError(f"its argument {strange[0]} is unknown"))
    has_adapter = any(name.startswith("fusion_adapter.") for name in state)
    if arguments.get("biplanar", True) and not has_adapter:
        raise ValueError(
            f"{path} holds no fusion adapter, without which projections cannot condition the "
            "repair; expected biplanar false."
        )
    if not arguments.get("biplanar", True):
        state = {n: t for n, t in state.items() if not n.startswith("fusion_adapter.")}
    prior = kind(**arguments)
    try:
        prior.load_trained_state(state)
    except ValueError as error:
        raise _unusable(path, "SliceFixer", error) from error
    return prior


def bundled_priors() -> list[str]:
    """Return the names of the priors that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def bundled_weights(name: str = DEFAULT) -> Path:
    """Return the file of a prior that comes with the package.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    path = BUNDLED / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"the weights {path.name} are missing from the installed package; reinstall it, or give a weights file of "
            "your own."
        )
    return path


def load_default() -> CompactSliceFixer:
    """Load the CompactSliceFixer that is part of the package.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    return load_prior(bundled_weights())


def chosen_prior(
    weights: Path | None, overrides: dict[str, Any] | None, allow: tuple[str, ...]
) -> tuple[Prior, Path]:
    """Load the prior of a file, or one that is part of the package, and say where its weights lie.

    Args:
        weights: file, or the name of a prior of the package; None takes the package's CompactSliceFixer.
        overrides: arguments that replace those in the file.
        allow: see `load_prior`.

    Raises:
        ValueError: overrides without weights.
    """
    if weights is None and overrides:
        raise ValueError(
            f"overrides are {sorted(overrides)} without weights; they change a SliceFixer's file, so name it."
        )
    path = Path(weights or DEFAULT)
    if weights is None or (not path.is_file() and str(path) in bundled_priors()):
        path = bundled_weights(str(path))
    return load_prior(path, allow=allow, **(overrides or {})), path
