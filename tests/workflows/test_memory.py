"""What a run is predicted to need: formulas against measured peaks on the CPU, refusals, and the paper's presets."""

import inspect
import re
import tracemalloc
from functools import partial

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from torch.profiler import ProfilerActivity, profile

from diffnr_lightning import solvers
from diffnr_lightning.callbacks import RepairedProjections, SampledReference
from diffnr_lightning.consistency import agree
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.losses import ssim_2d, ssim_3d, tv_3d
from diffnr_lightning.priors import (
    CompactDenoiser,
    DdsRepairer,
    PatchDenoiser,
    ProjectionRepairer,
    Repairer,
    biplanar_conditioning,
    dds_repairer,
    denoiser_folders,
    load_default,
    load_denoiser,
    save_denoiser,
)
from diffnr_lightning.priors.memory import Load
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import (
    GaussianCloud,
    LineTransformer,
    NeuralField,
    Siren,
    VoxelGrid,
)
from diffnr_lightning.solvers import diffusion
from diffnr_lightning.triton_kernels import CARDS
from diffnr_lightning.workflows import (
    Postprocessing,
    Problem,
    Sampler,
    Scene,
    Solver,
    doctor,
    estimate,
    memory,
    reconstruct,
    sampler_memory,
    simulate,
)
from diffnr_lightning.workflows.config_files import config_files
from diffnr_lightning.workflows.settings import configured
from diffnr_lightning.workflows.settling import settled

CUDA = torch.device("cuda")


def peak(work):
    """Bytes alive at the worst moment of some work: torch's, and numpy's at theirs."""
    work()  # compiles, and makes what is kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    tracemalloc.start(1)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    work()
    after = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most + after - before


def scan_of(size, views):
    return ScanGeometry.cone(
        angles_rad=uniform_angles(views),
        source_to_axis_mm=4.0 * size,
        source_to_detector_mm=6.0 * size,
        detector_shape=(size, size),
        pixel_mm=1.6,
    )


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
    behind = Postprocessing(repairer=Repairer())
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


def test_what_estimates_the_surroundings_is_part_of_the_peak():
    """Of SIRT it decides the peak, of weighted TV itself it changes nothing."""
    given = VolumeGrid((32,) * 3, 1.0), scan_of(32, 8)
    sirt, tv = (Solver(name) for name in ("sirt", "weighted_tv"))
    needed = memory.estimate(sirt, *given, surrounded=True)
    assert memory.estimate(sirt, *given).peak < needed.peak == memory.estimate(tv, *given).peak
    assert memory.estimate(tv, *given, surrounded=True).peak == needed.peak


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
    assert "options.batch_size = 4" in memory.what_fits(method, grid, scan, small.peak)
    whole = memory.estimate(Sampler("dinr", "slices"), grid, scan)
    assert whole.parts[-1] == ("representation asked for all voxels", whole.parts[-1].bytes, False)
    once, twice = (memory.estimate(Sampler(n), grid, scan) for n in ("dds", "diffusion_mbir"))
    assert needed.operations < once.operations < twice.operations < 2 * once.operations


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


def test_settling_holds_what_is_predicted():
    grid, scan = VolumeGrid((32,) * 3, 1.0), scan_of(32, 8)
    measured = project(torch.ones(grid.shape), grid, scan)
    problem = Problem(measured, scan, grid, 0, weights=torch.full_like(measured, 100.0))
    volume = torch.rand(32, 32, 32)
    assert settled(volume, problem).share > 0
    found = peak(lambda: settled(volume, problem))
    assert 0.7 < memory.settling_bytes(32**3, 8 * 32**2) / found < 1.4


def rows_of_slices(repository):
    """Yield words of docs/gpu.md for a prior and the GiB that it states at 256^2 and at 512^2."""
    page = (repository / "docs/gpu.md").read_text(encoding="utf-8")
    table = page.partition("| slices at once |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        yield what, *cells


def test_the_page_states_what_slices_take(repository):
    rows = list(rows_of_slices(repository))
    assert len(rows) == 4
    for what, *stated in rows:
        count, words = int(what.split(",")[0]), what.split("`")
        for edge, gib in zip((256, 512), stated, strict=True):
            needed = load_default().repair_bytes(count, edge, edge)
            if "compact" not in what:
                options = dict(word.split(": ") for word in words[1::2])
                tile = int(options["tile"]) if "tile" in options else None
                load = Load(count, edge**2, precision=options["precision"], tile=tile)
                needed = load.counted_bytes()
            assert f"{estimate.MARGIN * needed / 2**30:.1f}" == gib, (what, edge)


def rows_of_the_page(repository):
    """Yield configs and the GiB that docs/gpu.md states for them, at 256^3 and at 512^3."""
    base = ""
    for line in (repository / "docs/gpu.md").read_text(encoding="utf-8").splitlines():
        what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        names = re.findall("`([^`]+)`", what)
        if line.startswith("| the same with"):
            yield f"{base}+{names[0]}", *cells[:2]
        elif line.startswith("| `reconstruct"):
            base = names[-1]
            yield from ((name, *cells[:2]) for name in names)


def test_the_page_states_what_is_predicted(repository):
    rows = list(rows_of_the_page(repository))
    assert len(rows) > 12
    for names, *stated in rows:
        files = [file for name in names.split("+") for file in config_files(name)]
        given = configured(doctor, files, {}).arguments
        for size, gib in zip((256, 512), stated, strict=True):
            needed = memory.estimate(
                given["method"],
                VolumeGrid((size,) * 3, 1.0),
                scan_of(size, 36),
                weighted=given["weights"] == "auto",
            )
            assert f"{needed.peak / 2**30:.1f}" == gib, (names, size)
            # The paper's settings fit a card of 24 GB.
            assert estimate.CONTEXT < needed.peak < 24e9
            assert 0 < needed.seconds(CARDS[2]) < needed.seconds(CARDS[0])


def test_the_page_states_what_samplers_need(repository, tmp_path, monkeypatch):
    """With networks of the size of the package's, whatever they learned."""
    for name in ("slices", "ellipses"):
        save_denoiser(tmp_path / name, CompactDenoiser())
    save_denoiser(tmp_path / "patches", PatchDenoiser())
    monkeypatch.setattr(denoiser_folders, "BUNDLED", tmp_path)
    page = (repository / "docs/gpu.md").read_text(encoding="utf-8")
    table = page.partition("| sampler |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len(rows[2:]) > 4
    for name, *gib, old, new in rows[2:]:
        given = configured(doctor, config_files(name.strip("`")), {}).arguments
        for size, stated in zip((256, 512), gib, strict=True):
            needed = memory.estimate(
                given["method"], VolumeGrid((size,) * 3, 1.0), scan_of(size, 36), weighted=True
            )
            assert f"{needed.peak / 2**30:.1f}" == stated, (name, size)
            if size == 256:
                assert [old, new] == [f"{needed.seconds(c):.0f} s" for c in (CARDS[0], CARDS[2])]


def test_what_cannot_fit_is_refused_with_what_would(monkeypatch):
    grid, scan = VolumeGrid((256,) * 3, 1.0), scan_of(256, 36)
    method = Solver("weighted_tv")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**30)
    with pytest.raises(
        ValueError, match=r"needs about .* GiB .* a case of (\d+) voxels"
    ) as refused:
        memory.refuse_what_cannot_fit(method, grid, scan, CUDA)
    edge = int(str(refused.value).split("a case of ")[1].split()[0])
    assert memory.estimate(method, VolumeGrid((edge,) * 3, 1.0), scan).peak <= 2**30
    memory.refuse_what_cannot_fit(method, grid, scan, torch.device("cpu"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**33)
    memory.refuse_what_cannot_fit(method, grid, scan, CUDA)


def test_nothing_is_written_of_a_run_that_cannot_fit(monkeypatch, tmp_path):
    size = {"volume": "phantom:1", "num_views": 4, "size": 16, "out": tmp_path / "case"}
    simulate(**configured(simulate, [], size).arguments)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**20)
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
    assert "reference_size = 96" in memory.what_fits(method, grid, scan, part)
    assert "more memory" in memory.what_fits(method, grid, scan, 0)
    # A prior of the size of the paper's.
    monkeypatch.setattr(memory, "slices_bytes", lambda prior, shape, planes, most: most * 2**30)
    part = memory.estimate(method, grid, scan, changed={"batch_size": 4}).peak
    assert part < memory.estimate(method, grid, scan).peak - 12 * 2**30
    assert "repairer.batch_size = 4" in memory.what_fits(method, grid, scan, part)


def test_doctor_shows_what_a_method_needs(capsys):
    doctor(Solver("sirt"), size=64)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("64^3 voxels", "solver sirt", "peak", "H100", "not measured"):
        assert words in shown
    with pytest.raises(ValueError, match="size and num_views are 0 and 36"):
        doctor(Solver("sirt"), size=0)
