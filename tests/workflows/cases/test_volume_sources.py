import pytest

from diffnr_lightning import cli
from diffnr_lightning.workflows.cases.volume_sources import (
    left_out,
    refuse_held_back,
    volume_names,
    volume_sources,
)
from tests.public_layouts import series


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The development set's heads and chest as empty files in the folder that DIFFNR_DATA names."""
    (tmp_path / "headneck").mkdir()
    for name in ("headneck/pt_3.nii.gz", "headneck/pt_9.nii.gz", "chest_lungdx0001_1p7mm.nii.gz"):
        (tmp_path / name).touch()
    monkeypatch.setenv("DIFFNR_DATA", str(tmp_path))
    return tmp_path


def test_a_set_of_a_split_names_its_files(data):
    found = volume_sources(["split:diffnr/development[kind=head,chest]", "specimen:7"])
    assert found == {
        "pt_3": str(data / "headneck/pt_3.nii.gz"),
        "pt_9": str(data / "headneck/pt_9.nii.gz"),
        "chest_lungdx0001_1p7mm": str(data / "chest_lungdx0001_1p7mm.nii.gz"),
        "specimen_7": "specimen:7",
    }


def test_generated_volumes_of_a_split_need_no_folder(monkeypatch):
    monkeypatch.delenv("DIFFNR_DATA", raising=False)
    assert list(volume_sources(["split:test[kind=phantom]"]))[:2] == ["phantom_300", "phantom_301"]


def test_files_of_a_split_need_the_folder(monkeypatch):
    monkeypatch.delenv("DIFFNR_DATA", raising=False)
    with pytest.raises(
        ValueError, match="DIFFNR_DATA is not set; set it to the folder in which headneck/pt_3"
    ):
        volume_sources(["split:development[kind=head]"])


def test_a_missing_file_of_a_split_is_named(data):
    with pytest.raises(FileNotFoundError, match="sts_005.nii.gz does not exist; DIFFNR_DATA names"):
        volume_sources(["split:development"])


def test_projections_are_no_volumes(data):
    with pytest.raises(ValueError, match="`diffnr ingest` reads projections"):
        volume_sources(["split:test[kind=measured]"])


def test_what_a_split_keeps_is_not_learned_from(data):
    sources = volume_sources(["split:development[kind=head]", "phantom:299-300", "phantom:5"])
    with pytest.raises(
        ValueError,
        match=r"headneck/pt_3.nii.gz, which the splits keep for development \(and 3 more\)",
    ):
        refuse_held_back(sources.values())
    unwanted = left_out(sources, ["pt_?", "split:development[kind=phantom]", "split:test"])
    assert unwanted == {"pt_3", "pt_9", "phantom_299", "phantom_300"}
    refuse_held_back(["phantom:5", "split.nii.gz"])


def test_a_pattern_that_leaves_nothing_out_is_said(caplog):
    sources = volume_sources(["phantom:1-3"])
    assert left_out(sources, ["phantom_2", "phantom-3"]) == {"phantom_2"}
    (record,) = caplog.records
    assert "'phantom-3' leaves nothing out" in record.getMessage()


def test_a_name_with_brackets_is_left_out_as_it_is(caplog):
    sources = {name: f"{name}.npy" for name in ("ct[1]", "ct[2]")}
    assert left_out(sources, ["ct[1]"]) == {"ct[1]"}
    assert not caplog.text


def test_a_volume_of_a_set_is_left_out_whatever_it_is_called(data):
    """Another file of its name gives it the one of its folder too."""
    (data / "mine").mkdir()
    (data / "mine/pt_3.nii.gz").touch()
    sources = volume_sources(
        [str(data / folder / "pt_3.nii.gz") for folder in ("headneck", "mine")]
    )
    assert list(sources) == ["headneck_pt_3", "mine_pt_3"]
    assert left_out(sources, ["split:development"]) == {"headneck_pt_3"}
    assert left_out(sources, ["mine_*"]) == {"mine_pt_3"}


def test_curate_refuses_a_test_volume_and_leaves_it_out_on_demand(tmp_path, capsys):
    words = (
        "curate --config configs/tiny/curate.yaml --size 16 --volumes phantom:5 phantom:300".split()
    )
    words += ["--out", str(tmp_path / "pairs")]
    assert cli.main(words) == cli.USAGE_ERROR
    assert "phantom:300, which the splits keep for test" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()
    assert cli.main([*words, "--exclude", "split:test"]) == 0
    written = {path.name for path in (tmp_path / "pairs").glob("*.safetensors")}
    assert written == {"phantom_5_0.safetensors"}


def test_volumes_are_named_by_their_files(tmp_path):
    series = "1.3.6.1.4.1.14519.5.2.1.6279.6001.1001"
    for name in (f"{series}.mhd", "pt_1.nii.gz", "P1/data.npy", "P2/data.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = volume_sources([f"{tmp_path}/*.*", f"{tmp_path}/P*/*.npy", "phantom:3-4", "specimen:3"])
    assert set(names) == {
        series,
        "pt_1",
        "P1_data",
        "P2_data",
        "phantom_3",
        "phantom_4",
        "specimen_3",
    }
    assert names["P2_data"] == f"{tmp_path}/P2/data.npy"
    # A file that two patterns match is one volume.
    assert len(volume_sources([f"{tmp_path}/pt*", f"{tmp_path}/*.gz"])) == 1


def test_two_volumes_of_one_name_are_refused(tmp_path):
    for name in ("a/P1/data.npy", "b/P1/data.npy"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="both would be called P1_data"):
        volume_sources([f"{tmp_path}/*/P1/data.npy"])


@pytest.fixture
def a_part(tmp_path, monkeypatch):
    """One volume of the test set of LUNA16, and two of ToothFairy, as empty files."""
    test = series("test", 25)
    names = (f"luna16/subset0/{test[3]}.mhd", "jaws/P1/data.npy", "jaws/P2/data.npy")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("DIFFNR_LUNA16", str(tmp_path / "luna16"))
    monkeypatch.setenv("DIFFNR_TOOTHFAIRY", str(tmp_path / "jaws"))
    return test


def test_volumes_that_are_away_are_named_where_they_are_known(a_part, tmp_path, monkeypatch):
    assert list(volume_sources(["luna16:test"])) == [a_part[3]]
    assert volume_names(["luna16:test"]) == volume_names(["split:luna16/test"]) == set(a_part)
    assert volume_names(["toothfairy:P7", "phantom:3"]) == {"P7", "phantom_3"}
    monkeypatch.delenv("DIFFNR_DATA", raising=False)
    assert volume_names(["split:development[kind=head]"]) == {"pt_3", "pt_9"}
    assert volume_names([f"{tmp_path}/jaws/*/data.npy"]) == {"P1_data", "P2_data"}
    assert volume_names([f"folder:{tmp_path}/luna16"]) == {a_part[3]}


def test_volumes_that_a_part_names_otherwise_than_the_whole_are_not_named(a_part):
    for words in ("luna16:test[0:2]", "toothfairy:test"):
        assert volume_sources([words])
        assert volume_names([words, "phantom:3"]) is None


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.npy").touch()
    assert (
        volume_sources(["~/a.npy"]) == volume_sources(["~/*.npy"]) == {"a": str(tmp_path / "a.npy")}
    )


def test_an_empty_folder_is_no_volume(tmp_path):
    (tmp_path / "scans").mkdir()
    with pytest.raises(FileNotFoundError, match="scans', an empty folder; check the path"):
        volume_sources([f"{tmp_path}/scans"])
