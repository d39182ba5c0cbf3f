"""Models of others: read from a folder or the hub, or one sentence that says how to get them."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

from safetensors import SafetensorError


def optional_package(name: str) -> ModuleType:
    """Import a package that only the full-size SliceFixer needs.

    Raises:
        ImportError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"the SliceFixer needs the package {name}, which is not installed; expected an "
            'installation with the extra: pip install "diffnr-lightning[slicefixer]".'
        ) from error


def load_pretrained(
    load: Callable[..., Any], source: str, argument: str, repository: str, **options: Any
) -> Any:
    """Call a `from_pretrained` that takes `source`, with all its failures put in one sentence.

    Args:
        load: `from_pretrained` of a class of diffusers or transformers. The environment variable
            HF_HUB_OFFLINE keeps it from asking the hub.
        source: name on the hub, or a folder.
        argument: what `source` is called where the user gives it.
        repository: name on the hub of the model that is meant to be used.
        **options: further arguments of `load`, such as subfolder.

    Raises:
        FileNotFoundError: neither a folder with the files nor to be had from the hub.
        ValueError: files of another model, or damaged or incomplete ones.
    """
    part = options.get("subfolder") or options.get("filename")
    named = f"{argument} {source!r}" if part is None else f"{part} of {argument} {source!r}"
    how = (
        f"get the model with `hf download {repository} --local-dir FOLDER` and give {argument}="
        "FOLDER"
    )
    try:
        return load(source, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"{named} was found neither as a folder nor on the hub; {how}."
        ) from error
    except (
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        raise ValueError(
            f"{named} cannot be read ({type(error).__name__}), its files are damaged or of another "
            f"model; {how}."
        ) from error


def load_weights(
    load: Callable[..., Any], source: str, argument: str, repository: str, **options: Any
) -> Any:
    """Load a network as `load_pretrained` does, and refuse one that lacks weights.

    The libraries leave a missing weight at a random value, with no more than a warning.

    Raises:
        FileNotFoundError: neither a folder with the files nor to be had from the hub.
        ValueError: files of another model, or damaged or incomplete ones.
    """
    network, report = load_pretrained(
        load, source, argument, repository, output_loading_info=True, **options
    )
    if report["missing_keys"]:
        raise ValueError(
            f"{argument} {source!r} has no weights {min(report['missing_keys'])}; get the model "
            f"anew with `hf download {repository} --local-dir FOLDER` and give {argument}=FOLDER."
        )
    return network.requires_grad_(False).eval()
