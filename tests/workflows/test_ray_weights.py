"""Which weights the rays of a case get, and that methods use them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK

from diffnr_lightning import cli
from diffnr_lightning.data import Case, load_case, write_case
from diffnr_lightning.projectors import project
from diffnr_lightning.workflows.methods.assumed_photons import photons_of

pytestmark = pytest.mark.filterwarnings("ignore")
SOLVER = ["--method", "diffnr_lightning.workflows.Solver", "--method.name", "sirt"]


def diffnr(*arguments):
    return cli.main([str(argument) for argument in arguments])


def reconstructed(case, out, *options):
    assert diffnr("reconstruct", "--case", case, *SOLVER, "--out", out, *options) == 0
    volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "volume.nii.gz")))
    return volume, json.loads((out / "metrics.json").read_text())


def simulated(out, *options):
    scan = ["--volume", "phantom:3", "--size", 16, "--num_views", 6, "--test_views", 0]
    assert diffnr("simulate", *scan, "--out", out, *options) == 0
    return out


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A scan of so few photons that its rays differ a hundredfold."""
    out = tmp_path_factory.mktemp("weights") / "case"
    return simulated(out, "--noise.photons", 1e4)


@pytest.fixture
def scan_of_others(case, tmp_path):
    """Return a function: value of a truth, whether it is kept -> its case as it is read, of which no more is known."""
    ours = load_case(case)
    body = (ours.volume > 0.5).float()

    def scan_of_others(value, known):
        truth = value * body
        bare = Case(
            "others", ours.scan, project(truth, ours.grid, ours.scan), ours.grid, volume=truth
        )
        return load_case(write_case(bare if known else replace(bare, volume=None), tmp_path / "o"))

    return scan_of_others


def test_counted_photons_weigh_the_rays_unless_they_are_to_weigh_alike(case, tmp_path):
    weighted, metrics = reconstructed(case, tmp_path / "weighted")
    alike, uniform = reconstructed(case, tmp_path / "alike", "--weights", "uniform")
    assert (metrics["weights"], uniform["weights"]) == ("counted", "uniform")
    assert not np.allclose(weighted, alike)
    assert metrics["protocols"]["r2"]["psnr"] > uniform["protocols"]["r2"]["psnr"]


def test_a_method_that_weighs_no_rays_does_not_claim_to(case, tmp_path):
    _, metrics = reconstructed(case, tmp_path / "fdk", "--method.name", "analytic")
    assert metrics["weights"] == "uniform"


def test_rays_of_a_scan_without_noise_weigh_as_those_of_much_light(tmp_path):
    case = simulated(tmp_path / "case", "--noise.mode", "none")
    weighted, metrics = reconstructed(case, tmp_path / "weighted")
    alike, uniform = reconstructed(case, tmp_path / "alike", "--weights", "uniform")
    same, _ = reconstructed(case, tmp_path / "same", "--photons", 1e6)
    less, _ = reconstructed(case, tmp_path / "less", "--photons", 1e4)
    assert (metrics["weights"], uniform["weights"]) == ("assumed", "uniform")
    assert np.array_equal(weighted, same)
    assert not np.allclose(weighted, alike) and not np.allclose(weighted, less)


def test_blocks_without_unit_let_some_light_through(tmp_path):
    """Their line integrals, in voxels, are no exponents."""
    np.save(tmp_path / "block.npy", np.pad(np.full((12, 12, 12), 7.0, np.float32), 2))
    block = ("--volume", tmp_path / "block.npy", "--spacing_mm", 1.0)
    case = load_case(simulated(tmp_path / "case", *block, "--noise.mode", "none"))
    assert case.window_hu is None
    assert photons_of(case, None).counts.min() == pytest.approx(1e6 * np.exp(-3), rel=0.01)


@pytest.mark.parametrize("provenance", [{}, {"simulation": None}, {"simulation": {"recipe": 3}}])
def test_photons_are_assumed_only_where_they_are_asked_for(tmp_path, provenance):
    """A scan of which nothing is known of its noise knows of no photons."""
    bare = load_case(simulated(tmp_path / "case", "--noise.mode", "none"))
    case = replace(bare, provenance=provenance)
    assert photons_of(case, None) is None
    assert photons_of(case, 1e4).origin == "assumed"


# Unit of a truth of others, as a share of the largest value, and the exponent of its densest ray.
UNITS = {
    "1/mm": (0.02, None, lambda length: 0.02 * length),
    "none": (1.0, None, lambda _: 3.0),
    "gray values": (255.0, None, lambda _: 3.0),
    "1/mm, without truth": (0.02, "truth", lambda length: 0.02 * length),
    "gray values, without truth": (255.0, "truth", lambda _: 3.0),
}


@pytest.mark.parametrize("unit", UNITS)
def test_assumed_photons_reach_the_detector_in_any_unit(scan_of_others, unit):
    """A truth and its projections are divided by its peak where they are read."""
    value, lacks, exponent = UNITS[unit]
    case = scan_of_others(value, lacks is None)
    length = case.projections.max() / (1.0 if lacks is None else value)
    least = photons_of(case, 1e5).counts.min()
    assert least == pytest.approx(1e5 * np.exp(-exponent(float(length))), rel=1e-3)


def test_measured_line_integrals_are_exponents_whatever_their_reference(scan_of_others):
    case = scan_of_others(1.0, True)
    measured = replace(case, provenance={"kind": "measured"})
    expected = 1e5 * np.exp(-float(case.projections.max()))
    assert photons_of(measured, 1e5).counts.min() == pytest.approx(expected, rel=1e-3)


def test_a_scan_of_which_nothing_is_known_is_reconstructed_to_the_end(tmp_path):
    case = simulated(tmp_path / "case", "--noise.mode", "none")
    meta = json.loads((case / "meta_data.json").read_text())
    meta["provenance"]["simulation"] = None
    (case / "meta_data.json").write_text(json.dumps(meta))
    _, metrics = reconstructed(case, tmp_path / "run")
    assert metrics["noise"] is None


def test_no_beam_has_less_than_no_photons(case, tmp_path, capsys):
    bare = simulated(tmp_path / "case", "--noise.mode", "none")
    arguments = ["--case", bare, *SOLVER, "--out", tmp_path / "run", "--photons", -1]
    assert diffnr("reconstruct", *arguments) == 2
    assert "photons is -1.0; a positive number is expected" in capsys.readouterr().err
