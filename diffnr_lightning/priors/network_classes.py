"""Classes of priors that a weights file may name: ours, and those of packages that the user names.

Building a network imports its module, which runs code. So a file's word is not enough: a class that
is not ours is imported only from a package that whoever loads the file has named.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence

from torch import nn

OURS = {
    "CompactSliceFixer": "diffnr_lightning.priors.slicefixers.compact",
    "SliceFixer": "diffnr_lightning.priors.slicefixers.slicefixer",
}


def network_name(prior: nn.Module) -> str:
    """Return how a weights file names the class of a prior: ours by name, others by import path.

    Raises:
        ValueError: a class that could not be found or built again: one of the main script or inside
            a function, without `repair`, without an `architecture` dictionary that JSON can hold, or
            with an architecture that its constructor does not take.
    """
    kind = type(prior)
    if OURS.get(kind.__name__) == kind.__module__:
        return kind.__name__
    path = f"{kind.__module__}.{kind.__qualname__}"
    reason = _obstacle(prior)
    if reason:
        raise ValueError(
            f"a prior of class {path} cannot be exported: {reason}; expected a class of an importable "
            "module with `repair` and with `architecture`, a dictionary of its constructor's arguments "
            "that JSON can hold."
        )
    return path


def _obstacle(prior: nn.Module) -> str | None:
    """Say why a prior could not be built again from its weights file; None if it could."""
    kind = type(prior)
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        return "it is defined in the main script, a function or a class"
    if not callable(getattr(prior, "repair", None)):
        return "it has no method repair"
    architecture = getattr(prior, "architecture", None)
    if not isinstance(architecture, dict):
        return "it has no dictionary architecture"
    try:
        # A tuple comes back as a list, which constructors take alike.
        again = json.loads(json.dumps(architecture))
        inspect.signature(kind).bind(**again)
    except (TypeError, ValueError) as error:
        return f"its architecture is of no use ({error})"
    return None


def network_class(name: str, allow: Sequence[str] = ()) -> type[nn.Module]:
    """Return the class that a weights file names.

    Args:
        name: of one of our classes, or the import path of another.
        allow: packages or modules, beside ours, whose classes may be imported.

    Raises:
        ValueError: a class of a package that is not allowed, or one that is not there.
    """
    if name in OURS:
        return getattr(importlib.import_module(OURS[name]), name)
    module, _, attribute = name.rpartition(".")
    if not any(module == package or module.startswith(f"{package}.") for package in allow):
        raise ValueError(
            f"it holds {name}, a class of another package, which is imported only if allow names "
            f"that package (such as {module.partition('.')[0]})"
        )
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"its class {name} cannot be imported here ({error})") from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module) and hasattr(kind, "repair")):
        raise ValueError(f"its class {name} is no network with a method repair")
    return kind
