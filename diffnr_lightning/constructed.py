"""Objects that remember what they were constructed with, so that two of them can be compared after one has served."""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

_PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_FURTHER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _Remembering(ABCMeta):
    """Sees what an object is constructed with, and when that has been done."""

    def __call__(cls, /, *args: Any, **options: Any) -> Any:
        made = super().__call__(*args, **options)
        vars(made)["_constructed_with"] = (args, options)
        vars(made)["_constructed_as_held"] = _held_as_given(made)
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the constructor, which `__call__` would hide from `inspect` and help."""
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=[*signature.parameters.values()][1:])


class Constructed(metaclass=_Remembering):
    """Remember the arguments of the constructor, whichever class of the family defines it.

    Attributes:
        FREE: arguments that change nothing of what comes out, or whose content a run compares by itself.
    """

    FREE: ClassVar[tuple[str, ...]] = ()
    _constructed_with: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    _constructed_as_held: frozenset[str] = frozenset()


def given_to(thing: Constructed) -> dict[str, Any]:
    """Return arguments of the constructor by name, defaults included and `FREE` ones left out.

    One that is kept as an attribute of its name has the value that this was given last. No method, since classes of
    one's own may call an attribute as they like.
    """
    return {
        name: getattr(thing, name, value) if name in thing._constructed_as_held else value
        for name, value in _arguments(thing).items()
        if name not in thing.FREE
    }


def derived(thing: Constructed, name: str) -> None:
    """Take an attribute from now on for what follows from other arguments than that of its name."""
    thing._constructed_as_held -= {name}


def _held_as_given(thing: Constructed) -> frozenset[str]:
    """Return the names of arguments that the constructor has kept as attributes of these names."""
    held = vars(thing)
    # A dataclass makes its defaults in the constructor.
    kept = {field.name for field in fields(thing)} if is_dataclass(thing) else set()
    for name, value in _arguments(thing).items():
        plain = isinstance(value, bool | int | float | str) and type(held.get(name)) is type(value)
        if name in held and (held[name] is value or (plain and held[name] == value)):
            kept.add(name)
    return frozenset(kept)


def _arguments(thing: Constructed) -> dict[str, Any]:
    """Return the arguments as they were given, by the names of the base where a constructor hands them on to it."""
    args, options = thing._constructed_with
    given: dict[str, Any] = {}
    further: dict[str, Any] = {}
    for constructor in _constructors(type(thing)):
        signature = inspect.signature(constructor)
        try:
            bound = signature.bind_partial(thing, *args, **options)
        except TypeError:
            break  # the one before has taken them for itself
        bound.apply_defaults()
        _, *named = [(signature.parameters[name], value) for name, value in bound.arguments.items()]
        args, options, further = (), {}, {}
        for parameter, value in named:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                options = value
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args, further = value, {parameter.name: value}
            else:
                given.setdefault(parameter.name, value)
        placed = any(parameter.kind in _PLACED for parameter, _ in named)
        if (args and placed) or not any(parameter.kind in _FURTHER for parameter, _ in named):
            break  # behind arguments of its own nobody knows which of its base's are meant, or there are none
    return {**given, **further, **options}


def _constructors(kind: type) -> list[Callable[..., None]]:
    """Return the constructors of the family, that of the class first."""
    family = [base for base in kind.__mro__ if issubclass(base, Constructed)]
    return [vars(base)["__init__"] for base in family if "__init__" in vars(base)] or [
        kind.__init__
    ]
