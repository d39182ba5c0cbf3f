"""The table of a public data set from its folder: pairs, finetuning on two processes, reconstructions, numbers."""

import csv
import json

import pytest
import yaml

from diffnr_lightning import cli
from tests.public_layouts import write_luna16, write_toothfairy

pytestmark = pytest.mark.filterwarnings("ignore")

SIRT = {"class_path": "diffnr_lightning.workflows.Solver"}
SIRT |= {"init_args": {"name": "sirt", "options": {"iterations": 2}}}
FEW = {"views": [4, 6], "fractions": [1.0], "biplanar_size": 8, "methods": [SIRT]}
LEARNING = {
    "iterations": 2,
    "accelerator": "cpu",
    "devices": 2,
    "strategy": "ddp_find_unused_parameters_true",
    "prior": {
        "class_path": "diffnr_lightning.priors.CompactSliceFixer",
        "init_args": {"channels": [16]},
    },
    "data": {"iterations": 2, "batch_size": 1, "crop": 16, "validation": "slices"},
    "module": {
        "class_path": "diffnr_lightning.modules.SliceFixerFinetuning",
        "init_args": {"iterations": 2, "warmup": 1, "lambda_gan": 0},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["luna16", "toothfairy"])
def test_a_data_set_becomes_its_table_in_one_command(name, tmp_path, monkeypatch, repository):
    """The experiment as it is shipped, on phantoms in the data set's layout, with a tiny scan, network and schedule."""
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place, write = {
        "luna16": ("LUNA16", write_luna16),
        "toothfairy": ("TOOTHFAIRY", write_toothfairy),
    }[name]
    write(tmp_path / "data")
    monkeypatch.setenv(f"DIFFNR_{place}", str(tmp_path / "data"))
    content = yaml.safe_load((repository / f"experiments/{name}/table.yaml").read_text())
    (part,) = content["parts"].values()
    scan = {"size": 16, "oversampling": 1} | ({"voxel_mm": 20.0} if name == "luna16" else {})
    tiny = {"scan": scan, "few": {**scan, **FEW}, "learning": LEARNING}
    for stem, settings in tiny.items():
        (tmp_path / f"{stem}.yaml").write_text(yaml.safe_dump(settings))
    part["scans"] = [f"{part['scans'][0]}+scan.yaml"]
    part["views"] = [4]
    content["pairs"]["full"] += "+few.yaml"
    rows = content["rows"]
    for row in rows.values():
        row["method"] = row.pop("miniature", row["method"])
    assert rows["R2-Gaussian + DiffNR"]["prior"]["full"] == f"finetune/slicefixer_{name}"
    rows["R2-Gaussian + DiffNR"]["prior"]["full"] = "learning.yaml"
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    out = tmp_path / "out"
    assert cli.main(["table", str(tmp_path), "--out", str(out)]) == 0
    with (out / "table.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["method"] for line in lines if line["ours"]} == set(rows)
    learned = json.loads((out / "priors/R2-Gaussian_DiffNR/metrics.json").read_text())
    assert learned["iterations"] == 2
    assert len(learned["held_out"]) == 1
    volumes = list(out.rglob("volume.nii.gz"))
    cases = {json.loads((p.parent / "metrics.json").read_text())["case"] for p in volumes}
    assert len(volumes) == len(rows) * len(cases)
    made = [path.stat().st_mtime_ns for path in volumes]
    assert cli.main(["table", str(tmp_path), "--out", str(out)]) == 0
    assert [path.stat().st_mtime_ns for path in volumes] == made
