"""The method that samples with a denoiser from a folder."""

import json
import logging
import os
import shutil

import pytest
import torch

from diffnr_lightning import cli
from diffnr_lightning.consistency import noise_of_mean_weight
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.priors import (
    CompactDenoiser,
    PatchDenoiser,
    UNetDenoiser,
    load_denoiser,
    save_denoiser,
)
from diffnr_lightning.priors.denoisers import denoiser_folders
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.diffusion.slice_stacks import stacks_of_step
from diffnr_lightning.workflows import Problem, Sampler, Solver
from diffnr_lightning.workflows.methods import sampler
from diffnr_lightning.workflows.methods.settling import PATIENTLY, settled
from diffnr_lightning.workflows.runs import sampler_record
from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.runs.sampler_record import SamplerRecord

GRID = VolumeGrid((9, 8, 8), 1.0)
SCAN = ScanGeometry.parallel(
    angles_rad=uniform_angles(3, 180), detector_shape=(9, 12), pixel_mm=1.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A denoiser that was not trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("denoiser") / "tiny"
    save_denoiser(path, CompactDenoiser(channels=3, widths=(8, 16), gaps=4))
    return path


@pytest.fixture(scope="module")
def patch_folder(tmp_path_factory):
    """One of patches that was not trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("denoiser") / "patches"
    save_denoiser(path, PatchDenoiser(4, (8, 16), embedding=16))
    return path


@pytest.fixture(scope="module")
def problem() -> Problem:
    truth = torch.zeros(GRID.shape)
    truth[2:7, 2:6, 2:6] = 0.7
    return Problem(project(truth, GRID, SCAN), SCAN, GRID, seed=2)


@pytest.mark.parametrize("name", ["dds", "blend", "diffusion_mbir", "patches", "tpdm"])
def test_a_denoiser_of_a_folder_samples(name, folder, patch_folder, problem):
    folder, calls = patch_folder if name == "patches" else folder, []
    watched = problem._replace(progress=lambda *call: calls.append(call[:2]))
    method = Sampler(name, folder, {"steps": 2})
    volume = method.reconstruct(watched)
    assert calls[-1] == (len(calls),) * 2
    assert volume.shape == GRID.shape
    assert torch.isfinite(volume).all()
    assert float(volume.min()) >= 0.0
    assert torch.equal(method.reconstruct(problem), volume)
    assert not torch.equal(method.reconstruct(problem._replace(seed=3)), volume)
    weighted = problem._replace(weights=torch.exp(-problem.projections))
    assert not torch.equal(method.reconstruct(weighted), volume)


@pytest.mark.parametrize("stacks", ["adjacent", "centred"])
def test_evaluations_count_slices_as_often_as_they_are_seen(folder, problem, stacks):
    denoiser, slices = load_denoiser(folder), GRID.shape[0]
    seen = [stacks_of_step(stacks, denoiser, slices, problem.seed, k).members for k in range(2)]
    state = {}
    Sampler("dds", folder, {"steps": 2, "stacks": stacks}).reconstruct(
        problem._replace(state=state)
    )
    assert state["evaluations"] == pytest.approx(sum(m.numel() for m in seen) / slices)


def test_evaluations_of_a_run_that_was_begun_without_counting_stay_unknown(folder, problem):
    state = {}
    method = Sampler("dds", folder, {"steps": 3})

    def stop(done, *_):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.reconstruct(problem._replace(state=state, progress=stop))
    del state["evaluations"]
    method.reconstruct(problem._replace(state=state))
    assert state["done"] == 3 and "evaluations" not in state


@pytest.mark.parametrize("name", ["dds", "blend"])
def test_the_counted_noise_is_told(name, folder, problem, caplog):
    weights = torch.linspace(0.0, 8.0, problem.projections.numel()).reshape(
        problem.projections.shape
    )
    known = problem._replace(weights=weights)
    told = Sampler(name, folder, {"steps": 2}, counted_noise=True).reconstruct(known)
    noise = 1 / float(weights.double().sqrt().mean())  # power is a half
    same = Sampler(name, folder, {"steps": 2, "noise": noise}).reconstruct(known)
    other = Sampler(name, folder, {"steps": 2}).reconstruct(known)
    assert torch.equal(told, same)
    assert not torch.equal(told, other)
    # Where no noise is known, none is told.
    with caplog.at_level(logging.WARNING, "diffnr"):
        unknown = Sampler("dds", folder, {"steps": 2}, counted_noise=True).reconstruct(problem)
    assert "the noise of the rays is not known" in caplog.text
    assert torch.equal(unknown, Sampler("dds", folder, {"steps": 2}).reconstruct(problem))
    with pytest.raises(ValueError, match="has options.noise as well"):
        Sampler("dds", folder, {"noise": 0.1}, counted_noise=True)
    with pytest.raises(ValueError, match="has no option noise"):
        Sampler("scd", folder, counted_noise=True)


def test_a_sample_settles_where_noise_is_known(folder, problem, caplog):
    options = {"steps": 2}
    sample = Sampler("dds", folder, options).reconstruct(problem)
    method = Sampler("dds", folder, options, finish="settle")
    with caplog.at_level(logging.WARNING, "diffnr"):
        assert torch.equal(method.reconstruct(problem), sample)
    assert "the noise of the rays is not known" in caplog.text
    assert "settled" not in method.findings
    known = problem._replace(weights=torch.full_like(problem.projections, 50.0))
    sample = Sampler("dds", folder, options).reconstruct(known)
    ended = method.reconstruct(known)
    assert torch.equal(ended, settled(sample, known, (PATIENTLY,)).volume)
    found = method.findings["settled"]
    assert found["after"] < 0.9 * found["before"]
    with pytest.raises(ValueError, match="finish is 'query'; one of sample, settle is expected"):
        Sampler("dds", folder, finish="query")


@pytest.mark.parametrize("name", ["dds", "blend", "patches", "tpdm"])
def test_a_noise_that_another_machine_rounds_otherwise_is_the_one_of_before(
    name, folder, patch_folder, problem, monkeypatch
):
    """A mean over all rays has other last bits elsewhere; the run goes on with those that it began with."""
    known = problem._replace(weights=1.0 + problem.projections)
    folder = patch_folder if name == "patches" else folder
    method, state = Sampler(name, folder, {"steps": 3}, counted_noise=True), {}
    whole = method.reconstruct(known)

    def kill(*_):
        raise KeyboardInterrupt

    def elsewhere(factor):
        noise = factor * noise_of_mean_weight(known.weights)
        monkeypatch.setattr(sampler, "noise_of_mean_weight", lambda *_: noise)

    with pytest.raises(KeyboardInterrupt):
        method.reconstruct(known._replace(state=state, progress=kill))
    elsewhere(1.001)
    with pytest.raises(ValueError, match="state is that of a sampler with noise"):
        method.reconstruct(known._replace(state=state))
    elsewhere(1.0 + 1e-12)
    assert torch.equal(method.reconstruct(known._replace(state=state)), whole)


def test_a_solver_gives_the_start(folder, problem, caplog):
    options = {"steps": 1, "cg_iterations": 1, "start": 0.01}
    start = Solver("sirt", {"iterations": 20})
    warm = Sampler("dds", folder, options, start).reconstruct(problem)
    Sampler("dds", folder, {"steps": 1}).reconstruct(problem)
    assert "no solver is named as start" not in caplog.text
    cold = Sampler("dds", folder, options).reconstruct(problem)
    assert "options.start is 0.01 and no solver is named as start" in caplog.text
    wanted = start.reconstruct(problem)
    assert float((warm - wanted).abs().mean()) < 0.5 * float((cold - wanted).abs().mean())


LORA = {"updates": 1, "slices": 4, "rank": 1}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dds", {}),
        ("blend", {}),
        ("diffusion_mbir", {}),
        ("patches", {}),
        ("tpdm", {}),
        ("scd", LORA),
        ("ddip3d", LORA),
        ("dinr", LORA | {"first_iterations": 2, "iterations": 2}),
    ],
)
def test_a_resumed_run_does_not_solve_its_start_again(
    name, options, folder, patch_folder, problem, monkeypatch
):
    """It ends with an equal volume; what `dinr` begins with, which shapes later steps too, is in its state."""
    solve, starts, state = Solver.reconstruct, [], {}

    def counting(self, problem):
        starts.append(self.name)
        return solve(self, problem)

    def kill(_, __, text):
        if not text.startswith("first fit"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Solver, "reconstruct", counting)
    folder = patch_folder if name == "patches" else folder
    method = Sampler(name, folder, {"steps": 3} | options, Solver("sirt", {"iterations": 3}))
    whole = method.reconstruct(problem._replace(state={}))
    with pytest.raises(KeyboardInterrupt):
        method.reconstruct(problem._replace(state=state, progress=kill))
    assert len(starts) == 2
    earlier = {key: value for key, value in state.items() if key != "first"}
    assert torch.equal(method.reconstruct(problem._replace(state=state)), whole)
    assert len(starts) == 2
    # A state of an earlier version, in which `dinr` kept no such volume.
    assert torch.equal(method.reconstruct(problem._replace(state=earlier)), whole)
    assert len(starts) == (3 if name == "dinr" else 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sirt", {}, "'sirt' is no sampler; one of blend, ddip3d, "),
        ("dds", {"jumping": True}, "sampler dds has no option 'jumping'"),
        ("dds", {"seed": 1}, "sampler dds has no option 'seed'"),
        ("blend", {"stacks": "single"}, "sampler blend has no option 'stacks'"),
        ("blend", {"eta": "much"}, "option eta of sampler blend is 'much'"),
    ],
)
def test_refusals_say_what_was_expected(name, options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(name, None, options)


def test_a_sampler_takes_the_denoiser_that_it_is_meant_for(folder, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser_folders, "BUNDLED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^slices is no folder .* \(which has none\);"):
        Sampler().reconstruct(problem)
    shutil.copytree(folder, tmp_path / "slices")
    named = Sampler("dds", None, {"steps": 1})
    assert named.findings == {"denoiser": "slices"}
    given = Sampler("dds", folder, {"steps": 1})
    assert torch.equal(named.reconstruct(problem), given.reconstruct(problem))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "case"
    words = ["simulate", "--volume", "phantom:3", "--size", "16", "--num_views", "4"]
    assert cli.main([*words, "--out", str(path)]) == 0
    return path


def test_the_same_command_goes_on_where_it_was_killed(folder, case, tmp_path, monkeypatch):
    """Killed after its third step of five, of which the second was kept."""
    monkeypatch.setattr(sampler_record, "SECONDS", 0.0)
    counts = []
    predicted = UNetDenoiser.predict

    def counting(self, *arguments, **options):
        counts.append(1)
        if killing and len(counts) == killing:
            raise KeyboardInterrupt
        return predicted(self, *arguments, **options)

    monkeypatch.setattr("diffnr_lightning.priors.UNetDenoiser.predict", counting)

    def run(out):
        words = [
            "reconstruct",
            "--case",
            str(case),
            "--config",
            "dds",
            "--out",
            str(tmp_path / out),
        ]
        words += ["--method.init_args.denoiser", str(folder)]
        counts.clear()
        return cli.main([*words, "--method.init_args.options={steps: 5, cg_iterations: 2}"])

    killing = 0
    assert run("whole") == 0
    killing = 3
    assert run("killed") != 0
    assert set(os.listdir(tmp_path / "killed")) > {"checkpoint.ckpt", "preview.png"}
    kept = torch.load(tmp_path / "killed" / "checkpoint.ckpt", weights_only=True)
    assert kept["sampler"]["done"] == 2
    killing = 0
    assert run("killed") == 0
    assert len(counts) == 3
    for name in ("volume.nii.gz", "preview.png"):
        whole, resumed = ((tmp_path / out / name).read_bytes() for out in ("whole", "killed"))
        assert resumed == whole, name
    assert "checkpoint.ckpt" not in os.listdir(tmp_path / "killed")
    for out in ("whole", "killed"):
        assert json.loads((tmp_path / out / "metrics.json").read_text())["evaluations"] == 5


def test_a_run_that_is_killed_in_the_first_fit_goes_on(folder, problem, tmp_path, monkeypatch):
    """Neither its start is solved again nor what was kept of the fit is done again."""
    monkeypatch.setattr(sampler_record, "SECONDS", 0.0)
    options = {"steps": 2, "first_iterations": 4, "iterations": 1} | LORA
    method = Sampler("dinr", folder, options, Solver("sirt", {"iterations": 3}))
    whole, calls = method.reconstruct(problem), []

    def kill(done, *_):
        if done == 3:
            raise KeyboardInterrupt

    run = RunFolder(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        method.reconstruct(SamplerRecord(run, kill).watched(problem))
    monkeypatch.delattr(Solver, "reconstruct")
    record = SamplerRecord(run, lambda *call: calls.append(call[:2]))
    assert torch.equal(method.reconstruct(record.watched(problem)), whole)
    assert calls == [(4, 4), (1, 2), (2, 2)]


def test_a_checkpoint_that_a_disk_has_no_room_for_is_told_in_a_sentence(tmp_path, small_files):
    record = SamplerRecord(RunFolder(tmp_path, {}))
    record.state["estimate"] = torch.zeros(40, 40, 40)
    with small_files(), pytest.raises(ValueError, match=r"checkpoint\.ckpt cannot be written \("):
        record._keep()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    run = RunFolder(tmp_path, {})
    torch.save({"state_dict": {}}, run.checkpoint)
    with pytest.raises(ValueError, match="cannot be read"):
        SamplerRecord(run)
