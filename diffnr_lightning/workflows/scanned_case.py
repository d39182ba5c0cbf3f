"""Cases that are simulated once and used by many runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffnr_lightning.data.case_folder.metadata import META_FILE, read_meta
from diffnr_lightning.data.datasets import source_sha256
from diffnr_lightning.data.scan_recipe import simulation_record
from diffnr_lightning.workflows.run_folder import difference
from diffnr_lightning.workflows.scanning import SOURCE_HASH, simulate
from diffnr_lightning.workflows.settings import Settings


def scanned_case(settings: Settings) -> Path:
    """Return a case folder; a case that is there already is used if it was simulated alike.

    Args:
        settings: of `simulate`.

    Raises:
        ValueError: the folder holds a case that was simulated by other settings or of another content of the volume, or
            does not say by which settings.
    """
    arguments = settings.arguments
    folder = Path(arguments["out"])
    if not (folder / META_FILE).is_file():
        return simulate(**arguments)
    record = simulation_record(
        arguments["recipe"], arguments["volume"], arguments["name"], arguments["seed"]
    )
    _compare(folder, json.loads(json.dumps(record)))
    return folder


def _compare(folder: Path, wanted: dict[str, Any]) -> None:
    provenance = read_meta(folder / META_FILE).get("provenance", {})
    found = provenance.get("simulation")
    if found is None:
        raise ValueError(
            f"{folder} holds a case that does not say how it was simulated; remove it to have it "
            "simulated again, or give another --out."
        )
    same_file = Path(found["source"]).resolve() == Path(wanted["source"]).resolve()
    changed = difference(found, wanted, free=("source",) if same_file else ())
    # Cases of earlier versions do not know it, and a volume may be away by now.
    hashes = {provenance.get(SOURCE_HASH), source_sha256(wanted["source"])} - {None}
    if len(hashes) > 1:
        changed = changed or f"another content of {wanted['source']}"
    if changed:
        raise ValueError(
            f"{folder} holds a case with {changed}; remove it to have it simulated again, or give "
            "another --out."
        )
