"""What a killed sampler needs to go on, in a dictionary that `torch.save` holds."""

from __future__ import annotations

from typing import Any

SamplerState = dict[str, Any]
"""Filled by a sampler after each step; a sampler that is given it again goes on behind that step.

``settings``: what must not differ; ``done``: steps; ``estimate``: (Z, Y, X) in unit, a preview; the rest is the
sampler's own. Tensors in it are never overwritten, so that it may be kept as it is.
"""


def resumed(state: SamplerState | None, settings: dict[str, Any]) -> SamplerState:
    """Return the state to go on with, new where there is none.

    Args:
        state: of an earlier call, empty, or None.
        settings: what the volume depends on, as numbers, words and lists of them.

    Raises:
        ValueError: the state of a sampler with other settings.
    """
    state = {} if state is None else state
    found = state.setdefault("settings", settings)
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f"state is that of a sampler with {name} {found.get(name)!r}; {value!r} is expected, or an empty state."
            )
    state.setdefault("done", 0)
    return state


def begun(state: SamplerState | None) -> bool:
    """Return whether a state has steps done, after which no sampler but `dinr` needs what it started from."""
    return bool(state) and state.get("done", 0) > 0
