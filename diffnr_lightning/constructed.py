"""Objects that remember what they were constructed with, so that two of them can be compared after one has served."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from typing_extensions import Self


class Constructed:
    """Remember the arguments of the constructor, whichever class of the family defines it.

    Attributes:
        FREE: arguments that change nothing of what comes out, or whose content a run compares by itself.
    """

    FREE: ClassVar[tuple[str, ...]] = ()
    _constructed_with: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Make the object and keep what its constructor is going to be called with."""
        made = super().__new__(cls)
        vars(made)["_constructed_with"] = (args, options)
        return made


def given_to(thing: Constructed) -> dict[str, Any]:
    """Return arguments of the constructor by name, defaults included and `FREE` ones left out.

    No method, since classes of one's own may call an attribute as they like.
    """
    args, options = thing._constructed_with
    signature = inspect.signature(type(thing).__init__)
    bound = signature.bind(thing, *args, **options)
    bound.apply_defaults()
    _, *named = bound.arguments.items()
    given: dict[str, Any] = {}
    for name, value in named:
        further = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        given |= value if further else {name: value}
    return {name: value for name, value in given.items() if name not in thing.FREE}
