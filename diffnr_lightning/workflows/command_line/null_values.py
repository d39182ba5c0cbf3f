"""Nulls where a value is expected, which jsonargparse lets pass in configs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints


def check_nulls(function: Callable[..., Any], values: Mapping[str, Any], path: str = "--") -> None:
    """Refuse a null for a parameter whose type has none, in a workflow and in classes of ours.

    Args:
        function: the workflow, or the constructor of a class, with its types imported.
        values: by name, as YAML holds them; classes as nodes ``{class_path, init_args}``.
        path: of the options.

    Raises:
        ValueError: it, with the option's name.
    """
    hints = _hints(function)
    for name, value in values.items():
        hint = hints.get(name, Any)
        if value is None and hint is not Any and type(None) not in (hint, *get_args(hint)):
            kind = hint.__name__ if inspect.isclass(hint) else "a value"
            raise ValueError(f"{path}{name} is null; {kind} is expected.")
        nodes = value if isinstance(value, list) else [value]
        for node in nodes:
            if not isinstance(node, dict):
                continue
            if str(node.get("class_path")).startswith("diffnr_lightning."):
                module, _, kind = node["class_path"].rpartition(".")
                constructor = getattr(importlib.import_module(module), kind).__init__
                check_nulls(constructor, node.get("init_args") or {}, f"{path}{name}.")
            elif inspect.isclass(hint) and hint.__module__.startswith("diffnr_lightning."):
                check_nulls(hint.__init__, node, f"{path}{name}.")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    signature = getattr(function, "__signature__", None)
    if signature is not None:
        return {name: parameter.annotation for name, parameter in signature.parameters.items()}
    try:
        return get_type_hints(function)
    except NameError:  # a type that is imported for type checkers only
        return {}
