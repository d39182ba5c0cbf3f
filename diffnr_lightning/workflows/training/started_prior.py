"""The prior or denoiser that a training goes on from, and whether it is the one that the settings describe."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from diffnr_lightning.priors import (
    CompactDenoiser,
    CompactSliceFixer,
    PatchDenoiser,
    SliceFixer,
    UNetDenoiser,
    load_denoiser,
    load_trainable_prior,
    read_header,
)


def started_prior(
    start: Path,
    described: Any,
    overrides: Mapping[str, Any],
    allow: Sequence[str] = (),
) -> nn.Module:
    """Load the prior of a file to train it, and refuse settings of the prior that the file contradicts.

    Arguments of a SliceFixer that its file does not hold, such as `gradient_checkpointing` and, of a released file, the
    organ, are those of the settings. An argument at its default says nothing, as nobody need have given it.

    Args:
        start: file of weights.
        described: `{class_path, init_args}` of the settings, defaults filled in. Anything else, such as the name of a
            function that builds the prior, is not compared.
        overrides: arguments that replace those in the file.
        allow: packages or modules whose classes the file may name.

    Raises:
        ValueError: another class or other arguments than those of the file, and what `load_prior` refuses.
    """
    kind, given = _described(described)
    if kind is None:
        return load_trainable_prior(start, allow=allow, **overrides)
    header = read_header(start)
    names = (kind.__name__, f"{kind.__module__}.{kind.__qualname__}")
    if header["network"] not in names and (given or kind is not CompactSliceFixer):
        raise ValueError(
            f"prior is a {kind.__name__}, but start {start} holds a {header['network']}; leave prior out, or name a "
            "file of its class."
        )
    given = {name: value for name, value in given.items() if name not in overrides}
    lacking = given.keys() - header["architecture"].keys() if issubclass(kind, SliceFixer) else ()
    added = {name: given.pop(name) for name in lacking}
    network = load_trainable_prior(start, allow=allow, **added, **overrides)
    for name, value in given.items():
        held = network.architecture.get(name)
        if _plain(held) != _plain(value):
            raise ValueError(
                f"prior.init_args.{name} is {value!r}, but {held!r} in start {start}; leave it out, or replace that of "
                f"the file by start_overrides.{name}, as far as its network can."
            )
    return network


def started_denoiser(start: Path, described: Any) -> UNetDenoiser | PatchDenoiser:
    """Load the denoiser of a folder to train it, and refuse settings of the denoiser that the folder contradicts.

    Args:
        start: folder of the denoiser.
        described: as of `started_prior`; only a CompactDenoiser and a PatchDenoiser are compared.

    Raises:
        ValueError: another class or other arguments than those of the folder, and what `load_denoiser` refuses.
    """
    # Not a name of the package's, which would go before a folder.
    network = load_denoiser(start.absolute())
    kind, given = _described(described)
    if kind not in (CompactDenoiser, PatchDenoiser) or (kind is CompactDenoiser and not given):
        return network
    if (kind is PatchDenoiser) != isinstance(network, PatchDenoiser):
        raise ValueError(
            f"denoiser is a {kind.__name__}, but start {start} holds a {type(network).__name__}; leave one of the two "
            "out."
        )
    held = _arguments(network)
    for name, value in given.items():
        if _plain(held[name]) != _plain(value):
            raise ValueError(
                f"denoiser.init_args.{name} is {value!r}, but {held[name]!r} in start {start}; leave one of the two "
                "out."
            )
    return network


def _arguments(denoiser: UNetDenoiser | PatchDenoiser) -> dict[str, Any]:
    """Return the arguments by which a PatchDenoiser, or the CompactDenoiser that a denoiser of slices is, is built."""
    if isinstance(denoiser, PatchDenoiser):
        return denoiser.architecture
    unet, scheduler = denoiser.unet.config, denoiser.scheduler
    return {
        **denoiser.architecture,
        "channels": denoiser.channels,
        "widths": unet.block_out_channels,
        "layers": unet.layers_per_block,
        "gaps": denoiser.gaps,
        "prediction": denoiser.schedule.prediction,
        "beta_schedule": scheduler.get("beta_schedule", "linear"),
        "steps": denoiser.schedule.steps,
    }


def _described(node: Any) -> tuple[type | None, dict[str, Any]]:
    """Return the class that a node names, and those of its arguments that are not at their default."""
    if not isinstance(node, Mapping):
        return None, {}
    module, _, name = node["class_path"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    if not inspect.isclass(kind):
        return None, {}
    parameters = inspect.signature(kind).parameters
    return kind, {
        name: value
        for name, value in (node.get("init_args") or {}).items()
        if name not in parameters or _plain(parameters[name].default) != _plain(value)
    }


def _plain(value: Any) -> Any:
    """Return a value as it comes back from a file."""
    return json.loads(json.dumps(value, default=str))
