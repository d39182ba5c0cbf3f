"""What samplers and their denoisers are predicted to hold, against measured peaks on the CPU."""

from functools import partial

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from peak_memory import peak, scan_of

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.priors import CompactDenoiser, PatchDenoiser, load_denoiser, save_denoiser
from diffnr_lightning.priors.denoisers import denoiser_folders
from diffnr_lightning.solvers import diffusion
from diffnr_lightning.workflows import Sampler, Solver
from diffnr_lightning.workflows.machine import memory, sampler_memory
from diffnr_lightning.workflows.machine.memory_refusal import what_fits


@pytest.mark.parametrize(
    ("made", "images"),
    [
        (lambda: CompactDenoiser(widths=(32, 64)), (2, 64, 64)),
        (lambda: CompactDenoiser(1, (16, 32, 64), 2, 1, 0, coordinates=True), (3, 50, 70)),
        (lambda: PatchDenoiser(16, (32, 64)), (4, 16, 16, 16)),
    ],
    ids=["compact", "unfolded", "patches"],
)
def test_denoisers_take_what_is_predicted_of_images(made, images):
    denoiser = made().eval().requires_grad_(False)
    noisy = torch.rand(images[0], denoiser.channels, *images[1:])
    found = peak(lambda: denoiser.predict(noisy, 5))
    assert 0.9 < denoiser.predict_bytes(*images) / found < 1.15


@pytest.mark.parametrize("name", sampler_memory.SAMPLERS)
def test_samplers_hold_what_is_predicted(name):
    denoiser = GaussianDenoiser(0.0, 1.0, channels=3, gaps=4)
    denoiser.dimensions, denoiser.patch = (3, 8) if name == "patches" else (2, None)
    volumes, sets, _ = sampler_memory.SAMPLERS[name]
    for size, views in ((24, 4), (24, 20)):
        grid, scan = VolumeGrid((size,) * 3, 1.0), scan_of(size, views)
        projections = torch.rand(views, size, size)
        sample = partial(getattr(diffusion, name), projections, grid, scan, denoiser, steps=2)
        found = peak(lambda sample=sample: sample(batch_size=4))
        assert 0.75 < 4 * (volumes * size**3 + sets * views * size**2) / found < 1.3


def test_adaptation_takes_what_is_predicted_of_its_slices():
    denoiser = CompactDenoiser(1, (16, 32), 1, 1, 0).eval().requires_grad_(False)
    grid, scan = VolumeGrid((8, 32, 32), 1.0), scan_of(32, 2)
    projections = torch.rand(2, 32, 32)
    options = {"steps": 1, "updates": 1, "slices": 8, "initial": torch.rand(grid.shape)}
    found = peak(lambda: diffusion.scd(projections, grid, scan, denoiser, **options))
    adapted = sampler_memory.TRAINED * denoiser.predict_bytes(8, 32, 32)
    assert 0.8 < adapted / found < 1.3


def test_a_sampler_is_predicted_with_its_denoiser(tmp_path, monkeypatch):
    save_denoiser(tmp_path / "slices", CompactDenoiser(widths=(8, 16)))
    monkeypatch.setattr(denoiser_folders, "BUNDLED", tmp_path)
    grid, scan = VolumeGrid((64,) * 3, 1.0), scan_of(64, 8)
    method = Sampler("blend", None, {"batch_size": 4096}, Solver("sirt"))
    needed = memory.estimate(method, grid, scan)
    parts = {part.name: part.bytes for part in needed.parts}
    assert needed.iterations == 200
    assert parts["denoiser"] == 4 * sum(p.numel() for p in load_denoiser("slices").parameters())
    assert parts["start: sirt"] == memory.solver_bytes("sirt", 64**3, 8 * 64**2)
    small = memory.estimate(method, grid, scan, changed={"batch_size": 4})
    assert small.peak < needed.peak
    assert "options.batch_size = 4" in what_fits(method, grid, scan, small.peak)
    whole = memory.estimate(Sampler("dinr", "slices"), grid, scan)
    assert whole.parts[-1] == ("representation asked for all voxels", whole.parts[-1].bytes, False)
    once, twice = (memory.estimate(Sampler(n), grid, scan) for n in ("dds", "diffusion_mbir"))
    assert needed.operations < once.operations < twice.operations < 2 * once.operations
    ended = memory.estimate(Sampler("dds", finish="settle"), grid, scan)
    assert ended.parts == (
        *once.parts,
        ("settling", memory.settling_bytes(64**3, 8 * 64**2), False),
    )


def test_the_work_of_a_denoiser_does_not_depend_on_how_many_gaps_it_knows(tmp_path):
    grid, scan = VolumeGrid((16,) * 3, 1.0), scan_of(16, 2)
    work = set()
    for gaps in (0, 1, 2):
        folder = tmp_path / str(gaps)
        save_denoiser(folder, CompactDenoiser(channels=1, widths=(8, 16), gaps=gaps))
        work.add(memory.estimate(Sampler("dds", folder), grid, scan).operations)
    assert len(work) == 1


def test_stacks_around_every_slice_are_three_times_the_work_of_stacks_side_by_side(tmp_path):
    grid, scan = VolumeGrid((12, 16, 16), 1.0), scan_of(16, 2)
    save_denoiser(tmp_path, CompactDenoiser(widths=(8, 16), alone=False))

    def work(name, **options):
        return memory.estimate(Sampler(name, tmp_path, options), grid, scan).operations

    assert work("blend", jumping=False) == work("dds", stacks="centred")
    assert work("blend") == work("dds", stacks="alternating") == work("dds")
    assert work("blend", jumping=False) > work("blend")


def test_slices_of_both_planes_are_predicted_to_fit():
    denoiser, tall = CompactDenoiser(widths=(8, 16)), VolumeGrid((64, 16, 32), 1.0)
    axial, both = (
        sampler_memory.sampling_bytes(name, denoiser, tall, 100, 4).asked
        for name in ("dds", "tpdm")
    )
    assert both - axial == denoiser.predict_bytes(4, 64, 32) - denoiser.predict_bytes(4, 16, 32)
