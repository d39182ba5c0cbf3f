"""Names that are imported when they are first used: nobody waits for what is not used.

torch takes two seconds to import, Lightning eight. `attributes` is for the ``__init__`` of a
package, `deferred` for the classes in the signature of a command, which the parser of its options
needs the names of but not the classes themselves.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attributes(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose files import lazily.

    Args:
        package: its ``__name__``.
        names: file without the ending -> what the package offers of it. A name must not be that of
            a file: once the file is imported, Python would give the module in its place.

    Raises:
        ValueError: a name that is that of a file too.

    Source: PEP 562.
    """
    files = {name: file for file, offered in names.items() for name in offered}
    if twice := sorted(files.keys() & names.keys()):
        raise ValueError(f"{package} offers {twice[0]!r}, which is the name of a file as well.")

    def get(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{files[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *files}), sorted(files)


class Deferred(type):
    """The type of classes that stand for others until those are needed.

    Something can be an instance or a subclass of the other class only where that was imported; if
    it was not, the answer is no, without an import.
    """

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        """Return an instance of the class that is stood for, which is imported."""
        return cls.imported()(*arguments, **options)

    def __instancecheck__(cls, thing: Any) -> bool:
        return isinstance(thing, cls._if_imported())

    def __subclasscheck__(cls, other: type) -> bool:
        return other is cls or issubclass(other, cls._if_imported())

    @property
    def class_path(cls) -> str:
        """Module that defines the class, and its name."""
        return f"{cls.__module__}.{cls.__qualname__}"

    def imported(cls) -> type:
        """Return the class that is stood for."""
        return getattr(importlib.import_module(cls.__module__), cls.__qualname__)

    def _if_imported(cls) -> Any:
        # An empty tuple is what nothing is an instance or subclass of.
        return getattr(sys.modules.get(cls.__module__), cls.__qualname__, ())


def deferred(class_path: str) -> Any:
    """Return a class that stands for another, which is imported when it is needed.

    Args:
        class_path: module that defines the class, and its name.
    """
    module, _, name = class_path.rpartition(".")
    return Deferred(name, (), {"__module__": module, "__qualname__": name})
