"""A volume in slabs of two processes, against the projector pair of the whole; as a script this is the second one."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.projectors import backproject, project
from diffnr_lightning.projectors.slabs import Slabs, _rows_that_see
from diffnr_lightning.solvers import sirt

COUNT = 2


def worked(given):
    """What a process makes of each case: its projections, slab of the adjoint, gradients and SIRT."""
    made = {}
    for name, (grid, scan, volume, rays) in given.items():
        slabs = Slabs(grid, scan)
        slab = volume[slabs.slices].clone().requires_grad_()
        lines = slabs.project(slab)
        (lines * rays).sum().backward()
        shared = rays.clone().requires_grad_()
        spread = slabs.backproject(shared)
        (spread * volume[slabs.slices]).sum().backward()
        steps = {"iterations": 3, "slabs": slabs}
        made[name] = {
            "lines": lines.detach(),
            "gradient of lines": slab.grad,
            "adjoint": spread.detach(),
            "gradient of adjoint": shared.grad,
            "sirt": sirt(rays, grid, scan, **steps),
            "weighted sirt": sirt(rays, grid, scan, weights=0.1 + rays, **steps),
            "gathered": slabs.gathered(volume[slabs.slices]),
        }
    return made


def run(rank, folder, script):
    """Work in a group of two, and run a script of the documentation in another."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(COUNT), MASTER_ADDR="127.0.0.1")
    distributed.init_process_group("gloo")
    made = worked(torch.load(folder / "given.pt", weights_only=False))
    with pytest.raises(ValueError, match="2 processes and the grid 1 slices"):
        _, scan, *_ = next(iter(torch.load(folder / "given.pt", weights_only=False).values()))
        Slabs(VolumeGrid((1, 4, 4), 1.0), scan)
    distributed.destroy_process_group()
    sys.argv = ["slabs.py", str(folder / "case"), str(folder / "volume.nii.gz")]
    exec(script, {"__name__": "__main__"})
    return made


@pytest.fixture(scope="module")
def both(all_cases, repository, tmp_path_factory):
    """Cases of an odd number of slices, what both processes made of them, and the folder of the script."""
    from diffnr_lightning.workflows import simulate
    from diffnr_lightning.workflows.command_line.settings import configured

    folder = tmp_path_factory.mktemp("slabs")
    given = {}
    for number, (name, (grid, scan, _)) in enumerate(all_cases.items()):
        grid = grid.crop((0, 0, 0), (grid.shape[0] - 1, *grid.shape[1:]))
        draw = torch.Generator().manual_seed(number)
        volume = torch.rand(grid.shape, generator=draw)
        rays = torch.rand(len(scan), *scan.detector_shape, generator=draw)
        given[name] = (grid, scan, volume, rays)
    torch.save(given, folder / "given.pt")
    small = {"volume": "phantom:1", "num_views": 4, "size": 17, "out": folder / "case"}
    simulate(**configured(simulate, [], small).arguments)
    page = (repository / "docs/gpu.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(.*?# slabs.py.*?)```", page, re.DOTALL)[1]
    (folder / "slabs.py").write_text(script)
    with socket.socket() as free, pytest.MonkeyPatch.context() as patched:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
            patched.setenv(name, "")
        patched.setenv("MASTER_PORT", port)
        patched.setattr(sys, "argv", [])
        second = subprocess.Popen([sys.executable, __file__, str(folder)])
        try:
            first = run(0, folder, script)
            assert second.wait(60) == 0
        finally:
            second.kill()
            if distributed.is_initialized():
                distributed.destroy_process_group()
    return given, [first, torch.load(folder / "second.pt", weights_only=False)], folder


def assert_same(ours, whole, tolerance=2e-5):
    assert ours.shape == whole.shape
    assert (ours - whole).abs().max() <= tolerance * whole.abs().max()


def test_the_pair_and_its_gradients_are_those_of_the_whole(both):
    given, made, _ = both
    assert len(given) > 10
    for name, (grid, scan, volume, rays) in given.items():
        lines, adjoint = project(volume, grid, scan), backproject(rays, grid, scan)
        slabs = [process[name] for process in made]
        assert len(slabs[0]["adjoint"]) != len(slabs[1]["adjoint"])  # odd
        for process in slabs:
            assert_same(process["lines"], lines)
            # The gradient of <A x, y> is A^T y, and that of <A^T y, x> is A x.
            assert_same(process["gradient of adjoint"], lines)
        assert torch.equal(slabs[0]["lines"], slabs[1]["lines"])
        for what in ("adjoint", "gradient of lines"):
            assert_same(torch.cat([process[what] for process in slabs]), adjoint)
        assert torch.equal(slabs[0]["gathered"], volume)
        assert slabs[1]["gathered"] is None


def test_slabs_are_exactly_adjoint(both):
    given, made, _ = both
    for name, (_, _, volume, rays) in given.items():
        forth = (made[0][name]["lines"].double() * rays).sum()
        adjoint = torch.cat([process[name]["adjoint"] for process in made])
        assert (adjoint.double() * volume).sum() == pytest.approx(float(forth), rel=2e-6)


def test_sirt_of_slabs_is_that_of_the_whole(both):
    given, made, _ = both
    for name, (grid, scan, _, rays) in given.items():
        for what, weights in (("sirt", None), ("weighted sirt", 0.1 + rays)):
            whole = sirt(rays, grid, scan, iterations=3, weights=weights)
            assert_same(torch.cat([process[name][what] for process in made]), whole, 2e-4)


def test_the_script_of_the_documentation_makes_the_volume(both):
    from diffnr_lightning.data import load_case, load_volume

    *_, folder = both
    case = load_case(folder / "case")
    whole = sirt(case.projections, case.grid, case.scan, iterations=50)
    low, high = case.window_hu
    found = torch.tensor(load_volume(folder / "volume.nii.gz").array)
    assert_same((found - low) / (high - low), whole, 1e-3)


def test_a_slab_is_projected_onto_the_rows_that_see_it(circle):
    grid, scan = circle
    rows = [
        _rows_that_see(scan, grid.crop((start, 0, 0), (5, *grid.shape[1:]))) for start in (0, 15)
    ]
    assert all(part.stop - part.start < 0.7 * scan.detector_shape[0] for part in rows)
    assert rows[0].stop == scan.detector_shape[0]  # row 0 is the top
    assert rows[1].start == 0


if __name__ == "__main__":
    place = Path(sys.argv[1])
    torch.save(run(1, place, (place / "slabs.py").read_text()), place / "second.pt")
