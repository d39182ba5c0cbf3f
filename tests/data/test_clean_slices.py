import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from diffnr_lightning.data import (
    CleanPatchData,
    CleanSliceData,
    ScanRecipe,
    load_volume,
    simulate_case,
)
from diffnr_lightning.data.clean.store import clean_volumes, fill_store
from diffnr_lightning.workflows.cases.volume_sources import volume_sources

NAMES = ("a_1", "a_2", "b_1")


@pytest.fixture
def sources(tmp_path):
    """Three bodies of boxes, as files."""
    (tmp_path / "volumes").mkdir()
    for place, name in enumerate(NAMES):
        volume = np.full((12, 14, 16), -1000, np.float32)
        volume[2:10, 3:11, 2 : 12 + place] = 100
        np.save(tmp_path / "volumes" / f"{name}.npy", volume)
    return {name: str(tmp_path / "volumes" / f"{name}.npy") for name in NAMES}


def test_volumes_are_the_truth_of_a_scan_and_are_kept(sources, tmp_path, monkeypatch, one_sentence):
    recipe = ScanRecipe(size=16, fit="body", num_views=2, test_views=0)
    store = tmp_path / "store"
    volumes = clean_volumes(sources, recipe, store)
    truth = simulate_case(load_volume(sources["a_2"]), recipe).volume
    assert torch.equal(volumes["a_2"], truth.half())
    assert volumes["a_2"].max() > 0.5
    monkeypatch.setattr("diffnr_lightning.data.clean.store.load_source", None)
    assert torch.equal(clean_volumes(sources, recipe, store)["a_2"], volumes["a_2"])
    with pytest.raises(ValueError, match="made with size 16, not 8") as error:
        clean_volumes(sources, ScanRecipe(size=8, fit="body"), store)
    one_sentence(error)
    (store / "a_1.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="is no volume of a store or is damaged") as error:
        clean_volumes(sources, recipe, store)
    one_sentence(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_volume_that_cannot_be_read_is_told_of_in_one_sentence(
    sources, tmp_path, one_sentence, workers
):
    Path(sources["a_2"]).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"^volume \S*a_2.npy cannot be read") as error:
        fill_store(sources, ScanRecipe(size=8), tmp_path / "store", workers=workers)
    one_sentence(error)


def test_another_volume_of_a_name_is_not_taken_for_it(sources, tmp_path, one_sentence):
    recipe = ScanRecipe(size=8, fit="body")
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    volumes = clean_volumes(sources, recipe, store)
    shutil.copytree(tmp_path / "volumes", elsewhere)
    moved = {name: str(elsewhere / f"{name}.npy") for name in NAMES}
    assert torch.equal(clean_volumes(moved, recipe, store)["a_2"], volumes["a_2"])
    other = np.load(moved["a_2"])
    np.save(moved["a_2"], np.where(other > 0, np.float32(50), other))
    with pytest.raises(ValueError, match=r"a_2.* made with content '\w+', not '\w+'") as error:
        clean_volumes(moved, recipe, store)
    one_sentence(error)
    Path(moved["a_2"]).unlink()
    assert torch.equal(clean_volumes(moved, recipe, store)["a_2"], volumes["a_2"])


def test_another_volume_in_a_folder_of_volumes_is_not_taken_for_it(sources, tmp_path):
    recipe = ScanRecipe(size=8, fit="body")
    named = volume_sources([f"folder:{tmp_path / 'volumes'}"])
    volumes = clean_volumes(named, recipe, tmp_path / "store")
    assert torch.equal(clean_volumes(named, recipe, tmp_path / "store")["a_2"], volumes["a_2"])
    other = np.load(sources["a_2"])
    np.save(sources["a_2"], np.where(other > 0, np.float32(50), other))
    with pytest.raises(ValueError, match=r"a_2.* made with content"):
        clean_volumes(named, recipe, tmp_path / "store")


def test_a_store_of_before_is_read(sources, tmp_path):
    """It knows its volumes by their names alone."""
    recipe = ScanRecipe(size=8, fit="body")
    volumes = clean_volumes(sources, recipe, tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            metadata, volume = opened.metadata(), opened.get_tensor("clean")
        made = json.loads(metadata["made"])
        del made["content"]
        save_file({"clean": volume.clone()}, file, {**metadata, "made": json.dumps(made)})
    again = clean_volumes(sources, recipe, tmp_path)
    assert all(torch.equal(again[name], volumes[name]) for name in NAMES)


def test_the_voxels_beside_a_header_tell_volumes_apart(tmp_path):
    recipe = ScanRecipe(size=8, fit="body")
    for name, value in (("A", 100), ("B", 50)):
        (tmp_path / name).mkdir()
        image = SimpleITK.GetImageFromArray(np.pad(np.full((6, 6, 6), value, np.int16), 2))
        SimpleITK.WriteImage(image, str(tmp_path / name / "ct.mhd"))
    clean_volumes({"ct": str(tmp_path / "A/ct.mhd")}, recipe, tmp_path / "store")
    with pytest.raises(ValueError, match="made with content"):
        clean_volumes({"ct": str(tmp_path / "B/ct.mhd")}, recipe, tmp_path / "store")


def test_volumes_are_split_once(sources):
    data = CleanSliceData(sources, iterations=3, crops=(8, 16), size=16, held_out=["b_*"])
    data.setup("fit")
    assert data.held_out_volumes == list(data.validation) == ["b_1"]
    assert set(data.training) == {"a_1", "a_2"}
    assert data.draws(0, 1)[0].clean.shape[1] == 3
    assert len(data.held_out_batches()) == 3
    patches = CleanPatchData(sources, patch=8, iterations=3, batch_size=2, size=16)
    patches.setup("fit")
    assert patches.draws(0, 1)[0].corner.shape == (2, 3)
    assert len(patches.held_out_volumes) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crops": (256,)}, "crops is"),
        ({"channels": 1}, "gaps is .* with 1 channels"),
        ({"gaps": ()}, "gaps is"),
        ({"zoom": (0.0, 1.0)}, "zoom is"),
        ({"planes": ()}, "planes"),
        ({"iterations": 0}, "iterations is 0"),
        ({"held_out_share": 1.0}, "held_out_share is 1"),
    ],
)
def test_options_are_checked(options, words, one_sentence):
    with pytest.raises(ValueError, match=words) as error:
        CleanSliceData({}, **options)
    one_sentence(error)
    with pytest.raises(ValueError, match="patch is 200"):
        CleanPatchData({}, patch=200)
