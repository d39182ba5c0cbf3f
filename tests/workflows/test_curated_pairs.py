"""What a curation makes of volumes, methods and kinds, and how scans are drawn."""

import numpy as np
import pytest
import torch
import yaml
from small_curation import curate, write_config

from diffnr_lightning import cli
from diffnr_lightning.data import (
    LoadedVolume,
    NoClearanceError,
    ScanRecipe,
    generate,
    simulate_case,
)
from diffnr_lightning.data.slice_pairs import SlicePairData, open_pairs
from diffnr_lightning.phantoms import chest
from diffnr_lightning.workflows import Solver, curation
from diffnr_lightning.workflows import curate as curate_in_python
from diffnr_lightning.workflows.curation import _drawn_case, _problem
from diffnr_lightning.workflows.pairs.early_stops import stopped_early
from diffnr_lightning.workflows.pairs.variation import Variation

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config"))


def test_a_scan_that_cannot_be_made_is_drawn_again():
    array = np.full((16, 16, 16), -1000, np.float32)
    array[7:9, 7:9, 7:9] = 1000
    # Too thin for a body, and in the way of a source near to it.
    array[7:9, 0, 0] = array[7:9, -1, -1] = -945
    loaded = LoadedVolume(array, (1.0, 1.0, 1.0), "HU", "small")
    recipe = ScanRecipe(size=8, test_views=0)
    with pytest.raises(NoClearanceError, match="the source turns at 6 mm"):
        _drawn_case(loaded, "small_0", 1, recipe, Variation(views=(4,), fits=("body",)))
    drawn = Variation(views=(4,), fits=("body", "volume"))
    edges = {
        _drawn_case(loaded, "small_0", seed, recipe, drawn)[0].grid.voxel_mm for seed in range(4)
    }
    assert edges == {(2.0, 2.0, 2.0)}


@pytest.mark.parametrize("unit", ["HU", "arbitrary"])
def test_a_box_that_shows_nothing_is_drawn_again(unit):
    array = np.full((64, 16, 16), -1000 if unit == "HU" else 0, np.float32)
    array[48:] = 100
    loaded = LoadedVolume(array, (1.0, 1.0, 1.0), unit, "half")
    recipe = ScanRecipe(size=8, test_views=0, attenuate_outside=False)
    drawn = Variation(views=(4,), zooms=(0.6, 0.6))
    for seed in range(6):
        case, _ = _drawn_case(loaded, "half_0", seed, recipe, drawn)
        assert case.volume.max() > 0.1


def test_a_file_is_scanned_at_the_voxels_wanted(config, tmp_path):
    volume = chest(3, size=24)
    np.save(tmp_path / "chest.npy", volume.array)
    options = ["--volumes", tmp_path / "chest.npy", "--runs", "1", "--voxel_mm", "10"]
    options += ["--spacing_mm", "[12, 12, 12]", "--unit", "HU", "--attenuate_outside", "false"]
    assert curate(config, tmp_path / "pairs", *options) == 0
    info = open_pairs(tmp_path / "pairs")["chest_0"].info
    assert info["voxel_mm"] == [10, 10, 10]
    assert info["scan"]["simulation"]["recipe"]["attenuate_outside"] is False
    assert info["scan"]["window"] == [-1000, 1024]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"variation": Variation(views=(5,))}, r"views = \[4\], not \[5\]"),
        ({"biplanar_size": 20}, "biplanar_size = 64, not 20"),
        ({"residual": True}, "residual = False, not True"),
        ({"methods": [Solver("sirt", {"iterations": 2})]}, "methods.0"),
    ],
)
def test_settings_that_were_given_in_python_are_recorded_too(other, words, tmp_path):
    given = {
        "volumes": ["phantom:1"],
        "out": tmp_path / "pairs",
        "methods": [Solver("analytic")],
        "recipe": ScanRecipe(size=16, test_views=0),
        "variation": Variation(views=(4,)),
    }
    curate_in_python(**given)
    with pytest.raises(ValueError, match=words):
        curate_in_python(**given | other)


@pytest.mark.parametrize("noise", ["physical", "none"])
def test_solvers_are_run_for_fractions_of_their_iterations(noise, config, tmp_path):
    """Weighted by the photons of the scan, or those of much light, and told them, where the variation says so."""
    solver = {"class_path": "diffnr_lightning.workflows.Solver"}
    solver["init_args"] = {"name": "sirt", "options": {"iterations": 6}}
    text = yaml.safe_load(config.read_text()) | {"methods": [solver], "runs": 1}
    text |= {"noises": [noise], "photons": [1e4, 1e5], "scales": [0.5, 0.5]}
    (tmp_path / "solver.yaml").write_text(yaml.safe_dump(text))
    for share in (1, 0):
        out = tmp_path / f"pairs_{share}"
        assert curate(tmp_path / "solver.yaml", out, "--weighted_share", share) == 0
        for scan in open_pairs(out).values():
            assert scan.info["representation"] == "sirt"
            assert scan.info["iterations"] == [3, 6]
            assert scan.info["psnr"][0] < scan.info["psnr"][1]
            assert scan.info["weighted"] == bool(share)
            assert (scan.noise is not None) == bool(share)
            assert 1e4 <= scan.info["scan"]["simulation"]["recipe"]["noise"]["photons"] <= 1e5


def test_fractions_of_few_iterations_are_not_run_twice():
    recipe = ScanRecipe(size=16, num_views=4, test_views=0)
    case = simulate_case(generate("phantom:3", 16), recipe)
    method = Solver("sirt", {"iterations": 2})
    problem = _problem(case, True, method.fits, "cpu")
    tensors, info = stopped_early(case, problem, method, (0.25, 0.375, 0.5, 1.0), None)
    assert (info["iterations"], info["fractions"]) == ([1, 2], [0.5, 1.0])
    assert len(tensors["degraded"]) == 2


@pytest.mark.parametrize(
    ("method", "options", "subtracted"),
    [("sirt", [], True), ("fdk", [], False), ("sirt", ["--surroundings", "ignore"], False)],
)
def test_methods_that_fit_are_given_a_truncated_scan_without_its_surroundings(
    method, options, subtracted, config, tmp_path, monkeypatch
):
    """Unless they are to be ignored, as the papers do."""
    given = []

    def stopped(case, problem, *others):
        given.append((case.projections, problem))
        return stopped_early(case, problem, *others)

    monkeypatch.setattr(curation, "stopped_early", stopped)
    named = {"name": method, "options": {"iterations": 2} if method == "sirt" else {}}
    solver = {"class_path": "diffnr_lightning.workflows.Solver", "init_args": named}
    few = {"volumes": ["phantom:3"], "runs": 1, "methods": [solver], "voxel_mm": 14.0}
    settings = yaml.safe_load(config.read_text()) | few | {"residual": False, "fit": "volume"}
    (tmp_path / "solver.yaml").write_text(yaml.safe_dump(settings))
    assert curate(tmp_path / "solver.yaml", tmp_path / "pairs", *options) == 0
    ((measured, problem),) = given
    assert problem.surroundings is None
    assert (float(problem.projections.mean()) < 0.8 * float(measured.mean())) == subtracted
    assert torch.equal(problem.projections, measured) != subtracted


def test_projections_between_the_views_are_pairs_too(config, tmp_path, capsys):
    refused = curate(config, tmp_path / "none", "--kind", "projections")
    assert (
        refused == cli.USAGE_ERROR and "have no backprojected residual" in capsys.readouterr().err
    )
    options = ["--kind", "projections", "--residual", "false", "--noise.mode", "none"]
    assert curate(config, tmp_path / "pairs", *options) == 0
    found = open_pairs(tmp_path / "pairs")
    assert len(found) == 4
    for scan in found.values():
        assert scan.info["kind"] == "projections" and 0.25 <= scan.info["share_to_next_view"] <= 0.5
        views = len(scan.clean)
        assert scan.degraded.shape == (2, *scan.clean.shape)
        # An arc that does not close has no view behind its last.
        assert scan.info["views"] - views in (0, 1)
        # Largest as the measured ones are, which they lie between; reconstructions resemble them.
        assert 0.9 < scan.clean.max() <= 1
        assert scan.info["psnr"][-1] > 15
    data = SlicePairData(
        [tmp_path / "pairs"],
        2,
        batch_size=2,
        crop=12,
        context=0,
        planes=["axial"],
        held_out_share=0,
    )
    data.setup("test")
    assert len(data.training) == 4
