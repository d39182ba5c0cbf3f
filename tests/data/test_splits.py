import re

import pytest

from diffnr_lightning.data.splits import (
    COLUMNS,
    FOLDER,
    SETS,
    listed,
    read_split,
    selected,
    split_names,
)

HEAD = ",".join(COLUMNS)
LINES = [
    "heads/a.nii.gz,P1,head,train,here,MIT",
    "heads/b.nii.gz,P2,head,test,here,MIT",
    "c.mha,P3,limb,test,here,MIT",
    "scan.npz,P4,measured,test,here,MIT",
    "specimen:4-6,,specimen,development,generated,MIT",
]


@pytest.fixture(params=split_names())
def split(request):
    return read_split(request.param)


def written(tmp_path, *lines):
    (tmp_path / "made.csv").write_text("\n".join([HEAD, *lines]) + "\n")
    return read_split("made", tmp_path)


def training_list(card):
    """File names and generated objects of the section of the model card on training data."""
    section = card.partition("## Training data")[2].partition("\nHeld out")[0]
    heads = re.search(r"N one of([\d,\s]+);", section)[1]
    names = {f"pt_{number}" for number in re.findall(r"\d+", heads)}
    for kind, seeds in re.findall(r"generated (chests|specimens) \(seeds ([^)]+)\)", section):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", seeds):
            name = {"chests": "phantom", "specimens": "specimen"}[kind]
            names |= {f"{name}_{seed}" for seed in range(int(first), int(last or first) + 1)}
    for first, last in re.findall(r"`phantom:(\d+)-(\d+)`", section):
        names |= {f"phantom_{seed}" for seed in range(int(first), int(last) + 1)}
    return names


def test_no_patient_is_in_two_sets(split):
    sets = {}
    for volume in split:
        sets.setdefault(volume.patient, set()).add(volume.set)
    assert len(sets) > 10
    assert all(len(found) == 1 for found in sets.values())


def test_every_line_says_whose_it_is_and_under_which_licence(split):
    for volume in split:
        assert all(volume), volume
        assert volume.set in SETS
    names = [volume.name for volume in split]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("card", "some"),
    [
        ("README.md", {"pt_2", "phantom_100", "specimen_0"}),
        ("fbp_unet.md", {"pt_2", "pt_215", "phantom_100", "phantom_109"}),
    ],
)
def test_no_shipped_weight_has_learned_from_a_volume_that_is_kept(card, some):
    names = training_list((FOLDER.parents[1] / "assets" / card).read_text(encoding="utf-8"))
    assert some <= names
    kept = {volume.name for name in split_names() for volume in read_split(name)}
    kept -= {volume.name for volume in selected("split:train")}
    assert kept >= {"pt_1", "pt_3", "tooth", "phantom_300"}
    assert not names & kept


def test_the_issues_tables_have_their_volumes():
    kinds = {}
    for volume in selected("split:test"):
        kinds.setdefault(volume.kind, []).append(volume.name)
    assert {kind: len(names) for kind, names in kinds.items()} == {
        "head": 10,
        "chest": 1,
        "limb": 4,
        "plastic": 1,
        "tooth": 1,
        "fibres": 1,
        "phantom": 100,
        "specimen": 100,
    }
    assert kinds["chest"] == ["chest_lidc0003_1p5mm"]
    assert len(selected("split:diffnr/train[kind=head]")) == 148


def test_ranges_of_generated_objects_are_patients_one_by_one(tmp_path):
    volumes = written(tmp_path, *LINES)
    assert [v.name for v in volumes] == [
        "a",
        "b",
        "c",
        "scan",
        *(f"specimen_{n}" for n in (4, 5, 6)),
    ]
    assert [v.patient for v in volumes[-3:]] == ["specimen:4", "specimen:5", "specimen:6"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("heads/d.nii.gz,P2,head,train,here,MIT", "patient P2 in test and in train"),
        ("c.mha,P3,limb,test,here,MIT", "lists c.mha twice"),
        ("d.mha,P9,limb,val,here,MIT", "set 'val'; one of train"),
        ("d.mha,P9,limb", "6 fields are expected"),
        ("specimen:x,P9,specimen,test,here,MIT", "whole numbers"),
    ],
)
def test_files_that_contradict_themselves(tmp_path, line, words):
    with pytest.raises(ValueError, match=words):
        written(tmp_path, *LINES, line)


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "made.csv").write_text("volume,set\na,test\n")
    with pytest.raises(ValueError, match=r"columns \['volume', 'set'\]; volume, patient"):
        read_split("made", tmp_path)


def test_a_selection_keeps_the_order_of_its_kinds():
    names = [volume.kind for volume in selected("split:development[kind=limb,head]")]
    assert names == ["limb"] * 3 + ["head"] * 2


def test_volumes_may_be_selected_by_name():
    found = selected("split:test[name=sts_012,pt_1,phantom_301]")
    assert [volume.volume for volume in found] == [
        "limbs/sts_012.nii.gz",
        "headneck/pt_1.nii.gz",
        "phantom:301",
    ]


def test_measured_scans_are_no_volumes():
    assert all(volume.kind != "measured" for volume in selected("split:test"))
    assert len(selected("split:test[kind=measured]")) == 3


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("split:", "split:SET or split:NAME/SET"),
        ("split:test[head]", "split:SET or split:NAME/SET"),
        ("split:test[name=pt_1,pt_2]", "no name of that set is pt_2"),
        ("split:val", "one of train, development, test"),
        (
            "split:development[kind=tooth]",
            "no kind of that set is tooth; the kinds are head, chest",
        ),
    ],
)
def test_selections_that_name_nothing(source, words):
    with pytest.raises(ValueError, match=words):
        selected(source)


def test_a_split_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="split 'none' does not exist; one of diffnr"):
        selected("split:none/test")


def test_a_listed_volume_is_known_wherever_its_folder_is(tmp_path):
    assert listed(str(tmp_path / "headneck" / "pt_1.nii.gz")).set == "test"
    assert listed("specimen:250").set == "development"
    assert listed("specimen:400") is None
    stored = tmp_path / "store" / "0123"
    stored.parent.mkdir()
    stored.touch()
    for link in (tmp_path / "headneck" / "pt_1.nii.gz", tmp_path / "limbs" / "sts_012.nii.gz"):
        link.parent.mkdir()
        link.symlink_to(stored)
        assert listed(str(link)).name == link.name.removesuffix(".nii.gz")
    (tmp_path / "limbs" / "sts_005.nii.gz").touch()
    (tmp_path / "renamed.nii.gz").symlink_to(tmp_path / "limbs" / "sts_005.nii.gz")
    assert listed(str(tmp_path / "renamed.nii.gz")).name == "sts_005"
    # Another data set's patient 1.
    assert listed(str(tmp_path / "pt_1.nii.gz")) is None
