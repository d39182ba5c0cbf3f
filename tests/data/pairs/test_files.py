from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from socket import gethostname

import pytest
import torch
from safetensors.torch import save_file

from diffnr_lightning.data.pairs import files as pair_files
from diffnr_lightning.data.slice_pairs import open_pairs, write_pairs

INFO = {"case": "chest_1", "views": 24, "seed": 3, "iterations": [500, 1000], "layout": "cone"}


def scan(shape=(4, 5, 6), snapshots=2, seed=0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "degraded": torch.rand(snapshots, *shape, generator=generator),
        "clean": torch.rand(shape, generator=generator),
        "biplanar": torch.rand(2, 8, 8, generator=generator),
        "residual": torch.rand(snapshots, *shape, generator=generator) - 0.5,
        "noise": torch.rand(shape, generator=generator),
    }


def assert_refused(folder, file):
    with pytest.raises(ValueError, match="is not a file of slice pairs or is damaged") as caught:
        open_pairs(folder)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    assert message.endswith("delete it and run `diffnr curate` again.")


def test_what_is_written_is_opened(tmp_path):
    written = scan()
    path = write_pairs(tmp_path / "new" / "pairs", "chest_1_24", **written, info=INFO)
    assert path == tmp_path / "new" / "pairs" / "chest_1_24.safetensors"
    opened = open_pairs(path.parent)
    assert list(opened) == ["chest_1_24"]
    pairs = opened["chest_1_24"]
    assert pairs.info == INFO
    for key, tensor in written.items():
        assert getattr(pairs, key).dtype == torch.float16
        assert torch.equal(getattr(pairs, key), tensor.half())


@pytest.mark.parametrize("missing", ["residual", "noise"])
def test_the_residual_and_its_noise_may_be_missing(tmp_path, missing):
    without = {key: tensor for key, tensor in scan().items() if key != missing}
    write_pairs(tmp_path, "a", **without, info=INFO)
    assert getattr(open_pairs(tmp_path)["a"], missing) is None


def test_values_are_clipped_and_any_layout_in_memory_is_taken(tmp_path):
    written = scan()
    written["degraded"] = (written["degraded"] * 3 - 1).transpose(1, 3)
    written["clean"] = written["clean"].transpose(0, 2).requires_grad_()
    written["residual"] = (4 * written["residual"]).transpose(1, 3)
    written["noise"] = (4 * written["noise"]).transpose(0, 2)
    write_pairs(tmp_path, "a", **written, info=INFO)
    pairs = open_pairs(tmp_path)["a"]
    assert torch.equal(pairs.degraded, written["degraded"].clamp(0, 1).half())
    assert torch.equal(pairs.clean, written["clean"].detach().half())
    assert torch.equal(pairs.residual, written["residual"].clamp(-1, 1).half())
    assert torch.equal(pairs.noise, written["noise"].clamp(0, 1).half())


def test_the_same_scan_makes_the_same_bytes(tmp_path):
    # safetensors orders its header by chance, once in every few files.
    files = [write_pairs(tmp_path, f"scan_{i}", **scan(), info=INFO) for i in range(12)]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_opening_takes_no_memory(tmp_path):
    file = write_pairs(tmp_path, "a_0", **scan((64, 128, 128), snapshots=7), info=INFO)
    for number in range(1, 50):
        os.link(file, tmp_path / f"a_{number}.safetensors")
    before = own_memory_mb()
    scans = open_pairs(tmp_path)
    voxels = sum(t.numel() for s in scans.values() for t in (s.degraded, s.clean))
    assert voxels * 2 / 2**20 == 800
    assert own_memory_mb() - before < 20
    # What is read stays the system's, which drops it where memory is short.
    assert all(s.degraded[3].float().mean() > 0.4 for s in scans.values())
    assert own_memory_mb() - before < 20


def own_memory_mb():
    line = next(s for s in Path("/proc/self/status").open() if s.startswith("RssAnon"))
    return int(line.split()[1]) / 2**10


def test_what_others_are_writing_is_left_to_them_and_not_read(tmp_path):
    """The same command may have been started twice, here or on another machine."""
    places = [f"{gethostname()}.{os.getppid()}", "elsewhere.123"]
    parts = {f".{place}.part.a.safetensors" for place in places}
    for name in parts:
        (tmp_path / name).write_bytes(b"half")
    write_pairs(tmp_path, "a", **scan(), info=INFO)
    assert list(open_pairs(tmp_path)) == ["a"]
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.safetensors", *parts}


def test_a_scan_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = write_pairs(tmp_path, "a", **scan(seed=0), info=INFO)
    before, opened = path.read_bytes(), open_pairs(tmp_path)["a"]
    kept = opened.clean.clone()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_pairs(tmp_path, "a", **scan(seed=1), info=INFO)
    assert path.read_bytes() == before
    write_pairs(tmp_path, "a", **scan(seed=1), info=INFO)
    assert not torch.equal(open_pairs(tmp_path)["a"].clean, kept)
    # A reader that had mapped the old file goes on reading the old file.
    assert torch.equal(opened.clean, kept)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("left", [0, 7, 300, -1])
def test_a_truncated_file_is_refused(tmp_path, left):
    path = write_pairs(tmp_path, "a", **scan(), info=INFO)
    path.write_bytes(path.read_bytes()[:left])
    assert_refused(tmp_path, path)


def test_a_damaged_header_is_refused(tmp_path):
    path = write_pairs(tmp_path, "a", **scan(), info=INFO)
    content = bytearray(path.read_bytes())
    content[12:50] = bytes(38)
    path.write_bytes(content)
    assert_refused(tmp_path, path)


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps({"clean": 1}))
    assert_refused(tmp_path, path)


@pytest.mark.parametrize(
    "changes",
    [
        {"header": {"format": "pt"}},
        {"header": {"info": "{"}},
        {"header": {"info": "[1]"}},
        {"header": {"info": '{"case": "a"}'}},
        {"clean": torch.zeros(4, 5, 7)},
        {"degraded": torch.zeros(4, 5, 6)},
        {"biplanar": torch.zeros(3, 8, 8)},
        {"biplanar": None},
    ],
    ids=str,
)
def test_other_contents_are_refused(tmp_path, changes):
    header = {"format": pair_files.FORMAT, "info": json.dumps(INFO), **changes.pop("header", {})}
    tensors = {k: v for k, v in {**scan(), **changes}.items() if v is not None}
    save_file(tensors, tmp_path / "a.safetensors", metadata=header)
    assert_refused(tmp_path, tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_pairs_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"{name} holds no slice pairs"):
        open_pairs(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"degraded": torch.zeros(4, 5, 6)}, r"expected \(S, Z, Y, X\) with S >= 1"),
        ({"degraded": torch.zeros(0, 4, 5, 6)}, r"expected \(S, Z, Y, X\) with S >= 1"),
        ({"residual": torch.zeros(1, 4, 5, 6)}, r"residual has shape \(1, 4, 5, 6\)"),
        ({"noise": torch.zeros(2, 4, 5, 6)}, r"noise has shape \(2, 4, 5, 6\)"),
        ({"clean": torch.zeros(4, 5, 7)}, r"clean \(4, 5, 7\)"),
        ({"biplanar": torch.zeros(1, 8, 8)}, r"biplanar has shape .*expected \(2, h, w\)"),
        ({"clean": torch.full((4, 5, 6), torch.nan)}, "clean of a is not finite"),
        ({"info": {"case": "x"}}, "expected at least case and views"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scans_that_make_no_pairs_are_not_written(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        write_pairs(tmp_path / "pairs", "a", **{**scan(), "info": INFO, **changes})
    assert not (tmp_path / "pairs").exists()
