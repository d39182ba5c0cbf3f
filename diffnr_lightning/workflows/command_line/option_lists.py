"""Options of several values and of nested keys, written as jsonargparse reads them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

_NUMBER = re.compile(r"-\.?\d")
# Begins a word that stands for a value of a mapping, which jsonargparse would take for a word otherwise.
_ENTRY = "_entry_"


def lists_as_yaml(parser: ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Rewrite ``--runs a b`` as ``--runs=[a, b]``, which is what jsonargparse reads; ``--runs=a`` is a list too."""
    known = {name for action in parser._actions for name in action.option_strings}
    rewritten: list[str] = []
    rest = list(argv)
    while rest:
        option = rest.pop(0)
        values: list[str] = []
        name, _, value = option.partition("=")
        hint = _option_hint(parser, name)
        items = _item_types(hint)
        nested = name.startswith("--") and "." in name and name not in known
        if items and value:
            option, values = name, [value]
        elif items or (nested and not value):
            values = take_values(rest)
        elif rest and option[:2] == "--" and "=" not in option and _NUMBER.match(rest[0]):
            values.append(rest.pop(0))  # argparse would take -1e3 for an option
        if nested and not items and (len(values) > 1 or "null" in (value, *values)):
            entry = _is_entry(parser, name)
            rewritten.append((_as_entry if entry else _as_config)(name, values or [value]))
            continue
        if not values:
            rewritten.append(option)
            continue
        one = values[0] if len(values) == 1 else ""
        if _is_yaml_list(one) or one == "null" or (one and _takes_one(hint)):
            rewritten.append(f"{option}={one}")
            continue
        if not items & {int, float}:
            # Words stay words: a folder named 007 or yes is no number and no truth.
            values = [_quoted(value) for value in values]
        rewritten.append(f"{option}=[{', '.join(values)}]")
    return rewritten


def restored_entries(namespace: Namespace) -> None:
    """Put the values of a parser's mappings in the place of the words that `lists_as_yaml` wrote for them."""
    for key, value in list(namespace.items()):
        if isinstance(value, dict):
            namespace[key] = _restored(value)


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restored(entry) for key, entry in value.items()}
    if isinstance(value, str) and value.startswith(_ENTRY):
        return yaml.safe_load(bytes.fromhex(value.removeprefix(_ENTRY)))
    return value


def take_values(rest: list[str]) -> list[str]:
    """Take what belongs to an option from the words that follow it, which are left without it."""
    values = []
    while rest and (not rest[0].startswith("-") or _NUMBER.match(rest[0])):
        values.append(rest.pop(0))
    return values


def nested_dict(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain nested dicts, as YAML holds them, of keys with dots, mappings and paths."""
    nested: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *parents, key = dotted.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        if isinstance(value, Mapping):
            node.setdefault(key, {}).update(nested_dict(value))
        else:
            node[key] = _plain(value)
    return nested


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return nested_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def _as_config(option: str, values: Sequence[str]) -> str:
    """Write an option of a class within a class as a config.

    On the command line jsonargparse takes a null there for the word and no list of words.
    """
    key = option[2:].replace(".init_args", "")
    nested = nested_dict({key: _read(values)})
    return f"--config={yaml.safe_dump(nested, sort_keys=False)}"


def _as_entry(option: str, values: Sequence[str]) -> str:
    """Write an option that is an entry of a mapping as a word: a config would replace the other entries."""
    entry = yaml.safe_dump(_read(values), sort_keys=False)
    return f"{option}={_ENTRY}{entry.encode().hex()}"


def _is_entry(parser: ArgumentParser, option: str) -> bool:
    """Tell whether an option is an entry of a mapping of anything, such as the `options` of a method."""
    parent = option.replace(".init_args", "").rpartition(".")[0]
    if parent == "--method.options":
        return True
    hint = _option_hint(parser, parent)
    return dict[str, Any] in (hint, *get_args(hint))


def _quoted(word: str) -> str:
    """Return a word as YAML reads it back: as JSON writes it, but for characters that JSON writes as two."""
    return f'"{"".join(c if ord(c) > 0xFFFF else json.dumps(c)[1:-1] for c in word)}"'


def _is_yaml_list(text: str) -> bool:
    """Tell whether a value is a list; `[old] x` is a name that begins with a bracket."""
    try:
        return text[:1] == "[" and isinstance(yaml.safe_load(text), list)
    except yaml.YAMLError:
        return False


def _read(values: Sequence[str]) -> Any:
    read = [yaml.safe_load(value) for value in values]
    return read if len(read) > 1 else read[0]


def _option_hint(parser: ArgumentParser, option: str) -> Any:
    """Return the type of an option, ``--data.folders`` of an argument that is a class included."""
    hints = {
        name: getattr(action, "_typehint", None)
        for action in parser._actions
        for name in action.option_strings
    }
    if option in hints:
        return hints[option]
    parent, _, key = option.replace(".init_args", "").rpartition(".")
    if inspect.isclass(hints.get(parent)):
        return get_type_hints(hints[parent].__init__).get(key)
    return None


def _takes_one(hint: Any) -> bool:
    """Tell whether one value is no list of one: the type, or an alternative of it, is no list."""
    alternatives = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any(kind is not type(None) and not _item_types(kind) for kind in alternatives)


def _item_types(hint: Any) -> set[Any]:
    """Return the types of the items where a type is a list or tuple, else nothing."""
    if get_origin(hint) in (list, tuple, Sequence):
        return set(get_args(hint)) - {...}
    if get_origin(hint) in (Union, UnionType):
        return set().union(*(_item_types(option) for option in get_args(hint)))
    return set()
