"""Where a run was made: its environment as it recorded it, and what of a machine it computed on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENVIRONMENT_FILE = "environment.json"
PLACES = ("device", "accelerator", "devices")
"""Settings that say where a run computes; its environment has them, of an earlier version its config alone."""


def environment_of(folder: Path) -> dict[str, Any]:
    """Return what a run recorded of its code, machine and inputs; nothing where that cannot be read."""
    try:
        content = json.loads((folder / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def used_gpus(record: Mapping[str, Any]) -> list[str]:
    """Return the names of the GPUs that a run computed on; all that it saw where it does not say.

    Args:
        record: its environment, with `PLACES` as far as they are known.
    """
    gpus = list(record.get("gpus") or [])
    device, devices = record.get("device"), str(record.get("devices", ""))
    if (device or record.get("accelerator")) == "cpu":
        return []
    if device:
        number = str(device).partition(":")[2]
        first = int(number) if number.isdigit() else 0
        return gpus[first : first + 1]
    return gpus[: int(devices)] if devices.isdigit() else gpus
