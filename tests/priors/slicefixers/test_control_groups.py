"""A job may take what its control groups leave it, whatever the machine has."""

from pathlib import Path

import pytest
import torch

from diffnr_lightning.priors.slicefixers import memory
from diffnr_lightning.priors.slicefixers.control_groups import bytes_below_limit

NEW = ("memory.max", "memory.current", "inactive_file")
OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def limit(group: Path, names: tuple[str, str, str], most: str, used: int, cached: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / names[0]).write_text(f"{most}\n")
    (group / names[1]).write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


def member_of(folder: Path, text: str) -> Path:
    file = folder / "membership"
    file.write_text(text)
    return file


def test_the_nearest_limit_of_a_group_and_those_that_hold_it(tmp_path):
    limit(tmp_path / "slurm", NEW, "1000", used=700, cached=50)
    limit(tmp_path / "slurm" / "job_7", NEW, "max", used=400, cached=0)
    limit(tmp_path / "other", NEW, "10", used=10, cached=0)
    membership = member_of(tmp_path, "0::/slurm/job_7\n")
    assert bytes_below_limit(membership, tmp_path) == 350
    limit(tmp_path / "slurm" / "job_7", NEW, "500", used=400, cached=30)
    assert bytes_below_limit(membership, tmp_path) == 130


def test_groups_of_the_first_version(tmp_path):
    limit(tmp_path / "memory" / "slurm", OLD, "1000", used=1200, cached=50)
    membership = member_of(tmp_path, "4:cpuset:/other\n3:cpu,memory:/slurm\n")
    assert bytes_below_limit(membership, tmp_path) == 0


@pytest.mark.parametrize("text", ["0::/\n", "5:cpuset:/a\n", ""])
def test_nothing_is_known_without_a_limit(tmp_path, text):
    assert bytes_below_limit(member_of(tmp_path, text), tmp_path) is None
    assert bytes_below_limit(tmp_path / "none", tmp_path) is None


def test_what_is_free_is_the_less_of_machine_and_job(monkeypatch):
    cpu = torch.device("cpu")
    whole = memory.free_bytes(cpu)
    monkeypatch.setattr(memory, "bytes_below_limit", lambda: 1000)
    assert memory.free_bytes(cpu) == 1000
    monkeypatch.setattr(memory, "bytes_below_limit", lambda: None)
    assert memory.free_bytes(cpu) == pytest.approx(whole, rel=0.5)
