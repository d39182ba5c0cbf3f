"""The case folders that runs name: where they lie now, and what their meta data say."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger("diffnr")

CASE_FILE = "meta_data.json"


def case_folder_of(named: Any, run: Path) -> Path | None:
    """Return the case folder of a run, None with a sentence in the log where it is not there.

    Args:
        named: what the run recorded; a relative path was meant from the run folder or from where the command was
            called.
        run: folder of the run.
    """
    if not named:
        return None
    for folder in (run / str(named), Path(str(named))):
        if (folder / CASE_FILE).is_file():
            return folder
    log.warning(
        "case %s of run %s is not there, or no folder; it is shown without truth.", named, run
    )
    return None


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
