"""Options of classes, compared with the source of the classes before one of them is imported.

Some classes need seconds to import; a misspelt option of theirs is refused at once all the same.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffnr_lightning.workflows.command_line.refusals import nearest

PACKAGE = Path(__file__).resolve().parents[2]


def class_nodes(
    argv: Sequence[str], configs: Sequence[Path], names: Collection[str]
) -> dict[str, Any]:
    """Return what configs and options give for some parameters, merged from left to right.

    Args:
        argv: options as on the command line, ``--config=FILE`` among them.
        configs: these files.
        names: of parameters whose types are classes.

    Returns:
        Name -> node as YAML holds it, ``{class_path, init_args}`` or options without `init_args`.
    """
    nodes: dict[str, Any] = {}
    for config in configs:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        _merge(nodes, {key: node for key, node in content.items() if key in names})
    for option, following in zip(argv, [*argv[1:], ""], strict=False):
        dotted, equals, value = option.removeprefix("--").partition("=")
        keys = dotted.split(".")
        if not option.startswith("--") or keys[0] not in names:
            continue
        node: Any = _parsed(value if equals else following)
        if isinstance(node, str) and len(keys) == 1:
            node = {"class_path": node}
        for key in reversed(keys):
            node = {key: node}
        _merge(nodes, node)
    return nodes


def check_class_options(nodes: Mapping[str, Any]) -> None:
    """Refuse options that the class of their node does not have.

    Args:
        nodes: as of `class_nodes`. What cannot be known from the source of our classes is left to
            the parser.

    Raises:
        ValueError: the option, with the nearest one that there is.
    """
    for name, node in nodes.items():
        for single in node if isinstance(node, list) else [node]:
            _check(single, f"--{name}")


@functools.cache
def class_parameters(class_path: str) -> tuple[str, ...] | None:
    """Return the parameters of a class of ours, read from its source.

    Args:
        class_path: import path, by its file or by its package.

    Returns:
        Their names; None for a class of others, and for one that takes any or has no constructor of
        its own.
    """
    module, _, name = class_path.rpartition(".")
    package, *parts = module.split(".")
    if package != PACKAGE.name:
        return None
    place = PACKAGE.joinpath(*parts)
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    for file in files:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if f"class {name}" in text:
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return _constructor_parameters(node)
    return None


def _constructor_parameters(kind: ast.ClassDef) -> tuple[str, ...] | None:
    for node in kind.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            if node.args.vararg or node.args.kwarg:
                return None
            return tuple(a.arg for a in (*node.args.args[1:], *node.args.kwonlyargs))
    return None


def _check(node: Any, path: str) -> None:
    if not isinstance(node, dict) or not isinstance(node.get("class_path"), str):
        return
    class_path = node["class_path"]
    known = class_parameters(class_path)
    if known is None:
        return
    arguments: dict[str, Any] = {}
    for given in (node.get("init_args") or {}, node):
        if isinstance(given, dict):
            _merge(arguments, copy.deepcopy(given))
    options = {k: v for k, v in arguments.items() if k not in ("class_path", "init_args", "help")}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"{path}: {class_path} has no '{key}'{nearest(key, known)}.")
        _check(value, f"{path}.{key}")


def _merge(nodes: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Lay nodes over others; one of another class replaces what was given for the former class."""
    for key, value in more.items():
        before = nodes.get(key)
        # A class may be given by its path alone, before or after its options.
        if isinstance(before, str) and isinstance(value, dict):
            before = nodes[key] = {"class_path": before}
        if isinstance(before, dict) and "class_path" in before and isinstance(value, str):
            value = {"class_path": value}
        if not (isinstance(before, dict) and isinstance(value, dict)):
            nodes[key] = value
        elif value.get("class_path", before.get("class_path")) != before.get("class_path"):
            nodes[key] = value
        else:
            _merge(before, value)


def _parsed(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value
