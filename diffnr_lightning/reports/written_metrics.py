"""The form of the metrics file of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NUMBER = int | float | None
_NUMBERS = {...: _NUMBER}
WRITTEN = {
    "protocols": {...: _NUMBERS},
    "projections": _NUMBERS,
    "chi_square": {"mean": _NUMBERS},
    "prior": _NUMBERS,
    "history": {...: [_NUMBER]},
    "noise": {"mode": str},
    "window_hu": [int | float] * 2,
    "size": [int],
    "views": int,
    "seconds": _NUMBER,
    "peak_memory_mb": _NUMBER,
    "evaluations": _NUMBER,
    "iterations": _NUMBER,
    "normalised_by": _NUMBER,
}
"""What a run writes into its metrics, as far as it is shown: a type, a list of a form (of two: a pair), or a mapping
with forms by name, `...` for any name."""
ANEW = "remove the folder of the run and run the reconstruction again"
"""What to do about a damaged run. A finished one is otherwise left as it is."""


def refuse_strange(content: Mapping[str, Any], path: Path) -> None:
    """Refuse entries of a metrics file that cannot be shown.

    Raises:
        ValueError: names the first of them.
    """
    for key, form in WRITTEN.items():
        if content.get(key) is not None and not _has_form(content[key], form):
            raise ValueError(f"{path} says of {key} {content[key]!r}, which no run does; {ANEW}.")


def _has_form(value: Any, form: Any) -> bool:
    """Whether a value of a JSON file is of a form, see `WRITTEN`."""
    if isinstance(form, list):
        counted = isinstance(value, list) and len(form) in (1, len(value))
        return counted and all(_has_form(each, form[0]) for each in value)
    if isinstance(form, dict):
        named = value if ... in form else form
        return isinstance(value, dict) and all(
            _has_form(value.get(name), form.get(name, form.get(...))) for name in named
        )
    return isinstance(value, form)
