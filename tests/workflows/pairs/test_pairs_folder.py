"""A pairs folder knows its volumes by their content, not by their names alone."""

import numpy as np
import pytest
import torch
import yaml

from diffnr_lightning.data.pairs.files import write_pairs
from diffnr_lightning.workflows.pairs.pairs_folder import PairsFolder

INFO = {"case": "P1_0", "views": 4, "volume": "P1"}


@pytest.fixture
def tensors():
    clean = torch.full((2, 8, 8), 0.5)
    return {"degraded": clean[None], "clean": clean, "biplanar": torch.zeros(2, 8, 8)}


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens the folder for a volume of one name in some place."""

    def opened(place):
        file = tmp_path / place / "P1.npy"
        if not file.exists():
            file.parent.mkdir()
            np.save(file, np.full((2, 3, 4), len(place)))
        return PairsFolder(tmp_path / "pairs", {"size": 3}, {"P1": str(file)})

    return opened


def test_another_volume_of_a_name_is_refused(opened, tmp_path, tensors):
    opened("A").add("P1_0", INFO, **tensors)
    assert opened("A").holds("P1_0", "P1")
    assert not opened("A").holds("P1_1", "P1")
    refusal = r"P1_0\.safetensors was made of another content of P1 than .* delete \S*pairs/P1_\[0-9\]\*\.safetensors"
    with pytest.raises(ValueError, match=refusal):
        opened("other").holds("P1_0", "P1")
    (tmp_path / "A").rename(tmp_path / "moved")
    assert opened("moved").holds("P1_0", "P1")


def test_a_volume_that_is_gone_or_was_made_before_is_not_looked_at(opened, tmp_path, tensors):
    folder = opened("A")
    folder.add("P1_0", INFO, **tensors)
    (tmp_path / "A" / "P1.npy").unlink()
    assert folder.holds("P1_0", "P1")
    write_pairs(tmp_path / "pairs", "P1_1", info=INFO, **tensors)
    assert opened("other").holds("P1_1", "P1")


def test_settings_keep_their_order(tmp_path, tensors):
    folder = PairsFolder(tmp_path / "pairs", {"b": {"pt_*": 5, "*": 4}, "a": 1}, {})
    folder.add("P1_0", INFO, **tensors)
    kept = yaml.safe_load((tmp_path / "pairs" / "config.yaml").read_text())
    assert list(kept) == ["b", "a", "volumes"] and list(kept["b"]) == ["pt_*", "*"]
