import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from diffnr_lightning.files import (
    claim,
    remove_leftovers,
    replacing,
    replacing_folder,
    whole_files,
    write_bytes,
    write_json,
)


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "folder" / "volume.nii.gz"
    with replacing(path) as part:
        assert part.name.endswith(".nii.gz")
        part.write_text("old")
        assert not path.exists()
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["volume.nii.gz"]


def test_a_folder_is_exchanged_whole(tmp_path):
    path = tmp_path / "case"
    for content in ("old", "new"):
        with replacing_folder(path) as part:
            (part / "file").write_text(content)
            (part / content).touch()
    with pytest.raises(RuntimeError), replacing_folder(path) as part:
        (part / "file").write_text("half")
        raise RuntimeError
    assert sorted(os.listdir(path)) == ["file", "new"]
    assert os.listdir(tmp_path) == ["case"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_stays_a_link(tmp_path, there):
    (tmp_path / "scratch").mkdir()
    real, link = tmp_path / "scratch" / "c", tmp_path / "case"
    if there:
        real.mkdir()
        (real / "old").touch()
    link.symlink_to(real)
    with replacing_folder(link) as part:
        (part / "new").touch()
    assert link.is_symlink() and os.listdir(link) == ["new"]
    assert os.listdir(real.parent) == ["c"]
    assert sorted(os.listdir(tmp_path)) == ["case", "scratch"]


def test_files_can_be_read_by_whom_the_mask_allows(tmp_path):
    mask = os.umask(0o027)
    try:
        path = write_json(tmp_path / "metrics.json", {"psnr": 1})
        with replacing_folder(tmp_path / "case"):
            pass
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "case").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("write", [lambda p: write_bytes(p, b"x"), lambda p: claim(p, "x")])
def test_a_path_that_cannot_be_written_is_named(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/report\.html cannot be written: \w+"):
        write(tmp_path / "file" / "report.html")
    with (
        pytest.raises(ValueError, match="folder cannot be written"),
        replacing_folder(tmp_path / "file" / "folder"),
    ):
        pass


def test_a_claim_is_kept_by_the_first(tmp_path):
    path = tmp_path / "new" / "config.yaml"
    claim(path, "first")
    claim(path, "second")
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["config.yaml"]


def test_what_is_being_written_is_no_file_yet_and_can_be_removed(tmp_path):
    write_bytes(tmp_path / "a.bin", b"1", b"2")
    assert (tmp_path / "a.bin").read_bytes() == b"12"
    with replacing(tmp_path / "b.bin") as part:
        part.touch()
        assert whole_files(tmp_path, "*.bin") == [tmp_path / "a.bin"]
    (tmp_path / ".host.1.part.a.bin").touch()
    (tmp_path / ".host.1.part.ab.bin").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "b.bin"]


def test_what_a_killed_process_left_goes_with_the_next_writing(tmp_path):
    killed = subprocess.Popen(["true"])
    killed.wait()
    host = socket.gethostname()
    for name in ("case", "case.old"):
        (tmp_path / f".{host}.{killed.pid}.part.{name}" / "proj_train").mkdir(parents=True)
    alive = tmp_path / f".{host}.{os.getppid()}.part.case"
    elsewhere = tmp_path / f".{host}x.{killed.pid}.part.case"
    other = tmp_path / f".{host}.{killed.pid}.part.another case"
    for kept in (alive, elsewhere, other):
        kept.mkdir()
    with replacing_folder(tmp_path / "case"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "case", alive, elsewhere, other])


def test_what_a_killed_process_of_the_same_number_left_goes_too(tmp_path):
    own = f".{socket.gethostname()}.{os.getpid()}.part"
    for name in ("case", "case.old"):
        (tmp_path / f"{own}.{name}" / "proj_train").mkdir(parents=True)
    with replacing_folder(tmp_path / "case") as part:
        assert part.name == f"{own}.case" and not list(part.iterdir())
        (part / "file").touch()
        with replacing(tmp_path / "b.bin") as other:
            other.touch()
    assert sorted(os.listdir(tmp_path)) == ["b.bin", "case"]


def test_an_array_that_finds_no_place_is_told_of_as_a_full_disk(tmp_path):
    with (
        pytest.raises(ValueError, match=r"case cannot be written: it was cut short, as where a"),
        replacing_folder(tmp_path / "case"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        np.zeros(1024).tofile(full)
