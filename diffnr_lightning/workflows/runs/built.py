"""What was built in Python rather than from settings, in words that a run folder can keep and compare."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from diffnr_lightning.constructed import Constructed, given_to
from diffnr_lightning.workflows.runs.weights_record import PACKAGE

UNKNOWN = "a function without a name"
"""Stands for what cannot be told from another one."""
FORMAT = {"told": 2}
"""Goes into a record beside what is built; the records of earlier versions, which told less, lack it."""

# Set by Lightning and torch in what they serve.
OF_TRAINER = ("trainer", "training")
# Their own modules say nothing that the shapes of the weights do not say.
OF_OTHERS = ("torch", "torchmetrics", "diffusers", "transformers")
# Types whose text says all of a value; those of packages by name, since none is imported here.
OF_TEXT = (range, slice, complex, bytes)
NAMED_OF_TEXT = ("numpy.dtype", "torch.device", "torch.dtype")


def built(thing: Any, _inside: tuple[int, ...] = ()) -> Any:
    """Return what a thing is, as YAML holds it; equal for things that were built alike.

    Args:
        thing: number, text, array, function, class or object. What is `Constructed` is told by the arguments of its
            constructor, other objects by what they hold. `UNKNOWN` stands for a lambda or a function inside another
            one.
    """
    if thing is None:
        return None
    for kind in (bool, int, float, str):
        if isinstance(thing, kind):
            return kind(thing)  # numpy's float64 is a float, which YAML cannot write
    if isinstance(thing, Path):
        # The package may be installed elsewhere by the time a run goes on.
        return str(thing.relative_to(PACKAGE) if thing.is_relative_to(PACKAGE) else thing)
    if id(thing) in _inside:
        return type(thing).__qualname__
    inside = functools.partial(built, _inside=(*_inside, id(thing)))
    if _is_told_by_text(thing):
        return str(thing)
    if isinstance(thing, Mapping):
        return {str(key): inside(value) for key, value in thing.items()}
    if isinstance(thing, set | frozenset):
        return sorted((inside(value) for value in thing), key=repr)
    if isinstance(thing, list | tuple) and not hasattr(thing, "_asdict"):
        return [inside(value) for value in thing]
    if hasattr(thing, "tolist"):
        return _hash_of_array(thing) if getattr(thing, "shape", ()) else inside(thing.tolist())
    if isinstance(thing, functools.partial):
        return {
            "function": inside(thing.func),
            "args": inside(thing.args),
            **inside(thing.keywords),
        }
    if inspect.ismethod(thing) and not inspect.isclass(thing.__self__):
        return {"function": inside(thing.__func__), "of": inside(thing.__self__)}
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return _name_of_callable(thing)
    return {"class": type(thing).__qualname__, **inside(_held(thing))}


def is_known(described: Any) -> bool:
    """Whether what `built` returned leaves nothing open."""
    if isinstance(described, dict):
        return all(map(is_known, described.values()))
    if isinstance(described, list):
        return all(map(is_known, described))
    return described != UNKNOWN


def untold(before: Any, now: Any, name: str) -> list[str]:
    """Return the names of what a record tells and one of an earlier version does not, which binds nobody.

    Args:
        before: what `built` returned for the earlier run, None where that told nothing at all.
        now: what it returns for this one.
        name: of the two in the settings.
    """
    if before is None:
        return [name]
    return [] if FORMAT.items() <= before.items() else _missing(before, now, name)


def _missing(before: Any, now: Any, name: str) -> list[str]:
    if isinstance(before, list) and isinstance(now, list):
        before, now = (dict(enumerate(values)) for values in (before, now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return []
    new = [f"{name}.{key}" for key in now if key not in before]
    known = [_missing(before[key], now[key], f"{name}.{key}") for key in now if key in before]
    return sum(known, new)


def _is_told_by_text(thing: Any) -> bool:
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(thing).__mro__}
    return isinstance(thing, OF_TEXT) or not kinds.isdisjoint(NAMED_OF_TEXT)


def _held(thing: Any) -> dict[str, Any]:
    """Return what an object was given, or else what it holds."""
    if isinstance(thing, Constructed):
        return given_to(thing)
    if is_dataclass(thing):
        return {field.name: getattr(thing, field.name) for field in fields(thing) if field.init}
    if isinstance(thing, enum.Enum):
        return {"holds": thing.name}
    if hasattr(thing, "_asdict"):
        return thing._asdict()
    if hasattr(thing, "named_modules"):
        return _of_network(thing)
    if not hasattr(thing, "__dict__"):
        return {"holds": UNKNOWN}
    public = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
    # Beside what is public, the rest is taken for a cache.
    told = public or vars(thing)
    return {name: value for name, value in told.items() if name not in OF_TRAINER}


def _of_network(network: Any) -> dict[str, Any]:
    """Return the numbers and words that a network and the parts of it hold, and the shapes of its weights."""
    shapes = [(name, tuple(values.shape)) for name, values in network.state_dict().items()]
    found: dict[str, Any] = {"weights": hashlib.sha256(repr(shapes).encode()).hexdigest()}
    for path, part in network.named_modules():
        if type(part).__module__.partition(".")[0] in OF_OTHERS:
            continue
        for name, value in vars(part).items():
            if not name.startswith("_") and name not in OF_TRAINER and _is_plain(value):
                found[f"{path}.{name}" if path else name] = built(value)
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Path)


def _hash_of_array(thing: Any) -> str:
    """Return the SHA-256 of a tensor or array with its type and shape."""
    import numpy as np
    import torch

    kind = f"{thing.dtype} {tuple(thing.shape)}"
    if isinstance(thing, torch.Tensor):
        # As bytes, since numpy has no bfloat16.
        thing = thing.detach().cpu().contiguous().flatten().view(torch.uint8)
    values = np.ascontiguousarray(thing)
    content = repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
    return hashlib.sha256(kind.encode() + content).hexdigest()


def _name_of_callable(thing: Any) -> str:
    """Return module and name of a class or function; `UNKNOWN` where it has none, or others of this name exist."""
    place, name = getattr(thing, "__module__", None), thing.__qualname__
    owner = getattr(thing, "__self__", None)
    if inspect.isclass(owner):
        place, name = owner.__module__, f"{owner.__qualname__}.{thing.__name__}"
    elif owner is not None and not inspect.ismodule(owner):
        return UNKNOWN
    return f"{place}.{name}" if place and "<" not in name else UNKNOWN
