"""Sources that name volumes of data sets, on generated chests in the real layouts."""

import numpy as np
import pytest

from diffnr_lightning.data import ScanRecipe
from diffnr_lightning.data.datasets import (
    known_volume,
    listed_sources,
    load_source,
    selected_volumes,
)
from diffnr_lightning.data.datasets.luna16 import DEVELOPMENT, PINNED, TEST
from diffnr_lightning.data.datasets.registry import located
from diffnr_lightning.data.datasets.sets import split_by_rule
from diffnr_lightning.data.datasets.volume_folder import find_volumes
from diffnr_lightning.data.datasets.words import read_words
from diffnr_lightning.data.splits import listed, read_split
from diffnr_lightning.workflows.cases.volume_sources import (
    left_out,
    refuse_held_back,
    volume_sources,
)
from tests.public_layouts import SIZE, write_luna16, write_toothfairy

RECIPE = ScanRecipe()


@pytest.fixture
def luna16(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFNR_LUNA16", str(tmp_path))
    return write_luna16(tmp_path)


@pytest.fixture
def toothfairy(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFNR_TOOTHFAIRY", str(tmp_path))
    return write_toothfairy(tmp_path)


def test_the_split_of_luna16_is_that_of_its_rule():
    volumes = read_split("luna16")
    patients = {volume.name: volume.patient for volume in volumes}
    assert list(patients) == sorted(patients)
    found = split_by_rule(patients, DEVELOPMENT, TEST, PINNED)
    assert found == {volume.name: volume.set for volume in volumes}
    counts = [list(found.values()).count(name) for name in ("train", "development", "test")]
    assert counts == [838, 25, 25]
    # LIDC-IDRI-0332 has two scans.
    assert len(set(patients.values())) == 887


def test_chests_of_both_splits_are_in_the_same_set():
    luna16 = {volume.patient: volume.set for volume in read_split("luna16")}
    ours = {v.patient: v.set for v in read_split("diffnr") if v.patient in luna16}
    assert len(ours) == 3
    assert ours == {patient: luna16[patient] for patient in ours}


def test_a_set_of_luna16_names_its_series(luna16):
    train, test = luna16["train"], luna16["test"]
    assert volume_sources(["luna16:train"]) == {name: f"luna16:{name}" for name in train}
    assert list(volume_sources(["luna16:train[1:2]", "split:luna16/test"])) == [train[1], *test]
    assert known_volume(f"luna16:{test[0]}").kind == "chest"
    loaded = load_source("luna16:test[0]", RECIPE)
    assert (loaded.name, loaded.source, loaded.unit) == (test[0], f"luna16:{test[0]}", "HU")
    assert loaded.array.shape == (SIZE,) * 3


def test_what_luna16_keeps_is_not_learned_from(luna16, tmp_path):
    sources = volume_sources(["luna16:train", "luna16:test"])
    with pytest.raises(ValueError, match="keep for test; --exclude luna16:development luna16:test"):
        refuse_held_back(sources.values())
    assert left_out(sources, ["luna16:test"]) == set(luna16["test"])
    # By their paths they are known too.
    assert listed(next(tmp_path.glob(f"*/{luna16['test'][0]}.mhd")).as_posix()).set == "test"


def test_a_part_of_luna16_is_taken_with_a_warning(luna16, caplog):
    assert len(selected_volumes("luna16:train")) == 2
    assert "holds 2 of the 838 volumes of luna16:train" in caplog.text


def test_toothfairy_knows_its_voxels_and_its_split(toothfairy):
    sets = {
        name: list(volume_sources([f"toothfairy:{name}"]))
        for name in ("train", "development", "test")
    }
    assert [len(names) for names in sets.values()] == [4, 1, 1]
    assert sorted(name for names in sets.values() for name in names) == toothfairy
    assert known_volume(f"toothfairy:{sets['test'][0]}").set == "test"
    loaded = load_source("toothfairy:P2", RECIPE)
    assert (loaded.name, loaded.unit, loaded.spacing_mm) == ("P2", "HU", (0.3, 0.3, 0.3))
    assert load_source("toothfairy:P2", ScanRecipe(spacing_mm=0.4)).spacing_mm == (0.4,) * 3


@pytest.mark.parametrize("challenge", [2, 3])
def test_the_layouts_of_the_later_challenges(tmp_path, monkeypatch, challenge):
    names = write_toothfairy(tmp_path / "Dataset112", challenge=challenge)
    # As a Mac leaves them in archives.
    for image in list((tmp_path / "Dataset112" / "imagesTr").iterdir()):
        image.with_name(f"._{image.name}").write_bytes(b"Mac OS X")
    monkeypatch.setenv("DIFFNR_TOOTHFAIRY", str(tmp_path))
    chosen = [
        v.name
        for word in ("train", "development", "test")
        for v in selected_volumes(f"toothfairy:{word}")
    ]
    assert sorted(chosen) == names
    assert load_source(f"toothfairy:{names[0]}", RECIPE).spacing_mm != (0.3, 0.3, 0.3)


def test_a_folder_is_a_data_set(tmp_path):
    names = write_toothfairy(tmp_path / "deep", count=10)
    for path in tmp_path.rglob("gt_alpha.npy"):
        path.unlink()
    source = f"folder:{tmp_path}"
    found = volume_sources([source])
    assert list(found) == sorted(f"deep_{name}_data" for name in names)
    sets = [list(volume_sources([f"{source}:{name}"])) for name in ("train", "development", "test")]
    assert [len(each) for each in sets] == [8, 1, 1]
    assert load_source(found["deep_P3_data"], ScanRecipe(spacing_mm=1.0)).name == "deep_P3_data"
    with pytest.raises(ValueError, match=r"--exclude folder:.*:development folder:.*:test"):
        refuse_held_back(found.values())
    assert list(volume_sources([f"{source}[:3]"])) == list(found)[:3]


def test_a_folder_of_any_size_keeps_a_tenth_each(tmp_path):
    for number in range(40):
        (tmp_path / f"v{number}.npy").touch()
    sets = [
        selected_volumes(f"folder:{tmp_path}:{name}") for name in ("train", "development", "test")
    ]
    assert [len(each) for each in sets] == [32, 4, 4]


def test_a_folder_gives_away_nothing_that_a_split_keeps(tmp_path):
    for name in ("pt_1", "pt_2", "pt_3", "pt_5"):
        path = tmp_path / "headneck" / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "split.csv").write_text(
        "volume,patient,kind,set,source,licence\n"
        + "".join(f"headneck/pt_{n}.nii.gz,{n},head,train,here,none\n" for n in (1, 2, 3, 5))
    )
    sets = {
        name: known_volume(f"folder:{tmp_path}:{name}").set
        for name in ("pt_1", "pt_2", "pt_3", "pt_5")
    }
    assert sets == {"pt_1": "test", "pt_2": "train", "pt_3": "development", "pt_5": "train"}
    with pytest.raises(ValueError, match="which the splits keep for test"):
        refuse_held_back(volume_sources([f"folder:{tmp_path}:train"]).values())


def test_a_volume_that_its_folder_has_no_more_is_not_known(tmp_path):
    """A run may have read it before it was moved, or before another of its name made it `P1_data`."""
    (tmp_path / "other.npy").touch()
    assert known_volume(f"folder:{tmp_path}:no_more") is None


def test_what_a_folder_does_not_list_is_known_by_the_splits(tmp_path):
    for name in ("headneck/pt_1.nii.gz", "deep/pt_9999.nii.gz", "mine.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lines = ["volume,patient,kind,set,source,licence", "mine.npy,P1,bone,train,here,MIT"]
    lines.append("gone.npy,P2,bone,test,here,MIT")
    (tmp_path / "split.csv").write_text("\n".join(lines) + "\n")
    known = {
        name: known_volume(f"folder:{tmp_path}:{name}") for name in ("pt_1", "pt_9999", "gone")
    }
    assert (known["pt_1"].kind, known["pt_1"].set) == ("head", "test")
    assert known["pt_9999"] is None
    assert known["gone"].kind == "bone"


def test_volumes_that_differ_in_their_ending_alone_are_both_found(tmp_path):
    expected = {
        "ct.npy": "ct.npy",
        "ct.mha": "ct.mha",
        "deep_ct": "deep/ct.npy",
        "a_b": "a_b.npy",
        "a_b.npy": "a/b.npy",
        "c_b": "c/b.npy",
    }
    for name in expected.values():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {name: str(path.relative_to(tmp_path)) for name, path in find_volumes(tmp_path).items()}
    assert found == expected


def test_volumes_behind_links_are_found_once_and_links_around_them_are_harmless(tmp_path):
    archive, folder = tmp_path / "archive", tmp_path / "ct"
    for name in ("p1/scan.npy", "p2/dicom/1.dcm", ".trash/old.npy"):
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).write_bytes(bytes(128) + b"DICM" if name.endswith(".dcm") else b"")
    (folder / "here").mkdir(parents=True)
    (folder / "here" / "own.npy").touch()
    (folder / "linked").symlink_to(archive)
    (folder / "again").symlink_to(archive / "p1")
    (folder / "here" / "around").symlink_to(folder)
    assert sorted(find_volumes(folder)) == ["dicom", "own", "scan"]


def test_a_range_of_a_whole_folder_is_named_as_it_was_given(tmp_path, caplog):
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match=r"folder:\S*0 has 1 volumes, and the range"):
        volume_sources([f"folder:{tmp_path}[3:5]"])


def test_a_folder_may_say_what_its_volumes_are_for(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 4, 4)))
    lines = ["volume,patient,kind,set,source,licence"]
    lines += ["a.npy,P1,bone,test,here,MIT", "b.npy,P2,bone,train,here,MIT"]
    # A spreadsheet marks its text as Unicode.
    (tmp_path / "split.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    assert list(volume_sources([f"folder:{tmp_path}:test"])) == ["a"]
    assert known_volume(f"folder:{tmp_path}:b").kind == "bone"


def test_volumes_that_a_folder_does_not_list_are_named(tmp_path, caplog):
    for name in ("a_new", "b", "c"):
        (tmp_path / f"{name}.npy").touch()
    lines = ["volume,patient,kind,set,source,licence", "b.npy,P1,bone,test,here,MIT"]
    (tmp_path / "split.csv").write_text("\n".join(lines) + "\n")
    assert list(volume_sources([f"folder:{tmp_path}:test"])) == ["b"]
    assert not caplog.text
    assert list(volume_sources([f"folder:{tmp_path}"])) == ["b"]
    assert "2 volumes that" in caplog.text
    assert "split.csv does not list, such as a_new, c; they are left out" in caplog.text
    with pytest.raises(ValueError, match=r"no line in \S*split.csv for 'a_new'; .* such as b, is"):
        volume_sources([f"folder:{tmp_path}:a_new"])


def test_files_of_one_name_are_listed_by_their_paths(tmp_path):
    lines = ["volume,patient,kind,set,source,licence"]
    for number, role in enumerate(("test", "train", "train"), 1):
        (tmp_path / f"P{number}").mkdir()
        np.save(tmp_path / f"P{number}" / "data.npy", np.zeros((4, 4, 4)))
        lines.append(f"P{number}/data.npy,P{number},jaw,{role},here,MIT")
    (tmp_path / "split.csv").write_text("\n".join(lines) + "\n")
    assert list(volume_sources([f"folder:{tmp_path}:test"])) == ["P1_data"]
    assert list(volume_sources([f"folder:{tmp_path}:train"])) == ["P2_data", "P3_data"]
    assert known_volume(f"folder:{tmp_path}:P1_data").set == "test"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("luna16:", "luna16:SET or luna16:VOLUME is expected"),
        ("luna16:train[x]", "luna16:SET or luna16:VOLUME is expected"),
        ("folder:", "folder:PATH or folder:PATH:SET is expected"),
        ("luna16:trian", "no set and no volume 'trian'; one of train, development, test"),
        ("luna16:train[7:9]", "has 2 volumes, and the range behind it chooses none"),
        ("folder:/none", "folder:/none is wanted, but there is no such folder"),
    ],
)
def test_words_that_name_nothing(luna16, source, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        selected_volumes(source)


def test_several_volumes_are_not_one(luna16):
    with pytest.raises(ValueError, match=r"'luna16:train', which names 2 volumes; one is expected"):
        load_source("luna16:train", RECIPE)


@pytest.mark.parametrize("name", ["luna16", "toothfairy"])
def test_missing_data_say_where_they_are_and_what_to_set(name, tmp_path, monkeypatch):
    variable = f"DIFFNR_{name.upper()}"
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=rf"{variable} is not set; set it .* GB"):
        selected_volumes(f"{name}:test")
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"holds no volume of .* GB"):
        selected_volumes(f"{name}:test")
    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=f"{variable} names .*gone, but there is no such"):
        selected_volumes(f"{name}:test")


def test_words_are_read_whole():
    assert read_words("folder:/a/b:train[1:3]") == ("folder:/a/b", "train", slice(1, 3))
    assert read_words("folder:/a/b[2]") == ("folder:/a/b", None, slice(2, 3))
    assert read_words("toothfairy:P12") == ("toothfairy", "P12", slice(None))


def test_a_folder_may_have_brackets_in_its_name(tmp_path):
    folder = tmp_path / "CT [2020]" / "[old] heads"
    folder.mkdir(parents=True)
    for name in ("a", "b [1]"):
        np.save(folder / f"{name}.npy", np.zeros((2, 2, 2)))
    sources = volume_sources([f"folder:{folder}"])
    assert list(sources) == ["a", "b [1]"]
    for name, source in sources.items():
        assert located(source)[1:] == (name, folder / f"{name}.npy")
    assert list(volume_sources([f"folder:{folder}[1:]"])) == ["b [1]"]


def test_the_name_of_a_folder_may_end_in_brackets(tmp_path):
    folder = tmp_path / "odd [2020]"
    folder.mkdir()
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", np.zeros((2, 2, 2)))
    sources = volume_sources([f"folder:{folder}"])
    assert list(sources) == ["a", "b"]
    for name, source in sources.items():
        assert located(source)[1:] == (name, folder / f"{name}.npy")
    assert list(volume_sources([f"folder:{folder}[1]"])) == ["b"]
    with pytest.raises(ValueError, match="names 2 volumes"):
        located(f"folder:{folder}")


def test_a_volume_of_a_folder_may_have_brackets_in_its_name(tmp_path):
    for name in ("scan [post]", "test[0]", "other"):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 2, 2)))
    sources = volume_sources([f"folder:{tmp_path}"])
    assert set(sources) == {"scan [post]", "test[0]", "other"}
    for name, source in sources.items():
        assert volume_sources([source]) == {name: source}
        assert known_volume(source).name == name
        assert located(source)[1:] == (name, tmp_path / f"{name}.npy")
    assert len(volume_sources([f"folder:{tmp_path}:train[0]"])) == 1
    with pytest.raises(ValueError, match="no set and no volume 'post \\[scan\\]'"):
        volume_sources([f"folder:{tmp_path}:post [scan]"])


def test_a_folder_may_be_called_as_a_volume_in_it(tmp_path, monkeypatch):
    (tmp_path / "ct").mkdir()
    for name in ("ct", "other", "ct[0]"):
        (tmp_path / "ct" / f"{name}.npy").touch()
    monkeypatch.chdir(tmp_path)
    assert set(volume_sources(["folder:ct"])) == {"ct", "other", "ct[0]"}
    assert list(volume_sources(["folder:ct[0]"])) == ["ct"]
    assert left_out(volume_sources(["folder:ct"]), ["folder:ct"]) == {"ct", "other", "ct[0]"}


def test_a_volume_of_a_folder_that_is_away_is_listed():
    assert listed_sources("folder:/away/ct:P1") == ["folder:/away/ct:P1"]
    for source in ("folder:/away/ct:P1[0]", "folder:/away/ct", "folder:/away/ct:test"):
        with pytest.raises(FileNotFoundError, match="there is no such folder"):
            listed_sources(source)
