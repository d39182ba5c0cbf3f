from __future__ import annotations

import builtins
import json
import os
import pickle

import numpy as np
import pytest
import torch

from diffnr_lightning import cli
from diffnr_lightning.data import load_case, read_naf_pickle, write_case
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import fdk

SHAPE, VOXEL = (20, 24, 22), (2.0, 1.5, 1.6)  # (Z, Y, X), mm
CENTRE = (1.0, -2.0, 3.0)


def truth(grid):
    """A box and a ball in two different corners: no flip or exchange of axes leaves it as it is."""
    x, y, z = grid.points(dtype=torch.float64).unbind(-1)
    box = (x - 6).abs().lt(5) & (y + 10).abs().lt(4) & (z - 9).abs().lt(6)
    ball = (x + 8) ** 2 + (y - 8) ** 2 + (z + 7) ** 2 < 49
    return (0.9 * box + 0.5 * ball).float()


@pytest.fixture(scope="module")
def grid():
    return VolumeGrid(SHAPE, VOXEL, CENTRE)


@pytest.fixture(scope="module")
def content(grid):
    """The pickle as NAF's generator lays it out."""
    volume = truth(grid)
    data = {
        "DSD": 300.0, "DSO": 200.0,
        "nDetector": [40, 50], "dDetector": [2.4, 2.0],
        "nVoxel": list(SHAPE[::-1]), "dVoxel": list(VOXEL[::-1]),
        "offOrigin": list(CENTRE), "offDetector": [3.0, -2.0],
        "accuracy": 0.5, "mode": "cone", "filter": None,
        "totalAngle": 360.0, "startAngle": 0.0, "randomAngle": False,
        "convert": True, "normalize": True, "noise": 0,
        "numTrain": 60, "numVal": 3,
        "image": np.asfortranarray(volume.numpy().transpose(2, 1, 0)),
    }  # fmt: skip
    for part, angles in (("train", uniform_angles(60)), ("val", np.array([0.3, 1.1, 2.9]))):
        # In metres, as the generator projects them.
        metres = project(volume, grid, scan_of(data, angles)).numpy() / 1000
        data[part] = {"angles": angles, "projections": metres}
    return data


def scan_of(data, angles):
    """Place source and detector by hand: TIGRE's source at +x, rows from top (+z) to bottom."""
    cos, sin = np.cos(angles), np.sin(angles)
    zero = np.zeros_like(cos)
    outward, right = np.stack([cos, sin, zero], 1), np.stack([-sin, cos, zero], 1)
    up = np.array([0.0, 0.0, 1.0])
    along_u, along_v = data["offDetector"]
    pitch_v, pitch_u = data["dDetector"]
    detector = (data["DSO"] - data["DSD"]) * outward + along_u * right + along_v * up
    return ScanGeometry(
        "cone",
        tuple(data["nDetector"]),
        data["DSO"] * outward,
        detector,
        pitch_u * right,
        np.broadcast_to(-pitch_v * up, outward.shape),
    )


def dump(data, folder, protocol=pickle.HIGHEST_PROTOCOL):
    path = folder / "chest_50.pickle"
    path.write_bytes(pickle.dumps(data, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_generated_scan_is_read_as_it_was_made(tmp_path, content, grid, protocol):
    case = read_naf_pickle(dump(content, tmp_path, protocol))
    assert case.name == "chest_50"
    assert case.grid.shape == SHAPE
    np.testing.assert_allclose(case.grid.voxel_mm, VOXEL)
    np.testing.assert_allclose(case.grid.centre_mm, CENTRE)
    assert torch.equal(case.volume, truth(grid))
    for scan, projections, part in (
        (case.scan, case.projections, "train"),
        (case.test_scan, case.test_projections, "val"),
    ):
        expected = scan_of(content, content[part]["angles"])
        for name in ("source_mm", "detector_mm", "u_mm", "v_mm"):
            np.testing.assert_allclose(getattr(scan, name), getattr(expected, name), atol=1e-9)
        ours = project(truth(grid), grid, expected)
        torch.testing.assert_close(projections, ours, rtol=1e-5, atol=1e-5)
    assert case.projections.max() > 5


def test_its_reconstruction_lies_where_the_truth_lies(tmp_path, content):
    case = load_case(dump(content, tmp_path))
    volume = fdk(case.projections, case.grid, case.scan)
    error = (volume - case.volume).square().mean().sqrt()
    turned = [
        (volume - case.volume.flip(axes)).square().mean().sqrt()
        for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    ]
    assert error < 0.1
    assert min(turned) > 2 * error


@pytest.mark.filterwarnings("ignore")
def test_the_command_reconstructs_it(tmp_path, content, repository):
    options = ["--config", str(repository / "configs/reconstruct/fdk.yaml")]
    options += ["--case", str(dump(content, tmp_path)), "--out", str(tmp_path / "run")]
    assert cli.main(["reconstruct", *options]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["case"] == "chest_50"
    assert metrics["protocols"]["r2"]["psnr"] > 20
    assert metrics["projections"]


def test_it_can_be_written_as_a_case_folder(tmp_path, content):
    case = read_naf_pickle(dump(content, tmp_path))
    again = load_case(write_case(case, tmp_path / "case"))
    np.testing.assert_allclose(again.scan.detector_mm, case.scan.detector_mm, atol=1e-8)
    assert torch.equal(again.projections, case.projections)
    assert torch.equal(again.volume, case.volume)


def test_truth_test_views_and_offsets_are_optional(tmp_path, content):
    optional = {"image", "val", "offOrigin", "offDetector", "totalAngle", "numTrain", "mode"}
    data = {key: value for key, value in content.items() if key not in optional}
    case = read_naf_pickle(dump(data, tmp_path))
    assert case.volume is None
    assert case.test_scan is None
    assert case.grid.centre_mm == (0.0, 0.0, 0.0)


def test_numbers_of_any_type_are_read(tmp_path, content):
    data = dict(content)
    data |= {"DSD": np.float32(300), "nVoxel": np.array(content["nVoxel"], ">i2")}
    data |= {"numTrain": np.int64(60), "dVoxel": np.array(content["dVoxel"])}
    train = content["train"]["projections"].astype(">f8")
    data["train"] = {"angles": list(content["train"]["angles"]), "projections": train}
    expected = read_naf_pickle(dump(content, tmp_path))
    case = read_naf_pickle(dump(data, tmp_path))
    assert torch.equal(case.projections, expected.projections)
    assert case.scan == expected.scan
    assert case.grid == expected.grid


class Hostile:
    """Runs a command when it is unpickled in the ordinary way."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "command": Hostile(os.system, "touch owned"),
    "eval": Hostile(builtins.eval, "open('owned', 'w')"),
    "getattr": Hostile(getattr, "text", "upper"),
    "load": Hostile(np.load, "owned.npy"),
    "class": VolumeGrid((2, 2, 2), 1.0),
    "tensor": torch.zeros(2),
    "objects": np.array([{}, None], dtype=object),
    "text": np.array(["a", "bc"]),
    "record": np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
}


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("kind", HOSTILE)
def test_other_things_than_numbers_are_refused(
    tmp_path, monkeypatch, content, kind, protocol, one_sentence
):
    monkeypatch.chdir(tmp_path)
    path = dump({**content, "extra": HOSTILE[kind]}, tmp_path, protocol)
    with pytest.raises(ValueError, match="refused") as error:
        read_naf_pickle(path)
    assert "only arrays of numbers and plain containers" in one_sentence(error)
    assert not (tmp_path / "owned").exists()


def test_a_crafted_element_type_reaches_no_memory(tmp_path, content, one_sentence):
    """Bytes declared to be an array of objects, and objects declared to be bytes."""

    class Pointers:
        def __reduce__(self):
            state = (1, (1,), np.dtype("O"), False, b"\x01" * 8)
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    class Flags:
        def __reduce__(self):
            return np.dtype, ("f8", False, True), (3, "<", None, None, None, 2**40, 8, 63)

    class Lies:
        def __reduce__(self):
            state = (1, (10**9,), Flags(), False, b"\x01" * 8)
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    for thing in (Pointers(), Lies()):
        with pytest.raises(ValueError) as error:
            read_naf_pickle(dump({**content, "image": thing}, tmp_path))
        one_sentence(error)


BROKEN = {
    "empty": b"",
    "text": b"this is no pickle\n",
    "recursion": b"\x80\x04" + b"]\x94" * 2 + b"h\x00" * 5,
    "unknown memo": b"\x80\x04h\x05.",
    "a list": pickle.dumps([1, 2]),
    "persistent": b"\x80\x04K\x01Q.",
    "huge length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_files_that_are_no_naf_pickle(tmp_path, kind, one_sentence):
    path = tmp_path / "chest.pickle"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(ValueError) as error:
        load_case(path)
    assert str(path) in one_sentence(error)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_truncated_files(tmp_path, content, share, one_sentence):
    path = dump(content, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="truncated") as error:
        read_naf_pickle(path)
    one_sentence(error)


def test_files_that_are_not_there_or_of_another_type(tmp_path, one_sentence):
    with pytest.raises(FileNotFoundError, match="does not exist") as error:
        load_case(tmp_path / "none.pickle")
    one_sentence(error)
    (tmp_path / "case.mat").write_bytes(b"MATLAB")
    with pytest.raises(ValueError, match="case folder or a NAF pickle") as error:
        load_case(tmp_path / "case.mat")
    one_sentence(error)


def _train(**changes):
    return lambda data: {"train": {**data["train"], **changes}}


DAMAGES = {
    "wrong projections": (_train(projections=np.zeros((60, 50, 40))), "nDetector"),
    "views": (_train(angles=np.zeros(59)), "(59,)"),
    "flat": (_train(projections=np.zeros((60, 2000))), "(views, rows, columns)"),
    "nan": (_train(projections=np.full((60, 40, 50), np.nan)), "NaN"),
    "degrees": (_train(angles=np.arange(60) * 6.0), "radians"),
    "degrees, no arc": (
        lambda d: {"totalAngle": None, **_train(angles=np.arange(60) * 6.0)(d)},
        "radians",
    ),
    "no angles": (lambda d: {"train": {"projections": 1}}, "'train'"),
    "words": (_train(angles="many"), "not made of numbers"),
    "one view": (
        lambda d: {"train": {k: v[:1] for k, v in d["train"].items()}, "numTrain": 1},
        "at least 2",
    ),
    "numTrain": (lambda d: {"numTrain": 50}, "numTrain"),
    "numVal": (lambda d: {"numVal": 50}, "numVal"),
    "val": (lambda d: {"val": {}}, "'val'"),
    "millimetres": (
        lambda d: {"train": {**d["train"], "projections": 1000 * d["train"]["projections"]}},
        "metres",
    ),
    "image": (lambda d: {"image": d["image"].transpose(2, 1, 0)}, "nVoxel"),
    "constant image": (lambda d: {"image": np.zeros_like(d["image"])}, "constant"),
    "DSD < DSO": (lambda d: {"DSD": 100.0}, "DSO"),
    "two voxels": (lambda d: {"nVoxel": [22, 24]}, "nVoxel"),
    "length": (lambda d: {"dVoxel": [-1.0, 1.0, 1.0]}, "positive"),
    "mode": (lambda d: {"mode": "fan"}, "fan"),
    "word": (lambda d: {"DSO": "far"}, "DSO"),
    "offset": (lambda d: {"offDetector": [1.0]}, "offDetector"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_contradictions_are_named_in_one_sentence(tmp_path, content, damage, one_sentence):
    change, words = DAMAGES[damage]
    path = dump({**content, **change(content)}, tmp_path)
    with pytest.raises(ValueError) as error:
        read_naf_pickle(path)
    text = one_sentence(error)
    assert words in text
    assert str(path) in text


@pytest.mark.parametrize(
    "key", ["DSD", "DSO", "nDetector", "dDetector", "nVoxel", "dVoxel", "train"]
)
def test_missing_keys_are_named(tmp_path, content, key, one_sentence):
    path = dump({k: v for k, v in content.items() if k != key}, tmp_path)
    with pytest.raises(ValueError, match=f"lacks the key '{key}'") as error:
        read_naf_pickle(path)
    one_sentence(error)
