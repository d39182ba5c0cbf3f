from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffnr_lightning.data import Case, read_case, write_case
from diffnr_lightning.files import same_content
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.projectors import project


def _assert_same_scan(ours: ScanGeometry, other: ScanGeometry) -> None:
    assert ours.beam == other.beam
    assert ours.detector_shape == other.detector_shape
    for name in ("source_mm", "detector_mm", "u_mm", "v_mm"):
        np.testing.assert_allclose(getattr(ours, name), getattr(other, name), atol=1e-8)


def test_written_case_reads_the_same(tmp_path, small_case):
    case = read_case(write_case(small_case, tmp_path / "deep" / "case"))
    _assert_same_scan(case.scan, small_case.scan)
    _assert_same_scan(case.test_scan, small_case.test_scan)
    np.testing.assert_allclose(case.grid.centre_mm, small_case.grid.centre_mm)
    np.testing.assert_allclose(case.grid.voxel_mm, small_case.grid.voxel_mm)
    for name in ("projections", "test_projections", "volume"):
        assert torch.equal(getattr(case, name), getattr(small_case, name)), name
    for name in ("name", "window_hu", "unit", "seed", "source", "provenance", "frame_origin_mm"):
        assert getattr(case, name) == getattr(small_case, name), name
    assert case.grid.shape == small_case.grid.shape
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["case"]


def test_folder_is_the_r2_gaussian_format(tmp_path, small_case):
    folder = write_case(small_case, tmp_path / "case")
    meta = json.loads((folder / "meta_data.json").read_text())
    scanner = meta["scanner"]
    expected = {
        "mode", "DSD", "DSO", "nDetector", "sDetector", "nVoxel", "sVoxel", "offOrigin",
        "offDetector", "accuracy", "totalAngle", "startAngle", "noise", "filter",
    }  # fmt: skip
    assert expected <= set(scanner)
    assert scanner["nVoxel"] == [7, 5, 4]
    assert scanner["nDetector"] == [6, 9]
    assert scanner["sDetector"] == pytest.approx([18.0, 18.0])
    assert scanner["sVoxel"] == pytest.approx([10.5, 5.0, 8.0])
    assert meta["bbox"] == [list(c) for c in small_case.grid.corners_mm]
    assert "views_train" not in meta
    stored = np.load(folder / meta["vol"])
    np.testing.assert_array_equal(stored, small_case.volume.numpy().transpose(2, 1, 0))
    first = meta["proj_train"][0]
    assert first["angle"] == pytest.approx(0.1)
    np.testing.assert_array_equal(np.load(folder / first["file_path"]), small_case.projections[0])


def test_case_in_another_length_unit_gives_scaled_projections(tmp_path, small_case):
    """R2-Gaussian's boxes have side 2: all lengths, and with them the line integrals, shrink."""
    folder = write_case(small_case, tmp_path / "case")
    meta = json.loads((folder / "meta_data.json").read_text())
    factor = 0.02
    for key in ("DSD", "DSO", "sDetector", "sVoxel", "offOrigin", "offDetector"):
        meta["scanner"][key] = (np.asarray(meta["scanner"][key]) * factor).tolist()
    (folder / "meta_data.json").write_text(json.dumps(meta))
    case = read_case(folder)
    ours = project(small_case.volume, small_case.grid, small_case.scan)
    theirs = project(case.volume, case.grid, case.scan)
    np.testing.assert_allclose(theirs, ours * factor, rtol=1e-3, atol=1e-5)
    assert ours.max() > 0


@pytest.mark.parametrize(
    ("key", "stated"), [("dVoxel", [9.0, 9.0, 9.0]), ("dDetector", "fine"), ("dDetector", [1.0])]
)
def test_edges_of_voxels_and_pixels_that_contradict_are_told(
    tmp_path, small_case, key, stated, caplog
):
    folder = write_case(small_case, tmp_path / "case")
    with caplog.at_level("WARNING", "diffnr"):
        expected = read_case(folder).fingerprint()
    assert not caplog.records
    _edit(lambda meta: meta["scanner"].update({key: stated}))(folder)
    with caplog.at_level("WARNING", "diffnr"):
        assert read_case(folder).fingerprint() == expected
    assert f"scanner {key} = {stated}" in caplog.text


def test_spellings_and_omissions_of_other_writers_are_read(tmp_path, small_case):
    """The format's generators disagree about keys; only what is needed is asked for."""
    projections = project(small_case.volume, small_case.grid, small_case.scan)
    folder = write_case(replace(small_case, projections=projections), tmp_path / "LUNA16_0001")
    meta = json.loads((folder / "meta_data.json").read_text())
    (folder / "vol_gt.npy").rename(folder / "volume_gt.npy")
    scanner = {k: meta["scanner"][k] for k in ("DSD", "DSO", "nDetector", "sDetector")}
    scanner |= {k: meta["scanner"][k] for k in ("nVoxel", "sVoxel", "offOrigin", "offDetector")}
    scanner |= {"total_angle": 360, "start_angle": 0, "possion_noise": 10000, "filter": None}
    for key in ("vol", "ct"):
        other = {"scanner": scanner, key: "volume_gt.npy", "proj_train": meta["proj_train"]}
        (folder / "meta_data.json").write_text(json.dumps(other))
        case = read_case(folder)
        assert torch.equal(case.volume, small_case.volume)
        assert (case.name, case.unit, case.window_hu) == ("LUNA16_0001", "arbitrary", None)
        assert case.test_scan is None
        _assert_same_scan(case.scan, small_case.scan)


def test_a_case_written_on_windows_is_read(tmp_path, small_case):
    """Backslashes in paths, and a byte order mark before the JSON text."""
    folder = write_case(small_case, tmp_path / "case")
    meta = json.loads((folder / "meta_data.json").read_text())
    for entry in (*meta["proj_train"], *meta["proj_test"]):
        entry["file_path"] = entry["file_path"].replace("/", "\\")
    meta["vol"] = ".\\vol_gt.npy"
    (folder / "meta_data.json").write_text(json.dumps(meta), encoding="utf-8-sig")
    case = read_case(folder)
    for name in ("projections", "test_projections", "volume"):
        assert torch.equal(getattr(case, name), getattr(small_case, name)), name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["meta_data.json", "vol_gt.npy", "proj_train/0002.npy"])
def test_files_that_may_not_be_read(tmp_path, small_case, name, one_sentence):
    folder = write_case(small_case, tmp_path / "case")
    (folder / name).chmod(0)
    with pytest.raises((ValueError, OSError), match="ermission") as error:
        read_case(folder)
    assert name in one_sentence(error)


def test_ground_truth_and_test_views_are_optional(tmp_path, small_case):
    bare = replace(small_case, volume=None, test_scan=None, test_projections=None)
    case = read_case(write_case(bare, tmp_path / "case"))
    assert case.volume is None
    assert case.test_projections is None
    assert torch.equal(case.projections, bare.projections)


@pytest.mark.parametrize("kind", ["helix", "long helix", "shifted axis", "tilted", "parallel"])
def test_any_scan_survives(tmp_path, small_case, kind):
    angles = small_case.scan.orbit.angles_rad
    cone = {
        "angles_rad": angles,
        "source_to_axis_mm": 500.0,
        "source_to_detector_mm": 750.0,
        "detector_shape": (6, 9),
        "pixel_mm": 2.0,
    }
    scan = ScanGeometry.cone(**cone)
    if kind.endswith("helix"):
        reach = 700.0 if kind == "long helix" else 5.0
        scan = ScanGeometry.cone(**cone, height_mm=np.linspace(-reach, reach, 5))
    elif kind == "shifted axis":
        scan = ScanGeometry.cone(**cone, axis_mm=(4.0, -3.0))
    elif kind == "tilted":
        turn = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
        vectors = (scan.source_mm, scan.detector_mm, scan.u_mm, scan.v_mm)
        scan = ScanGeometry("cone", (6, 9), *(vector @ turn.T for vector in vectors))
    else:
        scan = ScanGeometry.parallel(
            angles_rad=angles, detector_shape=(6, 9), pixel_mm=2.0, detector_offset_mm=(0.0, 3.0)
        )
    case = replace(small_case, scan=scan, test_scan=None, test_projections=None)
    again = read_case(write_case(case, tmp_path / "case"))
    rays, expected = again.scan.rays(dtype=torch.float64), scan.rays(dtype=torch.float64)
    torch.testing.assert_close(rays[1], expected[1], atol=1e-9, rtol=0)
    # The ray itself, not where on it its origin lies: the foot of the perpendicular from (1, 2, 3).
    point = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    feet = [o + ((point - o) * d).sum(-1, keepdim=True) * d for o, d in (rays, expected)]
    torch.testing.assert_close(feet[0], feet[1], atol=1e-7, rtol=0)
    np.testing.assert_allclose(again.grid.centre_mm, case.grid.centre_mm, atol=1e-9)


def test_rewriting_replaces_the_case_and_foreign_folders_are_refused(
    tmp_path, small_case, one_sentence
):
    folder = write_case(small_case, tmp_path / "case")
    changed = replace(small_case, projections=small_case.projections + 1)
    write_case(changed, folder)
    assert torch.equal(read_case(folder).projections, changed.projections)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("irreplaceable")
    with pytest.raises(ValueError) as error:
        write_case(small_case, foreign)
    assert "thesis" in one_sentence(error)
    assert (foreign / "chapter1.tex").read_text() == "irreplaceable"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["case", "thesis"]


def test_failed_write_leaves_the_old_case(tmp_path, small_case, monkeypatch, one_sentence):
    folder = write_case(small_case, tmp_path / "case")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ValueError) as error:
        write_case(replace(small_case, projections=small_case.projections + 1), folder)
    assert "No space left" in one_sentence(error)
    assert torch.equal(read_case(folder).projections, small_case.projections)
    assert [f.name for f in tmp_path.iterdir()] == ["case"]


def _edit(change):
    def apply(folder):
        file = folder / "meta_data.json"
        meta = json.loads(file.read_text())
        change(meta)
        file.write_text(json.dumps(meta))

    return apply


def _put(name, array):
    return lambda folder: np.save(folder / name, array)


def _say_noise(meta, **rule):
    """As the folders of other writers do, which say nothing of where they come from."""
    del meta["provenance"]
    meta["scanner"].update(noise=True, **rule)


PROJECTION = "proj_train/0002.npy"
DAMAGES = {
    "no folder": (lambda f: f.rename(f.parent / "elsewhere"), "does not exist"),
    "no meta": (lambda f: (f / "meta_data.json").unlink(), "meta_data.json"),
    "no json": (lambda f: (f / "meta_data.json").write_text("{"), "JSON"),
    "list": (lambda f: (f / "meta_data.json").write_text("[1]"), "JSON object"),
    "no scanner": (_edit(lambda m: m.pop("scanner")), "scanner"),
    "scanner text": (_edit(lambda m: m.update(scanner="cone")), "scanner"),
    "no DSD": (_edit(lambda m: m["scanner"].pop("DSD")), "DSD"),
    "no sVoxel": (_edit(lambda m: m["scanner"].pop("sVoxel")), "sVoxel"),
    "DSD < DSO": (_edit(lambda m: m["scanner"].update(DSD=100.0)), "DSO"),
    "two voxels": (_edit(lambda m: m["scanner"].update(nVoxel=[7, 5])), "meta_data.json"),
    "word length": (_edit(lambda m: m["scanner"].update(DSO="far")), "meta_data.json"),
    "mode": (_edit(lambda m: m["scanner"].update(mode="fan")), "fan"),
    "no train": (_edit(lambda m: m.pop("proj_train")), "proj_train"),
    "empty train": (_edit(lambda m: m.update(proj_train=[])), "no projections"),
    "one view": (_edit(lambda m: m.update(proj_train=m["proj_train"][:1])), "one projection"),
    "no angle": (_edit(lambda m: m["proj_train"][1].pop("angle")), "angle"),
    "degrees": (_edit(lambda m: m["proj_train"][1].update(angle=270.0)), "radians"),
    "test views in degrees": (
        _edit(lambda m: m["proj_test"][0].update(angle=270.0)),
        "proj_test",
    ),
    "half a voxel": (_edit(lambda m: m["scanner"].update(nVoxel=[7, 5, 4.5])), "whole numbers"),
    "provenance": (_edit(lambda m: m.update(provenance=["made"])), "provenance"),
    "window": (_edit(lambda m: m.update(window_hu=[3, 1])), "window_hu"),
    "window text": (_edit(lambda m: m.update(window_hu="wide")), "window_hu"),
    "deep": (lambda f: (f / "meta_data.json").write_text("[" * 10**5), "JSON"),
    "no text": (lambda f: (f / "meta_data.json").write_bytes(b"\xff\xfe{}"), "JSON"),
    "folder for a view": (
        lambda f: ((f / PROJECTION).unlink(), (f / PROJECTION).mkdir()),
        PROJECTION,
    ),
    "beyond float32": (_put(PROJECTION, np.full((6, 9), 1e300)), PROJECTION),
    "seed": (_edit(lambda m: m.update(seed="dice")), "seed"),
    "missing view": (lambda f: (f / PROJECTION).unlink(), PROJECTION),
    "truncated view": (lambda f: (f / PROJECTION).write_bytes(b"\x93NUMPY\1\0"), PROJECTION),
    "wrong shape": (_put(PROJECTION, np.zeros((9, 6))), "(9, 6)"),
    "nan view": (_put(PROJECTION, np.full((6, 9), np.nan)), PROJECTION),
    "text view": (_put(PROJECTION, np.full((6, 9), "x")), PROJECTION),
    "missing truth": (lambda f: (f / "vol_gt.npy").unlink(), "vol_gt.npy"),
    "shape of truth": (_put("vol_gt.npy", np.random.rand(4, 5, 7)), "vol_gt.npy"),
    "photons": (_edit(lambda m: m.update(photons_train=3)), "photons_train"),
    "photons behind nothing": (
        _edit(lambda m: _say_noise(m, poisson_noise=-5)),
        "poisson_noise = -5",
    ),
    "read-out noise": (
        _edit(lambda m: _say_noise(m, poisson_noise=1e4, gaussian_noise=10)),
        "mean and deviation",
    ),
    "poses": (_edit(lambda m: m.update(centre_mm=[0, 0, 0])), "views_train"),
    "nan truth": (_put("vol_gt.npy", np.full((7, 5, 4), np.inf)), "vol_gt.npy"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_case_is_named_in_one_sentence(tmp_path, small_case, damage, one_sentence):
    folder = write_case(small_case, tmp_path / "case")
    apply, expected = DAMAGES[damage]
    apply(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_case(folder)
    text = one_sentence(error)
    assert expected in text
    assert str(folder) in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frame_origin_mm", [1.0, 2.0]),
        ("frame_origin_mm", "middle"),
        ("frame_direction", [1.0, 0.0, 0.0]),
        ("frame_direction", [1, 0, 0, 0.5, 1, 0, 0, 0, 1]),
        ("frame_direction", [2, 0, 0, 0, 2, 0, 0, 0, 2]),
    ],
)
def test_a_frame_in_which_nothing_could_be_written_is_refused(
    tmp_path, small_case, key, value, one_sentence
):
    write_case(small_case, tmp_path / "case")
    meta = json.loads((tmp_path / "case" / "meta_data.json").read_text())
    meta["provenance"][key] = value
    (tmp_path / "case" / "meta_data.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError) as error:
        read_case(tmp_path / "case")
    assert f"provenance of case small has {key}" in one_sentence(error)


def test_contradictory_case_is_refused(small_case):
    with pytest.raises(ValueError, match="projections"):
        replace(small_case, projections=torch.zeros(4, 6, 9))
    with pytest.raises(ValueError, match="together"):
        replace(small_case, test_scan=None)
    with pytest.raises(ValueError, match="volume"):
        replace(small_case, grid=VolumeGrid((4, 4, 4), 1.0))
    assert isinstance(small_case, Case)


@pytest.fixture
def counted_case(small_case):
    counts = torch.arange(5.0 * 6 * 9).reshape(5, 6, 9)
    photons = PhotonCounts(counts, torch.full((1, 1, 1), 1e4), 3.0, 0.02)
    tested = PhotonCounts(counts[:2], torch.full((2, 6, 9), 1e4), 3.0, 0.02)
    return replace(small_case, photons=photons, test_photons=tested)


def test_air_of_every_view_is_kept(tmp_path, counted_case):
    air = torch.linspace(1e4, 2e4, 5)[:, None, None]
    given = counted_case.photons._replace(air=air)
    case = read_case(write_case(replace(counted_case, photons=given), tmp_path / "case"))
    torch.testing.assert_close(case.photons.air, air.expand(5, 6, 9))
    torch.testing.assert_close(case.photons.weights(), given.weights())


def test_photons_of_an_unknown_origin_are_refused(tmp_path, counted_case, one_sentence):
    folder = write_case(counted_case, tmp_path / "case")
    _edit(lambda m: m["photons_train"].update(origin="guessed"))(folder)
    with pytest.raises(ValueError, match="origin = 'guessed'") as error:
        read_case(folder)
    one_sentence(error)


def first_fingerprint(case):
    """What versions recorded that hashed of the photons their counts alone."""
    frame = (case.frame_origin_mm, case.frame_direction)
    parts = [repr((case.seed, case.unit, case.window_hu, *frame, case.grid)).encode()]
    for scan, projections, photons in (
        (case.scan, case.projections, case.photons),
        (case.test_scan, case.test_projections, case.test_photons),
    ):
        parts += [repr(scan).encode(), projections.numpy().tobytes()]
        parts += [] if photons is None else [photons.counts.numpy().tobytes()]
    return hashlib.sha256(b"".join([*parts, case.volume.numpy().tobytes()])).hexdigest()


@pytest.mark.parametrize("which", ["photons", "test_photons"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("counts", None),
        ("air", None),
        ("electronic", 4.0),
        ("scale", 0.03),
        ("origin", "assumed"),
    ],
)
def test_all_that_is_known_of_photons_is_in_the_fingerprint(counted_case, which, key, value):
    photons = getattr(counted_case, which)
    changed = photons._replace(**{key: getattr(photons, key) + 1 if value is None else value})
    other = replace(counted_case, **{which: changed})
    assert other.fingerprint() != counted_case.fingerprint()
    assert not same_content(counted_case.fingerprint(), other.fingerprint())
    assert same_content(first_fingerprint(counted_case), other.fingerprint()) == (key != "counts")


def test_photons_that_are_not_known_are_others(counted_case):
    told = {counted_case.fingerprint()}
    for without in ({"photons": None}, {"test_photons": None}):
        told.add(replace(counted_case, **without).fingerprint())
    assert len(told) == 3


def test_a_fingerprint_lasts(tmp_path, counted_case, small_case):
    for number, case in enumerate((counted_case, small_case)):
        folder = write_case(case, tmp_path / str(number))
        read = read_case(folder)
        assert read.fingerprint() == read_case(folder).fingerprint()
        assert same_content(first_fingerprint(read), read.fingerprint())
        assert not same_content(first_fingerprint(replace(read, seed=1)), read.fingerprint())
