"""A public data set from its folder to repaired reconstructions of its test set, on generated chests."""

import json
import re
import shlex

import pytest
import yaml

from diffnr_lightning import cli
from diffnr_lightning.data.clean.store import recipe_key
from diffnr_lightning.data.datasets import luna16, toothfairy
from diffnr_lightning.data.slice_pairs import SlicePairData, open_pairs
from diffnr_lightning.workflows import train_denoiser
from diffnr_lightning.workflows.cases.volume_sources import volume_sources
from diffnr_lightning.workflows.command_line.settings import parse
from tests.public_layouts import write_luna16, write_toothfairy

pytestmark = pytest.mark.filterwarnings("ignore")

SCAN = {"size": 16, "oversampling": 1}
FEW = {"views": [4, 6], "fractions": [1.0], "biplanar_size": 8}
SIRT = {"class_path": "diffnr_lightning.workflows.Solver"}
SIRT |= {"init_args": {"name": "sirt", "options": {"iterations": 2}}}
LEARNING = {
    "iterations": 2,
    "prior": {
        "class_path": "diffnr_lightning.priors.CompactSliceFixer",
        "init_args": {"channels": [16]},
    },
    "data": {"iterations": 2, "batch_size": 1, "crop": 16, "context": 1, "validation": "slices"},
    "module": {
        "class_path": "diffnr_lightning.modules.SliceFixerFinetuning",
        "init_args": {"iterations": 2, "warmup": 1, "lambda_gan": 0},
    },
}


def diffnr(*arguments):
    return cli.main([str(argument) for argument in arguments])


def written(path, **settings):
    path.write_text(yaml.safe_dump(settings))
    return path


def repaired(weights):
    """DiffNR on voxels, which need no kernels of their own."""
    reference = {"every": 2, "repairer": {"weights": str(weights), "passes": 1}}
    return {
        "class_path": "diffnr_lightning.workflows.Scene",
        "init_args": {
            "iterations": 4,
            "representation": {"class_path": "diffnr_lightning.representations.VoxelGrid"},
            "pseudo_reference": {
                "class_path": "diffnr_lightning.callbacks.PseudoReference",
                "init_args": reference,
            },
        },
    }


def test_luna16_from_its_folder_to_its_table(tmp_path, monkeypatch, repository):
    monkeypatch.setenv("DIFFNR_LUNA16", str(tmp_path / "LUNA16"))
    monkeypatch.chdir(tmp_path)
    series = write_luna16(tmp_path / "LUNA16")
    scan = written(tmp_path / "scan.yaml", **SCAN, voxel_mm=20.0)
    few = written(tmp_path / "few.yaml", **SCAN, voxel_mm=20.0, **FEW, methods=[SIRT])
    curating = ["curate", "--config", "curate/slicefixer_luna16", "--config", few]
    for shard in ("0/2", "1/2"):
        assert diffnr(*curating, "--shard", shard, "--out", "pairs/luna16") == 0
    pairs = open_pairs(tmp_path / "pairs" / "luna16")
    assert {scan.info["volume"]: scan.info["held_out"] for scan in pairs.values()} == {
        **dict.fromkeys(series["train"], False),
        **dict.fromkeys(series["development"], True),
    }
    options = [
        "--config",
        written(tmp_path / "learning.yaml", **LEARNING),
        "--data.folders",
        "[pairs/luna16]",
    ]
    assert diffnr("finetune", *options, "--out", "slicefixer") == 0
    assert (
        json.loads((tmp_path / "slicefixer/metrics.json").read_text())["held_out"]
        == series["development"]
    )
    weights = tmp_path / "slicefixer" / "weights.safetensors"
    method = written(tmp_path / "diffnr.yaml", name="DiffNR", method=repaired(weights))
    table = ["--volumes", "luna16:test", "--views", 4, "--scans", f"data/luna16+{scan}"]
    assert diffnr("sweep", *table, "--methods", "fdk", method, "--out", "runs") == 0
    scores = [
        json.loads(path.read_text()) for path in sorted(tmp_path.glob("runs/*/*/*/*/metrics.json"))
    ]
    assert {score["case"] for score in scores} == set(series["test"])
    assert [score["kind"] for score in scores] == ["chest", "chest"]


@pytest.mark.parametrize("facts", [luna16, toothfairy], ids=lambda facts: facts.DATA_SET.name)
def test_the_documented_training_of_a_denoiser_shows_what_scans_of_a_data_set_show(
    facts, tmp_path, monkeypatch, repository
):
    data_set = facts.DATA_SET
    monkeypatch.setenv(data_set.variable, str(tmp_path))
    write = {"luna16": write_luna16, "toothfairy": write_toothfairy}[data_set.name]
    write(tmp_path)
    text = (repository / "docs" / "data_sets.md").read_text(encoding="utf-8").replace("\\\n", " ")
    pattern = rf"^diffnr train-denoiser (.* --volumes {data_set.name}:train .*)$"
    (command,) = re.findall(pattern, text, re.MULTILINE)
    arguments = parse(train_denoiser, shlex.split(command)).arguments
    batches = arguments["data"](volume_sources(arguments["volumes"]))
    batches.check_denoiser(arguments["denoiser"]())
    batches.split()
    trained = {volume.name for volume in data_set.volumes() if volume.set == "train"}
    assert set(batches.sources) == trained & set(data_set.files())
    assert recipe_key(batches.recipe) == recipe_key(facts.RECIPE)
    # Whole slices are among the crops, and a batch is as much work as one of the config.
    assert max(batches.crops) == batches.recipe.size
    assert batches.batch_size * max(batches.crops) ** 2 == 16 * 128**2


def test_toothfairy_is_curated_and_scanned(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFNR_TOOTHFAIRY", str(tmp_path / "ToothFairy"))
    write_toothfairy(tmp_path / "ToothFairy")
    few = written(tmp_path / "few.yaml", **SCAN, **FEW, methods=[SIRT])
    curating = ["curate", "--config", "curate/slicefixer_toothfairy", "--config", few]
    assert diffnr(*curating, "--out", tmp_path / "pairs") == 0
    data = SlicePairData([tmp_path / "pairs"], iterations=1)
    data.setup("fit")
    assert (len(data.training), len(data.held_out_volumes)) == (4, 1)
    scan = written(tmp_path / "scan.yaml", **SCAN)
    case = ["--config", "data/toothfairy", "--config", scan, "--volume", "toothfairy:test[0]"]
    assert diffnr("simulate", *case, "--num_views", 4, "--out", tmp_path / "case") == 0
    meta = json.loads((tmp_path / "case" / "meta_data.json").read_text())
    (tested,) = volume_sources(["toothfairy:test"]).values()
    assert meta["provenance"]["simulation"]["source"] == tested


def test_what_is_tested_is_never_curated(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFNR_LUNA16", str(tmp_path / "LUNA16"))
    write_luna16(tmp_path / "LUNA16")
    few = written(tmp_path / "few.yaml", **SCAN, voxel_mm=20.0, **FEW, methods=[SIRT])
    curating = ["curate", "--config", "curate/slicefixer_luna16", "--config", few]
    curating += ["--out", tmp_path / "pairs"]
    words = ["--volumes", "luna16:train", "luna16:test", "--held_out", "luna16:test"]
    assert diffnr(*curating, *words) == cli.USAGE_ERROR
    assert "which the splits keep for test" in capsys.readouterr().err
    assert diffnr(*curating, "--held_out", "nothing") == cli.USAGE_ERROR
    assert "which the splits keep for development" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()
