"""The same contradictions between truth and projections, in an R2 case and in a NAF pickle."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffnr_lightning.data import Case, load_case, write_case
from diffnr_lightning.data.cases import DIVIDED
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, r2_scanner, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((20, 24, 22), (1.0, 1.2, 1.1))
# In radians, which is what both formats hold.
ANGLES = uniform_angles(12)


@pytest.fixture(scope="module")
def whole() -> Case:
    """Two balls of different density, off every plane of symmetry; nothing says who made it."""
    x, y, z = GRID.points().unbind(-1)
    large = x.square() + y.square() + z.square() < 64
    small = (x - 5).square() + (y + 3).square() + (z - 6).square() < 9
    truth = 0.4 * large + 0.6 * small
    scan = ScanGeometry.cone(
        angles_rad=ANGLES,
        source_to_axis_mm=100.0,
        source_to_detector_mm=150.0,
        detector_shape=(36, 40),
        pixel_mm=(1.2, 1.1),
    )
    return Case("balls", scan, project(truth, GRID, scan), GRID, volume=truth)


def _write_pickle(case: Case, folder: Path) -> Path:
    scanner = r2_scanner(case.scan, case.grid)
    data = {
        **{key: scanner[key] for key in ("DSD", "DSO", "nDetector", "nVoxel", "mode")},
        "dDetector": scanner["dDetector"],
        "dVoxel": scanner["dVoxel"],
        "numTrain": len(case.scan),
        "train": {"angles": ANGLES, "projections": case.projections.numpy() / 1000},
    }
    if case.volume is not None:
        data["image"] = case.volume.numpy().transpose(2, 1, 0)
    path = folder / "balls.pickle"
    path.write_bytes(pickle.dumps(data))
    return path


@pytest.fixture(params=["case folder", "NAF pickle"])
def stored(request, tmp_path):
    """Write a case in one of the formats and read it again."""

    def stored(case: Case) -> Case:
        if request.param == "case folder":
            return load_case(write_case(case, tmp_path / "balls"))
        return load_case(_write_pickle(case, tmp_path))

    return stored


@pytest.fixture
def said(caplog):
    return lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_a_truth_and_its_projections_pass_without_a_word(stored, whole, said):
    case = stored(whole)
    torch.testing.assert_close(case.projections, whole.projections)
    assert torch.equal(case.volume, whole.volume)
    assert not said()


def test_a_truth_in_another_unit_becomes_the_same_case(stored, whole, said):
    """In 1/mm both are 0.02 times as large."""
    case = stored(replace(whole, volume=0.02 * whole.volume, projections=0.02 * whole.projections))
    torch.testing.assert_close(case.projections, whole.projections)
    torch.testing.assert_close(case.volume, whole.volume)
    assert case.provenance["normalised_by"] == pytest.approx(0.02)
    assert "0.02" in said()[0]


def test_a_case_that_was_divided_says_of_what_is_written_that_it_is_not(whole, tmp_path):
    """A report divides the truth of a folder by what its reading divided it by."""
    fine = replace(whole, volume=0.02 * whole.volume, projections=0.02 * whole.projections)
    once = load_case(write_case(fine, tmp_path / "once"))
    assert once.provenance[DIVIDED] == pytest.approx(0.02)
    twice = load_case(write_case(once, tmp_path / "twice"))
    assert DIVIDED not in twice.provenance
    # How strong a ray is in 1/mm is known all the same.
    assert twice.provenance["normalised_by"] == pytest.approx(0.02)


def test_a_truth_with_a_window_stays_in_it(whole, tmp_path, said):
    """That it reaches 0.2 of the window is no other unit: 0.2 is -200 HU, and not 3000."""
    dim = replace(whole, volume=0.2 * whole.volume, projections=0.2 * whole.projections)
    dim = replace(dim, window_hu=(-1000.0, 3000.0), unit="HU")
    case = load_case(write_case(dim, tmp_path / "dim"))
    assert torch.equal(case.volume, dim.volume)
    torch.testing.assert_close(case.projections, dim.projections)
    assert "normalised_by" not in case.provenance and not said()


WRONG = {
    "truth in HU": (lambda case: {"volume": 2000 * case.volume - 1000}, "HU"),
    "truth alone in another unit": (lambda case: {"volume": 0.02 * case.volume}, "times as large"),
    "projections in another unit": (
        lambda case: {"projections": 10 * case.projections},
        "times as large",
    ),
    "reversed sign": (lambda case: {"projections": -case.projections}, "below zero"),
    "intensities": (lambda case: {"projections": torch.exp(-case.projections)}, "intensities"),
    "zeros": (lambda case: {"projections": 0 * case.projections}, "zeros only"),
    "one value": (lambda case: {"projections": 0 * case.projections + 2}, "2 everywhere"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_contradictions_are_refused(stored, whole, kind, one_sentence):
    change, words = WRONG[kind]
    with pytest.raises(ValueError) as error:
        stored(replace(whole, **change(whole)))
    assert words in one_sentence(error)
    assert "balls" in str(error.value)


@pytest.mark.parametrize("kind", ["reversed sign", "zeros"])
def test_signs_are_checked_without_a_truth(stored, whole, kind):
    change, words = WRONG[kind]
    with pytest.raises(ValueError, match=words):
        stored(replace(whole, volume=None, **change(whole)))


def test_intensities_without_a_truth_are_said(stored, whole, said):
    stored(replace(whole, volume=None, projections=torch.exp(-whole.projections)))
    assert "intensities" in said()[0]


@pytest.mark.parametrize(
    ("turned", "words"),
    [
        (lambda p: p.flip(1), "rows upside down"),
        (lambda p: p.flip(2), "columns reversed"),
        # The view of angle -a stands where that of a should.
        (lambda p: torch.cat([p[:1], p[1:].flip(0)]), "other sense"),
    ],
)
def test_views_that_are_turned_are_said(stored, whole, said, turned, words):
    stored(replace(whole, projections=turned(whole.projections)))
    assert words in said()[0]


def test_another_scale_is_said(stored, whole, said):
    stored(replace(whole, projections=1.5 * whole.projections))
    assert "times those of the truth" in said()[0]


def test_a_large_case_is_compared_coarsely(stored, whole, said):
    """Averages of pixels and voxels lie where their pixels and voxels lie, remainders cut off."""
    grid = VolumeGrid((50, 60, 55), (0.4, 0.48, 0.44))
    x, y, z = grid.points().unbind(-1)
    truth = ((x - 4).square() + (y + 3).square() + (z - 5).square() < 16).float()
    scan = replace(
        whole.scan,
        detector_shape=(73, 81),
        u_mm=0.5 * whole.scan.u_mm,
        v_mm=0.5 * whole.scan.v_mm,
    )
    stored(
        replace(whole, scan=scan, grid=grid, volume=truth, projections=project(truth, grid, scan))
    )
    assert not said()
