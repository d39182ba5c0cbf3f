import json

import pytest
import torch

from diffnr_lightning.data.pairs import manifest as pair_manifest
from diffnr_lightning.data.pairs.files import open_pairs, write_pairs
from diffnr_lightning.data.pairs.manifest import shares, write_manifest


def add(folder, name, **info):
    volumes = torch.rand(len(info.get("iterations", [0])), 4, 4, 4)
    info = {"case": name, "views": 12, **info}
    return write_pairs(
        folder, name, degraded=volumes, clean=volumes[0], biplanar=torch.rand(2, 4, 4), info=info
    )


def test_the_manifest_names_all_scans_and_counts_them(tmp_path):
    cloud = {"representation": "GaussianCloud", "layout": "uniform", "method": {"long": "text"}}
    field = {"representation": "NeuralField", "layout": "random"}
    add(tmp_path, "b", **cloud, views=24, iterations=[10, 20], psnr=[20.0, 22.0])
    add(tmp_path, "a", **field, iterations=[5, 9], psnr=[24.0, 26.0])
    add(tmp_path, "c", **field, iterations=[5, 9], psnr=[24.0, 26.0])
    manifest = write_manifest(tmp_path)
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["scans"]) == ["a.safetensors", "b.safetensors", "c.safetensors"]
    kept = open_pairs(tmp_path)["b"].info
    assert kept.pop("method") == {"long": "text"}
    assert manifest["scans"]["b.safetensors"] == kept
    assert manifest["shares"] == {
        "representation": {
            "GaussianCloud": {"scans": 1, "volumes": 2, "share": 0.3333, "psnr": 21.0},
            "NeuralField": {"scans": 2, "volumes": 4, "share": 0.6667, "psnr": 25.0},
        },
        "layout": {
            "random": {"scans": 2, "volumes": 4, "share": 0.6667, "psnr": 25.0},
            "uniform": {"scans": 1, "volumes": 2, "share": 0.3333, "psnr": 21.0},
        },
        "views": {
            "12": {"scans": 2, "volumes": 4, "share": 0.6667, "psnr": 25.0},
            "24": {"scans": 1, "volumes": 2, "share": 0.3333, "psnr": 21.0},
        },
    }


def test_scans_of_earlier_versions_are_counted():
    counted = shares([{"case": "a", "views": 9}, {"case": "b", "views": 100}])
    assert counted["representation"] == {"unknown": {"scans": 2, "volumes": 2, "share": 1.0}}
    assert list(counted["views"]) == ["9", "100"]


def test_a_scan_that_comes_while_the_manifest_is_made_is_in_it(tmp_path, monkeypatch):
    add(tmp_path, "a")
    write = pair_manifest.write_bytes

    def slowly(*arguments):
        monkeypatch.setattr(pair_manifest, "write_bytes", write)
        add(tmp_path, "b")
        write(*arguments)

    monkeypatch.setattr(pair_manifest, "write_bytes", slowly)
    write_manifest(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["scans"]) == ["a.safetensors", "b.safetensors"]


def test_headers_are_read_once(tmp_path, monkeypatch):
    for name in "abc":
        add(tmp_path, name)
    read, calls = pair_manifest.read_info, []
    monkeypatch.setattr(pair_manifest, "read_info", lambda file: calls.append(file) or read(file))
    write_manifest(tmp_path)
    assert len(calls) == 3


def test_a_damaged_file_is_named(tmp_path):
    add(tmp_path, "a")
    damaged = add(tmp_path, "b")
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(ValueError, match="b.safetensors is not a file of slice pairs or is dam"):
        write_manifest(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
