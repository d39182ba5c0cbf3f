"""What a killed sampler needs to go on, in a dictionary that `torch.save` holds."""

from __future__ import annotations

import math
from typing import Any

# What the noise of a ray, a mean over all of them, differs by between processors and numbers of threads, and more.
_ROUNDING = 1e-6

SamplerState = dict[str, Any]
"""Filled by a sampler after each step; a sampler that is given it again goes on behind that step.

``settings``: what must not differ; ``done``: steps; ``estimate``: (Z, Y, X) in unit, a preview; the rest is the
sampler's own. Tensors in it are never overwritten, so that it may be kept as it is.
"""


def resumed(state: SamplerState | None, settings: dict[str, Any]) -> SamplerState:
    """Return the state to go on with, new where there is none.

    Args:
        state: of an earlier call, empty, or None.
        settings: what the volume depends on, as numbers, words and lists of them; fractions agree but for rounding.

    Raises:
        ValueError: the state of a sampler with other settings.
    """
    state = {} if state is None else state
    found = state.setdefault("settings", settings)
    for name, value in settings.items():
        if not _agree(found.get(name), value):
            raise ValueError(
                f"state is that of a sampler with {name} {found.get(name)!r}; {value!r} is expected, or an empty state."
            )
    state.setdefault("done", 0)
    return state


def begun_with(state: SamplerState, name: str, value: float) -> float:
    """Return the setting of a state where it agrees with a value that was computed anew, which may differ in last bits.

    Args:
        state: of an earlier call, or empty.
        name: of the setting.
        value: of it now, which is returned else.
    """
    found = state.get("settings", {}).get(name)
    return found if _agree(found, value) else value


def begun(state: SamplerState | None) -> bool:
    """Return whether a state has steps done, after which no sampler but `dinr` needs what it started from."""
    return bool(state) and state.get("done", 0) > 0


def _agree(found: Any, value: Any) -> bool:
    """Return whether two settings are the same, fractions but for rounding."""
    if isinstance(found, float) and isinstance(value, float):
        return math.isclose(found, value, rel_tol=_ROUNDING)
    return found == value
