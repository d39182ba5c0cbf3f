"""How a `table.yaml` is read: its names as they are written, and what does not fit refused in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from diffnr_lightning.workflows.command_line.config_files import check_yaml

Scale = Literal["full", "miniature"]


class _NamedLoader(yaml.SafeLoader):
    """Takes the keys of mappings for text, as they are written: `no` or `1.0e+5` may be the name of a method."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def read_named(path: Path) -> dict[str, Any]:
    """Return what a file holds, with all keys as they are written.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `check_yaml`.
    """
    check_yaml(path)
    return yaml.load(path.read_text(encoding="utf-8"), _NamedLoader)  # noqa: S506 -- a SafeLoader


def check_text(path: Path, key: str, entry: Any) -> None:
    """Refuse what YAML reads as something else than text.

    Raises:
        ValueError: neither text nor None.
    """
    if not isinstance(entry, str | None):
        raise ValueError(
            f"{path}: {key} is {entry!r}, which YAML reads as {type(entry).__name__}; text, in quotes where needed, is "
            "expected."
        )


def check_keys(path: Path, entry: Any, needed: set[str], possible: set[str]) -> None:
    """Refuse what is no mapping, lacks keys or has others.

    Raises:
        ValueError: saying which keys there are.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"{path} has {entry!r} where a mapping is expected.")
    keys = set(entry)
    if not needed <= keys or keys - needed - possible:
        expected = f"{', '.join(sorted(needed))}{' and perhaps ' if needed else ''}"
        raise ValueError(
            f"{path} has the keys {', '.join(map(str, sorted(keys)))} where {expected}"
            f"{', '.join(sorted(possible))} are expected."
        )


def listed(path: Path, key: str, entry: Any) -> tuple[Any, ...]:
    """Return the entries of a list.

    Raises:
        ValueError: no list.
    """
    if isinstance(entry, str) or not isinstance(entry, Sequence):
        raise ValueError(f"{path}: {key} is {entry!r}; a list is expected.")
    return tuple(entry)


def of_scale(path: Path, key: str, entry: Any, scale: Scale) -> Any:
    """Return what an entry says for a scale; None where it says nothing.

    Raises:
        ValueError: no mapping.
    """
    if not isinstance(entry or {}, Mapping):
        raise ValueError(
            f"{path}: {key} is {entry!r}; a mapping with {' and '.join(get_args(Scale))} is expected."
        )
    return (entry or {}).get(scale)
