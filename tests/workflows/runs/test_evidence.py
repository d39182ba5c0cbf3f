"""What a run says of its own volume."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
import torch

from diffnr_lightning.data import Noise, ScanRecipe, generate, simulate_case, write_case
from diffnr_lightning.projectors import project
from diffnr_lightning.workflows import Solver, reconstruct, reconstruction
from diffnr_lightning.workflows.methods.problem import Problem
from diffnr_lightning.workflows.runs.evidence import (
    chi_squares,
    evidence,
    prior_part,
    save_prior_map,
)

INNER = (slice(2, 22),) * 3


@pytest.fixture(scope="module")
def case():
    recipe = ScanRecipe(size=24, num_views=6, test_views=3, noise=Noise("physical", 1e4))
    return simulate_case(generate("phantom:3", 48), recipe)


def problem_of(case, scale=1.0):
    photons = case.photons.in_units_of(scale)
    return Problem(
        case.projections / scale,
        case.scan,
        case.grid,
        photons=photons,
        weights=photons.weights(),
    )


def test_chi_square_of_fitted_and_left_out_views(case):
    found = chi_squares(case.volume, problem_of(case), case, 1.0)
    shown = project(case.volume, case.grid, case.scan)
    assert found["fitted"] == pytest.approx(case.photons.chi_square(shown).tolist())
    assert len(found["left_out"]) == 3
    # Test views without noise count as what they would be with it.
    assert 1 < found["mean"]["left_out"] == pytest.approx(found["mean"]["fitted"], rel=0.3)
    # The truth misses the projections by what its voxels do not resolve.
    assert 0.5 < found["mean"]["resolved"] < 0.5 * found["mean"]["fitted"]
    scaled = chi_squares(case.volume / 4, problem_of(case, 4.0), case, 4.0)
    for name, numbers in found["mean"].items():
        assert scaled["mean"][name] == pytest.approx(numbers, rel=1e-3)


def test_dead_pixels_have_no_part_in_chi_square(case):
    problem, seen = problem_of(case), torch.ones_like(case.projections)
    seen[..., :12] = 0
    photons = case.photons
    photons = photons._replace(counts=seen * photons.counts, air=seen * photons.air)
    half = problem._replace(photons=photons, weights=photons.weights())
    expected, found = (chi_squares(case.volume, p, case, 1.0)["mean"] for p in (problem, half))
    for name in ("fitted", "resolved"):
        assert found[name] == pytest.approx(expected[name], rel=0.25)


@pytest.mark.parametrize(
    ("dark", "names"),
    [
        ([1, 4], ("fitted", "resolved")),
        ([1, 4], ("resolved",)),
        ([0, 1, 2, 3, 4, 5], ("resolved",)),
    ],
    ids=["no air", "no counts", "no counts in any view"],
)
def test_views_without_light_have_no_part_in_chi_square(case, dark, names):
    """They are not explained exactly. Where air is known to be there, the counts of 0 are part of `fitted`."""
    light = torch.ones(6, 1, 1)
    light[dark] = 0
    photons = case.photons._replace(counts=light * case.photons.counts)
    if "fitted" in names:
        photons = photons._replace(air=light * photons.air)
    problem = problem_of(case)
    whole = chi_squares(case.volume, problem, case, 1.0)
    starved = problem._replace(photons=photons, weights=photons.weights())
    found = chi_squares(case.volume, starved, case, 1.0)
    for name in names:
        lit = [number for view, number in enumerate(whole[name]) if view not in dark]
        assert [found[name][view] for view in dark] == [None] * len(dark)
        assert [n for n in found[name] if n is not None] == pytest.approx(lit)
        mean = found["mean"][name]
        assert mean == pytest.approx(sum(lit) / len(lit)) if lit else mean is None


def test_the_part_of_the_prior(case, tmp_path):
    before = case.volume.clone()
    before[8:12, 8:12, 8:12] += 0.2
    numbers, unseen = prior_part(case.volume, before, problem_of(case), INNER)
    assert numbers["seen"] + numbers["unseen"] == pytest.approx(1)
    assert 0.1 < numbers["unseen"] < 0.9
    energy = float(case.volume.double().square().sum())
    assert numbers["changed"] == pytest.approx(64 * 0.2**2 / energy, rel=1e-4)
    assert unseen.shape == (20, 20, 20) and unseen.min() >= 0
    whole = unseen.new_zeros(case.grid.shape)
    whole[INNER] = unseen
    save_prior_map(tmp_path, case.volume, whole, case, 1.0)
    assert (tmp_path / "prior_share.png").stat().st_size > 1000
    image = SimpleITK.ReadImage(str(tmp_path / "prior_share.nii.gz"))
    assert image.GetSpacing() == pytest.approx(case.grid.voxel_mm[::-1], rel=1e-4)
    low, high = case.window_hu
    written = SimpleITK.GetArrayFromImage(image)
    # A difference: no change is 0 and not the lower end of the window.
    np.testing.assert_allclose(written, (high - low) * whole.numpy(), atol=0.1)


def test_test_projections_that_show_nothing_end_no_run(case, tmp_path, caplog):
    empty = replace(case, test_projections=torch.zeros_like(case.test_projections))
    method = SimpleNamespace(weighs=False, before_prior=None)
    problem = problem_of(empty)
    found = evidence(method, case.volume, problem, empty, 1.0, INNER, tmp_path)
    assert "projections" not in found and len(found["chi_square"]["left_out"]) == 3
    assert "test projections" in caplog.text
    found = evidence(method, case.volume, problem, case, 1.0, INNER, tmp_path)
    assert found["projections"]["psnr"] > 20


def test_no_change_is_no_part(case):
    numbers, unseen = prior_part(case.volume, case.volume, problem_of(case), INNER)
    assert numbers == {"changed": 0.0, "unseen": 0.0, "seen": 0.0}
    assert not torch.any(unseen)


def test_the_volume_is_written_before_anything_is_said_of_it(case, tmp_path, monkeypatch):
    """For which there may be no memory. The run is unfinished then, and the same command finishes it."""

    def no_memory(*given):
        raise torch.OutOfMemoryError("none left")

    write_case(case, tmp_path / "case")
    given = (tmp_path / "case", tmp_path / "run", Solver("analytic"))
    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(reconstruction, "evidence", no_memory)
        reconstruct(*given)
    written = (tmp_path / "run" / "volume.nii.gz").read_bytes()
    assert not (tmp_path / "run" / "metrics.json").exists()
    reconstruct(*given)
    assert (tmp_path / "run" / "metrics.json").exists()
    assert (tmp_path / "run" / "volume.nii.gz").read_bytes() == written
