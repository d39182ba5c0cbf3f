"""Cases that are simulated once and used by many runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from diffnr_lightning.data.case_folder.metadata import META_FILE, read_meta
from diffnr_lightning.data.datasets import names_data_set, source_sha256
from diffnr_lightning.data.generated import is_generated, source_name
from diffnr_lightning.data.scan_recipe import CUT_VOXELS, simulation_record
from diffnr_lightning.workflows.command_line.settings import Settings
from diffnr_lightning.workflows.runs.run_folder import difference
from diffnr_lightning.workflows.scanning import SOURCE_HASH, simulate

logger = logging.getLogger("diffnr")


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
    # Cases of earlier versions do not know it, and a volume may be away by now.
    before = provenance.get(SOURCE_HASH)
    now = source_sha256(wanted["source"], before)
    same_content = before is not None and before == now
    same_file = Path(found["source"]).resolve() == Path(wanted["source"]).resolve()
    slices = Path(wanted["source"]).is_dir()
    read = [_read_as(source, slices) for source in (found["source"], wanted["source"])]
    moved = same_content and read[0] == read[1]
    changed = difference(found, wanted, free=("source",) if same_file or moved else ())
    if None not in (before, now) and not same_content:
        changed = changed or f"another content of {wanted['source']}"
    if changed:
        raise ValueError(
            f"{folder} holds a case with {changed}; remove it to have it simulated again, or give "
            "another --out."
        )
    if CUT_VOXELS not in provenance and not is_generated(found["source"]):
        logger.warning(
            "%s holds a case of an earlier version, whose truth is wrong where faces of the volume cut through the "
            "object; remove it and its runs to compare them with others",
            folder,
        )


def _read_as(source: str, slices: bool) -> tuple[str, str]:
    """Return the name from which a seed is drawn, and the data set that knows unit and voxels; none of a file.

    Args:
        source: may have moved by now.
        slices: whether it is or was a folder of slices, of whose name dots are a part.
    """
    if names_data_set(source):
        return source_name(source), source.partition(":")[0]
    gone = slices and not Path(source).exists()
    return Path(source).name if gone else source_name(source), ""
