"""The signature of a workflow as the parser of its options reads it.

Classes that are `lazy.deferred` are imported where an option or config gives one, and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from diffnr_lightning.data.case_folder.metadata import refuse_to_replace
from diffnr_lightning.lazy import Deferred

# What may stand for a class in YAML: its path, a node with its arguments, several of either. Not
# `Any`, for which jsonargparse imports what a `class_path` names.
OPEN = dict | list | str | None


class Checked(NamedTuple):
    """Mark a parameter whose value is checked before classes are imported.

    A parameter asks for it by its type: ``shard: Annotated[str, Checked(shard_of)]``.

    Attributes:
        check: called with the value; raises a ValueError or an OSError in words.
    """

    check: Callable[[Any], Any]


def exists(what: str) -> Checked:
    """Return the mark of a path where something has to be.

    Args:
        what: it is called in the FileNotFoundError.
    """

    def refuse_nothing(path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{what} {path} does not exist; check the path.")

    return Checked(refuse_nothing)


def at_least(least: int, what: str) -> Checked:
    """Return the mark of a whole number with a lower bound, such as a seed or a number of things.

    Args:
        least: the bound, itself allowed.
        what: option it is called, in the ValueError.
    """

    def refuse_less(number: int) -> None:
        if number < least:
            raise ValueError(f"{what} is {number}; a whole number of at least {least} is expected.")

    return Checked(refuse_less)


def folder_to_be(what: str) -> Checked:
    """Return the mark of a folder that is made where there is none.

    Args:
        what: it is for, in the ValueError.
    """

    def refuse_files(path: Path) -> None:
        for place in (path, *path.parents):
            if place.exists() and not place.is_dir():
                raise ValueError(f"{place} is a file; a folder for the {what} is expected.")

    return Checked(refuse_files)


def case_to_be() -> Checked:
    """Return the mark of a case folder that is written: a new or empty one, or one that holds a case alone already."""

    def refuse_others(path: Path) -> None:
        folder_to_be("case").check(path)
        refuse_to_replace(path)

    return Checked(refuse_others)


def file_to_be(what: str) -> Checked:
    """Return the mark of a file that is written.

    Args:
        what: it is, in the ValueError.
    """

    def refuse_folders(path: Path) -> None:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; a name for the {what} is expected.")
        folder_to_be(what).check(path.parent)

    return Checked(refuse_folders)


def passes_over(*keys: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the mark of a workflow that takes configs of another one, some of whose keys mean nothing to it.

    Args:
        keys: that are left out of configs; options of these names there are none.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.passed_over = frozenset(keys)
        return function

    return mark


def passed_over(function: Callable[..., Any]) -> frozenset[str]:
    """Return the keys that a workflow passes over in configs."""
    return getattr(function, "passed_over", frozenset())


def check(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a workflow that are marked by `Checked`; None is left out.

    Args:
        function: the workflow.
        arguments: by name.
    """
    # Python 3.10 hides the mark of a parameter that may be None from `get_type_hints`.
    for name, hint in inspect.get_annotations(function, eval_str=True).items():
        for mark in get_args(hint) if get_origin(hint) is Annotated else ():
            if isinstance(mark, Checked) and arguments.get(name) is not None:
                mark.check(arguments[name])


def deferred_parameters(function: Callable[..., Any]) -> dict[str, dict[str, Deferred]]:
    """Return the deferred classes in the type of each parameter that has some, by their names there.

    Args:
        function: a workflow, of a file with ``from __future__ import annotations``.
    """
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        words = re.findall(r"\w+", parameter.annotation)
        classes = {word: function.__globals__.get(word) for word in words}
        classes = {word: kind for word, kind in classes.items() if isinstance(kind, Deferred)}
        if classes:
            found[name] = classes
    return found


def with_classes(
    function: Callable[..., Any], wanted: Collection[str] | None = None
) -> Callable[..., Any]:
    """Return a stand-in for a workflow with its documentation and the types of its signature.

    Args:
        function: the workflow.
        wanted: parameters whose deferred classes are imported; None is all. The type of the others
            is left open, and a class that is their default is named by its path.
    """
    deferred = deferred_parameters(function)
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        classes, default = deferred.get(name, {}), parameter.default
        if wanted is None or name in wanted or not classes:
            imported = {word: kind.imported() for word, kind in classes.items()}
            hint = eval(parameter.annotation, {**function.__globals__, **imported})
            default = default.imported() if isinstance(default, Deferred) else default
        else:
            hint = OPEN
            if isinstance(default, Deferred):
                default = {"class_path": default.class_path}
        if get_origin(hint) is Annotated and isinstance(get_args(hint)[1], Checked):
            hint = get_args(hint)[0]
        parameters.append(parameter.replace(annotation=hint, default=default))

    @functools.wraps(function)
    def stand_in(**arguments: Any) -> Any:
        return function(**arguments)

    stand_in.__signature__ = inspect.signature(function).replace(parameters=parameters)
    return stand_in
