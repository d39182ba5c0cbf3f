"""A table says of which commits, scans, weights and machines it is, as its runs recorded them."""

import hashlib
import json

import pytest

from diffnr_lightning.reports import provenance_in_words, read_runs, write_tables

COMMITS = ("1234567aaa", "89abcdefff")


def write_run(folder, method, record, seconds=1800):
    folder.mkdir(parents=True)
    metrics = {"case": "tooth", "method": method, "views": 24, "seconds": seconds}
    metrics["protocols"] = {"r2": {"psnr": 30.0, "ssim": 0.9}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if record is not None:
        (folder / "environment.json").write_text(json.dumps(record))


@pytest.fixture
def written(tmp_path):
    record = {"git": {"commit": COMMITS[0], "dirty": False}, "cpu": "A processor", "gpus": []}
    record["multiplies_bfloat16"] = True
    write_run(tmp_path / "fdk", "FDK", {**record, "inputs": {"case": "aa"}, "weights": {}})
    weights = {"assets/prior.safetensors": "feedbeef00"}
    changed = {
        "git": {"commit": COMMITS[1], "dirty": True},
        "gpus": ["A card"],
        "inputs": {"case": "bb"},
    }
    write_run(tmp_path / "ours", "DiffNR", {**changed, "weights": weights})
    write_run(tmp_path / "old", "SIRT", None)
    write_tables(read_runs([tmp_path]), tmp_path / "out")
    return tmp_path / "out"


def test_what_runs_recorded_is_gathered(written):
    record = json.loads((written / "table.provenance.json").read_text())
    assert (
        record["table_sha256"] == hashlib.sha256((written / "table.csv").read_bytes()).hexdigest()
    )
    assert record["commits"] == {COMMITS[0]: 1, "not recorded": 1, f"{COMMITS[1]} with changes": 1}
    assert record["machines"] == {"A processor": 1, "not recorded": 1, "A card": 1}
    assert record["bfloat16_products"] == {"yes": 1, "not recorded": 2}
    # The two methods were not given the same scan, and nobody knows what the third was given.
    assert record["cases_sha256"] == {"tooth, 24 views": ["aa", "bb", "not recorded"]}
    assert record["weights_sha256"] == {"assets/prior.safetensors": ["feedbeef00"]}
    assert (record["runs"], record["hours"], record["runs_without_weights_record"]) == (3, 1.5, 1)


def test_what_versions_recorded_of_one_scan_is_one_hash(tmp_path):
    for number, digest in enumerate(("aa", "aa.v2.bb", "aa.v2.bb", "cc")):
        write_run(tmp_path / str(number), f"M{number}", {"inputs": {"case": digest}})
    write_tables(read_runs([tmp_path]), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "table.provenance.json").read_text())
    assert record["cases_sha256"] == {"tooth, 24 views": ["aa.v2.bb", "cc"]}


def test_scans_of_several_sizes_and_geometries_were_each_made_once(tmp_path):
    for place, size, arc in (("a", 128, 360), ("b", 256, 360), ("c", 256, 90)):
        folder = tmp_path / place / "fdk"
        write_run(folder, "FDK", {"inputs": {"case": place}})
        meta = {"source": "tooth", "scanner": {"totalAngle": arc}, "proj_train": [{}] * 24}
        (tmp_path / place / "case").mkdir()
        (tmp_path / place / "case" / "meta_data.json").write_text(json.dumps(meta))
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics |= {"size": [size] * 3, "case_folder": "../case"}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    write_tables(read_runs([tmp_path]), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "table.provenance.json").read_text())
    assert sorted(record["cases_sha256"].values()) == [["a"], ["b"], ["c"]]
    assert "more than once" not in provenance_in_words(record)


def test_a_run_that_went_on_elsewhere_counts_for_both_places(tmp_path):
    begun = {"git": {"commit": COMMITS[0], "dirty": False}, "gpus": ["A card"]}
    again = {**begun, "gpus": ["Another card"], "weights": {"prior.safetensors": "aa"}}
    last = {"git": {"commit": COMMITS[1]}, "gpus": ["A card"], "earlier": [begun, again]}
    write_run(tmp_path / "run", "DiffNR", {**last, "weights": {"prior.safetensors": "bb"}})
    write_tables(read_runs([tmp_path]), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "table.provenance.json").read_text())
    assert record["commits"] == {COMMITS[0]: 1, COMMITS[1]: 1}
    assert record["machines"] == {"A card": 1, "Another card": 1}
    assert record["weights_sha256"] == {"prior.safetensors": ["aa", "bb"]}


def test_provenance_names_weights_without_the_folders_of_their_machine(tmp_path):
    files = {
        "/home/someone/runs/stage/weights.safetensors": "aa",
        "runs/b/weights.safetensors": "bb",
    }
    write_run(tmp_path / "run", "DiffNR", {"weights": files})
    write_tables(read_runs([tmp_path]), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "table.provenance.json").read_text())
    assert record["weights_sha256"] == {
        "runs/b/weights.safetensors": ["bb"],
        "stage/weights.safetensors": ["aa"],
    }


@pytest.mark.parametrize(
    ("settings", "machine"),
    [
        ({"device": "cpu"}, "A processor"),
        ({"device": "cuda"}, "First card"),
        ({"device": "cuda:1"}, "Second card"),
        ({"device": None, "accelerator": "cpu", "devices": 1}, "A processor"),
        ({"device": None, "accelerator": "auto", "devices": 1}, "First card"),
        ({"device": None, "accelerator": "gpu", "devices": "auto"}, "First card and Second card"),
    ],
)
@pytest.mark.parametrize("earlier_version", [False, True])
def test_cards_that_computed_nothing_are_not_named(tmp_path, settings, machine, earlier_version):
    record = {"cpu": "A processor", "gpus": ["First card", "Second card"]}
    write_run(tmp_path / "run", "FDK", record if earlier_version else {**record, **settings})
    (tmp_path / "run" / "config.yaml").write_text(json.dumps({"method": "FDK", **settings}))
    write_tables(read_runs([tmp_path]), tmp_path / "out")
    described = json.loads((tmp_path / "out" / "table.provenance.json").read_text())
    assert described["machines"] == {machine: 1}


def test_a_sentence_says_what_readers_ask_first(written):
    said = provenance_in_words(json.loads((written / "table.provenance.json").read_text()))
    assert said.startswith("`table.csv`: 3 runs, 1.5 hours in all (A processor (1), ")
    assert "at commits 1234567 (1), not recorded (1), 89abcde with changes (1)" in said
    assert "1 of 1 scans were made more than once" in said
    assert said.endswith("weights prior.safetensors feedbee.")
