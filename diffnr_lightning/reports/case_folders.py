"""The case folders that runs name: where they lie now, and what their meta data say."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("diffnr")

CASE_FILE = "meta_data.json"
BESIDE = "case"
"""Name of the case's folder beside the runs of a sweep."""


def case_folder_of(recorded: Mapping[str, Any], run: Path) -> Path | None:
    """Return the case folder of a run, None with a sentence in the log where it is not there.

    Args:
        recorded: metrics of the run. Its `case_folder` is where the case was; a relative path was meant from the run
            folder or from where the command was called. `case_from_run` is the way there, for runs that were moved
            together with their cases. Those of earlier versions do not say it, but sweeps lay the case beside its runs.
        run: folder of the run.
    """
    named = recorded.get("case_folder")
    if not named:
        return None
    for folder in (run / str(named), Path(str(named))):
        if (folder / CASE_FILE).is_file():
            return folder
    for way in (recorded.get("case_from_run"), f"../{BESIDE}"):
        if way and _is_of_case(folder := Path(os.path.normpath(run.absolute() / way)), recorded):
            return folder
    log.warning(
        "case %s of run %s is not there, or no folder; it is shown without truth.", named, run
    )
    return None


def _is_of_case(folder: Path, recorded: Mapping[str, Any]) -> bool:
    """Whether a folder holds a case of the name and as many views as a run recorded."""
    if not (folder / CASE_FILE).is_file():
        return False
    meta = case_metadata(folder)
    views = recorded.get("views") or len(meta.get("proj_train") or ())
    named = (meta.get("name") or folder.name) == recorded.get("case")
    return named and len(meta.get("proj_train") or ()) == views


def case_metadata(folder: Path) -> dict[str, Any]:
    """Return the meta data of a case folder.

    Raises:
        ValueError: no JSON, or no object in it.
    """
    path = folder / CASE_FILE
    try:
        # Editors on Windows put a byte order mark before the text.
        meta = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}; write the case again.") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path} holds no JSON object; write the case again.")
    return meta
