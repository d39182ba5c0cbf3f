"""Runs that a device has no room for are refused, and what would fit is named."""

from pathlib import Path

import pytest
import torch
from peak_memory import scan_of

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.priors import Repairer
from diffnr_lightning.workflows import Postprocessing, Scene, Solver, doctor, reconstruct, simulate
from diffnr_lightning.workflows.command_line.config_files import config_files
from diffnr_lightning.workflows.command_line.settings import configured
from diffnr_lightning.workflows.machine import memory, memory_refusal
from diffnr_lightning.workflows.machine.memory_refusal import refuse_what_cannot_fit, what_fits

CUDA = torch.device("cuda")


def test_what_cannot_fit_is_refused_with_what_would(monkeypatch):
    grid, scan = VolumeGrid((256,) * 3, 1.0), scan_of(256, 36)
    method = Solver("weighted_tv")
    monkeypatch.setattr(memory_refusal, "free_bytes", lambda device: 2**30)
    with pytest.raises(
        ValueError, match=r"needs about .* GiB .* a case of (\d+) voxels"
    ) as refused:
        refuse_what_cannot_fit(method, grid, scan, CUDA)
    edge = int(str(refused.value).split("a case of ")[1].split()[0])
    assert memory.estimate(method, VolumeGrid((edge,) * 3, 1.0), scan).peak <= 2**30
    refuse_what_cannot_fit(method, grid, scan, torch.device("cpu"))
    monkeypatch.setattr(memory_refusal, "free_bytes", lambda device: 2**33)
    refuse_what_cannot_fit(method, grid, scan, CUDA)


def test_nothing_is_written_of_a_run_that_cannot_fit(monkeypatch, tmp_path):
    size = {"volume": "phantom:1", "num_views": 4, "size": 16, "out": tmp_path / "case"}
    simulate(**configured(simulate, [], size).arguments)
    monkeypatch.setattr(memory_refusal, "free_bytes", lambda device: 2**20)
    monkeypatch.setattr("diffnr_lightning.workflows.reconstruction.use_device", lambda name: CUDA)
    with pytest.raises(ValueError, match="expected a device with more memory"):
        reconstruct(tmp_path / "case", tmp_path / "run", Solver("sirt"), device="cuda")
    assert not (tmp_path / "run").exists()


def test_the_mildest_setting_that_fits_is_named(monkeypatch):
    grid, scan = VolumeGrid((128,) * 3, 1.0), scan_of(128, 24)
    files = config_files("reconstruct/r2gaussian_paper.yaml") + config_files("diffnr/paper.yaml")
    method = configured(doctor, files, {}).arguments["method"]
    assert isinstance(method, Scene)
    whole = memory.estimate(method, grid, scan).peak
    part = memory.estimate(method, grid, scan, changed={"reference_size": 96}).peak
    assert part < whole
    assert "reference_size = 96" in what_fits(method, grid, scan, part)
    assert "more memory" in what_fits(method, grid, scan, 0)
    # A prior of the size of the paper's.
    monkeypatch.setattr(memory, "slices_bytes", lambda prior, shape, planes, most: most * 2**30)
    part = memory.estimate(method, grid, scan, changed={"batch_size": 4}).peak
    assert part < memory.estimate(method, grid, scan).peak - 12 * 2**30
    assert "repairer.batch_size = 4" in what_fits(method, grid, scan, part)
    behind = Postprocessing(repairer=Repairer(Path("fbp_unet")))
    part = memory.estimate(behind, grid, scan, changed={"batch_size": 1}).peak
    assert part < memory.estimate(behind, grid, scan).peak - 12 * 2**30
    assert "fit with repairer.batch_size = 1" in what_fits(behind, grid, scan, part)
