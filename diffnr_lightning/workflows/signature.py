"""The signature of a workflow as the parser of its options reads it.

Classes that are `lazy.deferred` are imported where an option or config gives one, and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any

from diffnr_lightning.lazy import Deferred

# What may stand for a class in YAML: its path, a node with its arguments, several of either. Not
# `Any`, for which jsonargparse imports what a `class_path` names.
OPEN = dict | list | str | None


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
        parameters.append(parameter.replace(annotation=hint, default=default))

    @functools.wraps(function)
    def stand_in(**arguments: Any) -> Any:
        return function(**arguments)

    stand_in.__signature__ = inspect.signature(function).replace(parameters=parameters)
    return stand_in
