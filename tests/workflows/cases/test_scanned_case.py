"""Cases that were simulated before are known by the content of their volume."""

import json
import logging

import numpy as np
import pytest

from diffnr_lightning.data.case_folder.metadata import META_FILE
from diffnr_lightning.data.datasets import source_sha256
from diffnr_lightning.data.scan_recipe import CUT_VOXELS, simulation_record
from diffnr_lightning.files import write_json
from diffnr_lightning.workflows import simulate
from diffnr_lightning.workflows.cases.scanned_case import scanned_case
from diffnr_lightning.workflows.command_line.settings import configured
from diffnr_lightning.workflows.scanning import SOURCE_HASH


@pytest.fixture
def case(tmp_path):
    """Look for a case of a volume in a folder that holds one of another volume, whose hash may be given."""

    def found(before, now, known=True):
        settings = configured(
            simulate, ["tiny/simulate"], {"volume": now, "out": tmp_path / "case"}
        )
        record = simulation_record(settings.arguments["recipe"], str(before))
        hashed = source_sha256(str(before)) if known is True else known
        provenance = {"simulation": record, **({SOURCE_HASH: hashed} if hashed else {})}
        described = {"scanner": {}, "proj_train": [], "provenance": provenance}
        write_json(tmp_path / "case" / META_FILE, described)
        return scanned_case(settings)

    return found


def volume(path, value=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((2, 2, 2), value))
    return path


def test_a_case_of_a_volume_that_has_moved_is_used_again(case, tmp_path):
    before, now = volume(tmp_path / "a/head.npy"), volume(tmp_path / "b/head.npy")
    assert case(before, now) == tmp_path / "case"
    folders = (f"folder:{tmp_path}/a:head", f"folder:{tmp_path}/a/:head")
    assert case(*folders) == tmp_path / "case"


def test_a_case_of_a_series_that_has_moved_is_used_again(tmp_path, case):
    before, now = tmp_path / "a/1.2.840", tmp_path / "b/1.2.840"
    volume(before / "1.npy")
    assert case(before, before) == tmp_path / "case"
    now.parent.mkdir()
    hashed = source_sha256(str(before))
    before.rename(now)
    assert case(before, now, hashed) == tmp_path / "case"
    now.rename(now.with_name("1.2.841"))
    with pytest.raises(ValueError, match="holds a case with source ="):
        case(before, now.with_name("1.2.841"), hashed)


def test_a_case_of_another_volume_is_refused(case, tmp_path):
    before = volume(tmp_path / "a/head.npy")
    for now, known in (("b/head.npy", False), ("b/chest.npy", True)):
        with pytest.raises(ValueError, match="holds a case with source ="):
            case(before, volume(tmp_path / now), known)
    with pytest.raises(ValueError, match="holds a case with source ="):
        case(before, volume(tmp_path / "c/head.npy", 2))
    with pytest.raises(ValueError, match="holds a case with source ="):
        case(before, f"folder:{tmp_path}/a:head")


def test_a_case_whose_truth_is_of_before_is_used_with_a_warning(tmp_path, caplog):
    """Volumes of both kinds in one table would not compare."""
    array = np.zeros((16, 16, 16), np.float32)
    array[:, 4:12, 4:12] = 1
    np.save(tmp_path / "block.npy", array)
    given = {"volume": tmp_path / "block.npy", "out": tmp_path / "case", "spacing_mm": 1.0}
    settings = configured(simulate, ["tiny/simulate"], given)
    with caplog.at_level(logging.WARNING, logger="diffnr"):
        scanned_case(settings)
        scanned_case(settings)
        assert "earlier version" not in caplog.text
        meta = json.loads((tmp_path / "case" / META_FILE).read_text())
        del meta["provenance"][CUT_VOXELS]
        write_json(tmp_path / "case" / META_FILE, meta)
        assert scanned_case(settings) == tmp_path / "case"
    assert "wrong where faces of the volume cut through the object" in caplog.text
