"""One object for finetuning, denoisers and scenes, on generated chests in the real layouts."""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffnr_lightning.data import LUNA16, ScanRecipe, ToothFairy, VolumeFolder
from diffnr_lightning.data.clean.store import clean_volumes, fill_store
from diffnr_lightning.data.datasets import luna16 as luna16_facts
from diffnr_lightning.data.datasets import toothfairy as toothfairy_facts
from diffnr_lightning.workflows.command_line.settings import configured
from diffnr_lightning.workflows.scanning import simulate
from tests.data.datasets.luna16_on_two_processes import fit
from tests.public_layouts import write_luna16, write_toothfairy

SMALL = ScanRecipe(size=16, num_views=4, test_views=0, oversampling=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("LUNA16")


@pytest.fixture(scope="module")
def series(folder):
    return write_luna16(folder)


@pytest.fixture
def luna16(folder, series, monkeypatch):
    monkeypatch.setenv("DIFFNR_LUNA16", str(folder))
    return series


@pytest.mark.parametrize("facts", [luna16_facts, toothfairy_facts])
def test_the_recipe_is_that_of_the_config(facts, repository, tmp_path):
    config = repository / "configs" / "data" / f"{facts.DATA_SET.name}.yaml"
    settings = configured(simulate, [config], {"volume": "phantom:0", "out": tmp_path / "case"})
    assert settings.arguments["recipe"] == facts.RECIPE


def test_slices_are_learned_of_the_training_set_and_validated_on_development(luna16, tmp_path):
    options = {"iterations": 3, "batch_size": 2, "crops": [16], "channels": 1, "gaps": [0]}
    data = LUNA16(SMALL, learn="slices", store=tmp_path, **options)
    data.prepare_data()
    (store,) = tmp_path.iterdir()
    assert store.name.startswith("luna16-")
    made = {path.stem: path.stat().st_mtime_ns for path in store.iterdir()}
    assert set(made) == {*luna16["train"], *luna16["development"]}
    data.setup("fit")
    assert data.batches.held_out_volumes == luna16["development"]
    assert set(data.batches.training) == set(luna16["train"])
    assert data.batches.draws(0, 1)[0].clean.shape == (2, 1, 16, 16)
    assert {path.stem: path.stat().st_mtime_ns for path in store.iterdir()} == made
    # What a denoiser learns is what scans show.
    case = next(data.cases("train"))
    assert torch.equal(case.volume.half(), data.batches.training[case.name])
    # Another recipe does not take those volumes.
    assert LUNA16(ScanRecipe(size=17), store=tmp_path).store != data.store


def test_the_test_set_is_scanned_one_by_one(luna16, monkeypatch):
    data = LUNA16(SMALL)
    (case,) = list(data.test_dataloader())
    assert case.name == luna16["test"][0]
    assert (len(case.scan), case.grid.shape) == (4, (16, 16, 16))
    assert data.transfer_batch_to_device(case, torch.device("cpu"), 0) is case
    assert torch.equal(next(data.cases("test")).projections, case.projections)
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match="learn is None; 'pairs', 'slices' or 'patches'"):
        data.train_dataloader()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_volume_ends_the_scans_with_a_sentence(tmp_path, one_sentence, workers):
    (tmp_path / "split.csv").write_text(
        "volume,patient,kind,set,source,licence\na.nii,a,volume,test,here,unknown\n"
    )
    (tmp_path / "a.nii").write_bytes(b"nothing")
    scans = VolumeFolder(tmp_path, SMALL, workers=workers).test_dataloader()
    with pytest.raises(ValueError, match=r"a\.nii cannot be read: it is damaged") as error:
        next(iter(scans))
    one_sentence(error)


def test_pairs_have_to_be_made_before(luna16):
    with pytest.raises(ValueError, match="`diffnr curate --volumes luna16:train`"):
        LUNA16(SMALL, learn="pairs", iterations=2)
    with pytest.raises(ValueError, match="iterations is given and learn is None"):
        LUNA16(SMALL, iterations=2)
    with pytest.raises(ValueError, match="split is 'val'; one of train, development, test"):
        LUNA16(SMALL).sources("val")
    with pytest.raises(ValueError, match="store is None; a folder"):
        LUNA16(SMALL).prepare("train")


def test_batches_are_as_long_and_as_many_for_modules_and_callbacks_as_for_the_loader(
    luna16, tmp_path
):
    data = LUNA16(SMALL, learn="pairs", pairs=[tmp_path], iterations=6, batch_size=2)
    assert (data.batch_size, data.iterations) == (2, 6)
    assert not hasattr(LUNA16(SMALL), "batch_size")


@pytest.mark.parametrize(
    "option", [{"fit": "body"}, {"voxel_mm": 1.0}, {"size": 8}, {"held_out": ["a"]}]
)
def test_what_recipe_and_sets_decide_is_no_option(luna16, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is given beside a recipe"):
        LUNA16(SMALL, learn="patches", patch=8, **option)


def test_patches_of_toothfairy_and_of_a_folder(tmp_path, monkeypatch):
    write_toothfairy(tmp_path / "fairy")
    for labels in tmp_path.rglob("gt_alpha.npy"):
        labels.unlink()
    monkeypatch.setenv("DIFFNR_TOOTHFAIRY", str(tmp_path / "fairy"))
    for data in (
        ToothFairy(SMALL, learn="patches", iterations=1, patch=8),
        VolumeFolder(tmp_path / "fairy", SMALL, learn="patches", iterations=1, patch=8),
    ):
        data.prepare_data()
        data.setup("fit")
        assert data.batches.draws(0, 1)[0].corner.shape[-1] == 3
        assert len(data.batches.validation) == len(data.sources("development")) == 1


def test_patches_are_no_thicker_than_the_slices_of_the_recipe(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.zeros((4, 4, 4), np.float32))
    few = replace(SMALL, slices=8, attenuate_outside=False)
    assert VolumeFolder(tmp_path, few, learn="patches", patch=8).batches.patch == 8
    with pytest.raises(ValueError, match="patch is 9 .* from 1 to 8, the shortest of the volumes"):
        VolumeFolder(tmp_path, few, learn="patches", patch=9)


def test_names_of_held_out_volumes_are_no_patterns(tmp_path):
    for number in range(4):
        np.save(tmp_path / f"scan[{number}].npy", np.zeros((4, 4, 4), np.float32))
    data = VolumeFolder(tmp_path, SMALL, learn="patches", patch=8)
    data.batches.split()
    assert data.batches.held_out_volumes == list(data.sources("development"))


def test_a_folder_may_be_split_as_the_tables_are(tmp_path):
    for name in ("headneck/pt_1.nii.gz", "headneck/pt_2.nii.gz", "other.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    data = VolumeFolder(tmp_path, split="diffnr")
    names = [list(data.sources(split)) for split in ("train", "development", "test")]
    assert names == [["pt_2"], [], ["pt_1"]]


def test_a_folder_teaches_nothing_that_a_split_keeps(tmp_path, caplog):
    """Commands refuse such volumes."""
    sets = {"pt_1": "train", "pt_2": "train", "pt_3": "train", "pt_5": "development"}
    lines = ["volume,patient,kind,set,source,licence"]
    (tmp_path / "headneck").mkdir()
    for name, role in sets.items():
        (tmp_path / f"headneck/{name}.nii.gz").touch()
        lines.append(f"headneck/{name}.nii.gz,{name},head,{role},here,none")
    (tmp_path / "split.csv").write_text("\n".join(lines) + "\n")
    data = VolumeFolder(tmp_path)
    names = [list(data.sources(split)) for split in ("train", "development", "test")]
    assert names == [["pt_2"], ["pt_5"], []]
    assert "train has 2 volumes that the splits keep from it, such as pt_1" in caplog.text


def test_two_processes_fill_one_store(luna16, tmp_path):
    data = LUNA16(SMALL)
    sources = {**data.sources("train"), **data.sources("development"), **data.sources("test")}
    context = multiprocessing.get_context("fork")
    together, alone = tmp_path / "together", tmp_path / "alone"
    both = [context.Process(target=fill_store, args=(sources, SMALL, together)) for _ in range(2)]
    for process in both:
        process.start()
    for part in (0, 1):
        fill_store(sources, SMALL, alone, shard=(part, 2))
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    files = [sorted(path.name for path in place.iterdir()) for place in (together, alone)]
    assert files[0] == files[1] == sorted(f"{name}.safetensors" for name in sources)
    volumes = [clean_volumes(sources, SMALL, place) for place in (together, alone)]
    assert all(torch.equal(volumes[0][name], volumes[1][name]) for name in sources)


@pytest.mark.filterwarnings("ignore")
def test_a_denoiser_is_trained_by_lightning(luna16, tmp_path):
    fit(tmp_path, tmp_path / "stores", devices=1)
    end = torch.load(tmp_path / "rank0.pt")
    assert len(end["items"]) == 2
    assert "val_noise" in end["scores"]


@pytest.mark.slow
def test_two_processes_of_a_training_share_a_store(folder, series, tmp_path):
    script = Path(__file__).with_name("luna16_on_two_processes.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    environment |= {"DIFFNR_LUNA16": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, tmp_path, tmp_path / "stores"]
    subprocess.run(command, check=True, timeout=300, env=environment, capture_output=True)
    ends = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    assert ends[0]["items"] != ends[1]["items"]
    for name, tensor in ends[0]["state"].items():
        assert torch.equal(tensor, ends[1]["state"][name]), name
    made = [path.stem for path in tmp_path.glob("stores/*/*.safetensors")]
    assert sorted(made) == sorted(series["train"] + series["development"])
