"""Files of priors: safetensors with architecture and history in the header; never pickles."""

from __future__ import annotations

import json
import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diffnr_lightning.priors.compact import CompactSliceFixer

FORMAT = "diffnr prior 1"
DEFAULT_WEIGHTS = "compact_slicefixer.safetensors"
NETWORKS = {"CompactSliceFixer": CompactSliceFixer}


def save_prior(
    path: str | Path, prior: CompactSliceFixer, metadata: dict[str, Any] | None = None
) -> None:
    """Write the weights (as float16) and all that is needed to build the network again.

    Args:
        path: of the safetensors file; replaced in one step, so that no reader sees half a file. Its
            folder is created if missing.
        prior: network with an `architecture` dictionary of its constructor's arguments.
        metadata: anything JSON can hold: steps, data, configuration.

    Raises:
        ValueError: a network of a class that this reader does not know, or weights that float16
            cannot hold (inf or NaN).
    """
    path = Path(path)
    network = type(prior).__name__
    if network not in NETWORKS:
        raise ValueError(f"prior is a {network}; expected one of {', '.join(NETWORKS)}.")
    tensors = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in prior.state_dict().items()
    }
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(
            f"weight {broken[0]} of the prior is not finite in float16; do not export a run that "
            "diverged: lower its learning rate."
        )
    header = {
        "format": FORMAT,
        "network": network,
        "architecture": json.dumps(prior.architecture),
        "metadata": json.dumps(metadata or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(save(tensors, metadata=header))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_header(path: str | Path) -> dict[str, Any]:
    """Header of a prior's file: network (str), architecture (dict) and metadata (dict).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a prior's file, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; name a prior's weights file (.safetensors) as written by "
            "`diffnr finetune`."
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        if header.get("format") != FORMAT or header.get("network") not in NETWORKS:
            raise ValueError("not written by this program")
        parsed = {key: json.loads(header[key]) for key in ("architecture", "metadata")}
        if not all(isinstance(value, dict) for value in parsed.values()):
            raise ValueError("no dictionaries in the header")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not the weights file of a prior or is damaged ({error}); expected "
            "safetensors as written by `diffnr finetune`."
        ) from error
    return {"network": header["network"], **parsed}


def load_prior(path: str | Path) -> CompactSliceFixer:
    """Build the network that a file describes and load its weights, in float32 and ready to repair.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a prior's file, a damaged one, or weights that do not fit the architecture.
    """
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
        with torch.device("meta"):
            expected = NETWORKS[header["network"]](**header["architecture"]).state_dict()
        if {n: t.shape for n, t in expected.items()} != {n: t.shape for n, t in tensors.items()}:
            raise ValueError("its weights do not have the names and shapes of its architecture")
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("it holds weights that are not finite")
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path} holds no usable {header['network']} ({error}); train or copy it anew."
        ) from error
    prior = NETWORKS[header["network"]](**header["architecture"])
    prior.load_state_dict(tensors)
    return prior.eval().requires_grad_(False)


def load_default() -> CompactSliceFixer:
    """Load the CompactSliceFixer that is part of the package.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    with as_file(files("diffnr_lightning") / "assets" / DEFAULT_WEIGHTS) as path:
        if not path.is_file():
            raise FileNotFoundError(
                f"the weights {DEFAULT_WEIGHTS} are missing from the installed package; reinstall "
                "it, or give a weights file of your own."
            )
        return load_prior(path)
