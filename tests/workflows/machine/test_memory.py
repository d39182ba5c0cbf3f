"""What a run is predicted to need: formulas against measured peaks on the CPU."""

import inspect
from pathlib import Path

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from peak_memory import peak, scan_of

from diffnr_lightning import solvers
from diffnr_lightning.callbacks import RepairedProjections, SampledReference
from diffnr_lightning.consistency import agree, visible_part
from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.losses import ssim_2d, ssim_3d, tv_3d
from diffnr_lightning.priors import (
    CompactDenoiser,
    DdsRepairer,
    ProjectionRepairer,
    Repairer,
    biplanar_conditioning,
    dds_repairer,
    load_default,
)
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import (
    GaussianCloud,
    LineTransformer,
    NeuralField,
    Siren,
    VoxelGrid,
)
from diffnr_lightning.workflows import Postprocessing, Problem, Scene, Solver, doctor
from diffnr_lightning.workflows.machine import estimate, memory
from diffnr_lightning.workflows.methods.settling import settled

CUDA = torch.device("cuda")


@pytest.mark.parametrize(("size", "views"), [(32, 8), (40, 20)])
@pytest.mark.parametrize(
    "name", ["analytic", "sirt", "sart", "weighted_tv", "cgls", "fista_tv", "sbtv", "mbir"]
)
def test_solvers_hold_what_is_predicted(name, size, views):
    grid, scan = VolumeGrid((size,) * 3, 1.0), scan_of(size, views)
    projections = torch.rand(views, size, size)
    options = {} if name == "analytic" else {"iterations": 2}
    found = peak(lambda: getattr(solvers, name)(projections, grid, scan, **options))
    predicted = memory.solver_bytes(name, size**3, views * size**2)
    assert 0.7 < predicted / found < 1.4


def test_repairs_that_are_no_slicefixer_s_count(monkeypatch):
    """A network behind a solver, and DDS in the place of the SliceFixer, whose steps are measured."""
    grid, scan = VolumeGrid((32,) * 3, 1.0), scan_of(32, 8)
    behind = Postprocessing(repairer=Repairer(Path("fbp_unet")))
    needed = memory.estimate(behind, grid, scan)
    assert needed.peak > memory.estimate(Solver("analytic"), grid, scan).peak
    assert "repair: slices at once" in {part.name for part in needed.parts}
    monkeypatch.setattr(dds_repairer, "load_denoiser", lambda _: GaussianDenoiser(0.5, 0.04))
    reference = SampledReference(DdsRepairer(steps=2, batch_size=4))
    needed = memory.estimate(Scene(VoxelGrid, pseudo_reference=reference), grid, scan)
    [predicted] = [part.bytes for part in needed.parts if part.name == "repair: steps of DDS"]
    projections, volume = torch.rand(8, 32, 32), torch.rand(grid.shape)
    found = peak(lambda: reference.repairer.repair(volume, projections, grid, scan))
    assert 0.7 < predicted / found < 1.4


def test_a_repair_by_dds_counts_the_slices_that_its_denoiser_sees(monkeypatch):
    denoiser = CompactDenoiser(channels=1, widths=(64, 64), gaps=0)
    monkeypatch.setattr(dds_repairer, "load_denoiser", lambda _: denoiser)
    grid, scan = VolumeGrid((32,) * 3, 1.0), scan_of(32, 2)

    def steps_of(batch_size):
        reference = SampledReference(DdsRepairer(steps=2, batch_size=batch_size))
        parts = memory.estimate(Scene(VoxelGrid, pseudo_reference=reference), grid, scan).parts
        return next(part.bytes for part in parts if part.name == "repair: steps of DDS")

    more = denoiser.predict_bytes(32, 32, 32) - denoiser.predict_bytes(16, 32, 32)
    assert steps_of(32) - steps_of(16) == more > 0


def test_repaired_projections_are_counted():
    grid, scan = VolumeGrid((16,) * 3, 1.0), scan_of(64, 8)
    views = RepairedProjections(ProjectionRepairer(batch_size=4), at=(3, 6))
    with_views = memory.estimate(Scene(VoxelGrid, repaired_projections=views), grid, scan)
    [kept] = [p for p in with_views.parts if p.name == "views between the measured ones"]
    assert kept.bytes == 2 * 4 * 8 * 64 * 64
    assert with_views.peak > memory.estimate(Scene(VoxelGrid), grid, scan).peak + kept.bytes


@pytest.mark.parametrize("moment", ["slices at once", "steps of DDS", "projections at once"])
def test_networks_of_repairs_count_while_they_are_asked(monkeypatch, moment):
    """They are lent to the device: what is found of a volume when a run ends has their memory."""
    denoiser = CompactDenoiser(channels=1, widths=(8, 8), gaps=0)
    monkeypatch.setattr(dds_repairer, "load_denoiser", lambda _: denoiser)
    given = VolumeGrid((32,) * 3, 1.0), scan_of(32, 2)
    asked = {
        "slices at once": Repairer(),
        "steps of DDS": DdsRepairer(steps=2),
        "projections at once": ProjectionRepairer(),
    }[moment]
    network = denoiser if moment == "steps of DDS" else asked.prior
    taking = {"pseudo_reference": SampledReference(asked)}
    if moment == "projections at once":
        taking = {"repaired_projections": RepairedProjections(asked, at=(3,))}

    def parts():
        return {p.name: p.bytes for p in memory.estimate(Scene(VoxelGrid, **taking), *given).parts}

    before = parts()
    network.more = torch.nn.Parameter(torch.empty(1000))
    changed = {
        name: bytes - before[name] for name, bytes in parts().items() if bytes != before[name]
    }
    assert changed == {f"repair: {moment}": 4000}


def test_what_estimates_the_surroundings_is_part_of_the_peak():
    """Of SIRT it decides the peak, of weighted TV itself it changes nothing."""
    given = VolumeGrid((32,) * 3, 1.0), scan_of(32, 8)
    sirt, tv = (Solver(name) for name in ("sirt", "weighted_tv"))
    needed = memory.estimate(sirt, *given, surrounded=True)
    assert memory.estimate(sirt, *given).peak < needed.peak == memory.estimate(tv, *given).peak
    assert memory.estimate(tv, *given, surrounded=True).peak == needed.peak


@pytest.mark.parametrize(
    ("name", "options", "passes"),
    [
        ("analytic", {}, 1),
        ("fdk", {}, 1),
        ("fbp", {}, 1),
        ("initial_volume", {}, 1),
        ("sirt", {}, 100),
        ("sirt", {"iterations": 7}, 7),
        ("mbir", {}, 100),
        ("weighted_tv", {}, 30),
    ],
)
def test_a_solver_passes_as_often_as_its_options_or_its_defaults_say(name, options, passes):
    given = VolumeGrid((16,) * 3, 1.0), scan_of(16, 4)
    assert memory.estimate(Solver(name, options), *given).iterations == passes
    assert memory.estimate(Postprocessing(Solver(name, options)), *given).iterations == passes


@pytest.mark.parametrize("size", [24, 32])
@pytest.mark.parametrize(
    ("loss", "predicted"),
    [
        (ssim_2d, memory.ssim_2d_bytes),
        (ssim_3d, memory.ssim_3d_bytes),
        (tv_3d, memory.variation_bytes),
    ],
)
def test_losses_hold_no_more_than_is_predicted(loss, predicted, size):
    volume = torch.rand(size, size, size, requires_grad=True)
    others = [] if loss is tv_3d else [torch.rand(size, size, size)]

    def work():
        volume.grad = None
        loss(volume, *others).sum().backward()

    # The slopes of a slab of slices are the GPU's alone.
    assert 0.95 < predicted(size**3) / peak(work) < 2.6


@pytest.mark.parametrize(
    "made",
    [
        lambda grid: NeuralField(grid, table=8),
        lambda grid: Siren(grid, width=48),
        lambda grid: LineTransformer(grid, table=8, levels=8),
    ],
)
def test_fields_keep_what_is_predicted_of_a_point(made):
    field = made(VolumeGrid((16, 16, 16), 1.0))
    found = []
    for rays in (32, 128):
        points = 2 * torch.rand(rays, 32, 3) - 1

        def work(points=points):
            field.zero_grad()
            field.field(points).sum().backward()

        found.append(peak(work))
    measured = (found[1] - found[0]) / (96 * 32)
    assert 0.9 < memory.point_bytes(field) / measured < 1.4


@pytest.mark.parametrize("count", [1000, 3000])
def test_gaussians_hold_no_more_than_is_predicted(count):
    grid, scan = VolumeGrid((24, 24, 24), 1.0), scan_of(24, 1)
    cloud = GaussianCloud(grid, num_gaussians=count)
    cloud.place(
        24 * (torch.rand(count, 3) - 0.5), 0.5 + torch.rand(count, 3), torch.rand(count) + 0.1
    )

    def work():
        cloud.zero_grad()
        rendered, (volume,) = cloud.evaluate(scan, [grid])
        (rendered.square().mean() + volume.square().mean()).backward()

    predicted = memory.gaussian_bytes(count, 24**2) + memory.gaussian_bytes(count, 24**3)
    # The lists of those that meet a cell are the GPU's alone.
    assert 0.95 < predicted / peak(work) < 3.5


@pytest.mark.parametrize("shape", [(4, 64, 64), (2, 90, 120)])
def test_the_shipped_prior_takes_what_is_predicted_of_slices(shape):
    prior = load_default()
    count, height, width = shape
    scan = scan_of(16, 2)
    directions = torch.tensor(scan.direction, dtype=torch.float32)
    told = biplanar_conditioning(torch.rand(2, 16, 16), directions, size=prior.biplanar_size)
    slices = torch.rand(count, 2 * prior.context + 1, height, width)
    noise = torch.rand(count, 1, height, width)
    told = told.for_slices("axial", torch.zeros(count), torch.rand_like(slices), noise)
    found = peak(lambda: prior.repair(slices, told))
    assert 0.95 < prior.repair_bytes(count, height, width) / found < 1.1


@pytest.mark.parametrize("size", [24, 32])
def test_agreement_holds_what_is_predicted(size):
    grid, scan = VolumeGrid((size,) * 3, 1.0), scan_of(size, 8)
    volume, projections = torch.rand(size, size, size), torch.rand(8, size, size)
    # Counts that no volume explains, so that every direction is gone along.
    weights = torch.full_like(projections, 1e6)

    def work():
        return agree(volume, projections, grid, scan, weights=weights, directions=6)

    assert work().directions == 6
    assert 0.8 < memory.agreement_bytes(6, size**3, 8 * size**2) / peak(work) < 1.25
    assert inspect.signature(agree).parameters["directions"].default == memory.DIRECTIONS


@pytest.mark.parametrize("size", [24, 32])
def test_what_is_seen_of_a_change_takes_what_is_predicted(size):
    grid, scan = VolumeGrid((size,) * 3, 1.0), scan_of(size, 8)
    change, weights = torch.randn(size, size, size), torch.rand(8, size, size)
    given = {"weights": weights, "tolerance": 0.0, "directions": 6}
    found = peak(lambda: visible_part(change, grid, scan, **given))
    assert 0.85 < estimate.visible_bytes(size**3, 8 * size**2, 6) / found < 1.2
    known = [
        inspect.signature(f).parameters["directions"]
        for f in (visible_part, estimate.visible_bytes)
    ]
    assert known[0].default == known[1].default


@pytest.mark.parametrize("consistency", ["none", "null_space"])
def test_what_is_said_of_a_prior_s_part_is_counted(consistency):
    """It is found when the run is done, whatever held its repairs to the projections."""
    grid, scan = VolumeGrid((32,) * 3, 1.0), scan_of(32, 8)
    behind = Postprocessing(repairer=Repairer(Path("fbp_unet"), consistency=consistency))
    parts = {part.name: part.bytes for part in memory.estimate(behind, grid, scan).parts}
    visible = estimate.visible_bytes(32**3, 8 * 32**2)
    assert parts["evidence: what the prior changed"] > visible
    assert (parts["repair: held to the projections"] > visible) == (consistency == "null_space")
    evidence = {part.name for part in memory.estimate(Solver("sirt"), grid, scan).parts}
    assert "evidence: what the prior changed" not in evidence


def test_settling_holds_what_is_predicted():
    grid, scan = VolumeGrid((32,) * 3, 1.0), scan_of(32, 8)
    measured = project(torch.ones(grid.shape), grid, scan)
    problem = Problem(measured, scan, grid, 0, weights=torch.full_like(measured, 100.0))
    volume = torch.rand(32, 32, 32)
    assert settled(volume, problem).share > 0
    found = peak(lambda: settled(volume, problem))
    assert 0.7 < memory.settling_bytes(32**3, 8 * 32**2) / found < 1.4


def test_doctor_shows_what_a_method_needs(capsys):
    doctor(Solver("sirt"), size=64)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("64^3 voxels", "solver sirt", "peak", "H100", "not measured"):
        assert words in shown
    with pytest.raises(ValueError, match="size and num_views are 0 and 36"):
        doctor(Solver("sirt"), size=0)
