from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from peak_memory import peak

from diffnr_lightning.data import MeasuredScanner, measured_case, read_case, write_case
from diffnr_lightning.data.flat_field import flat_fielded
from diffnr_lightning.data.readers import raw_scan
from diffnr_lightning.data.readers.measured_files import read_raw
from diffnr_lightning.data.rotation_axis import find_axis
from diffnr_lightning.geometry import ScanGeometry

FLAT, DARK, AXIS = 20000.0, 100.0, 34.3


@pytest.fixture
def angles() -> np.ndarray:
    return np.deg2rad(np.arange(0, 181.0, 3))


@pytest.fixture
def exact(ellipsoid, angles) -> np.ndarray:
    """Line integrals of an off-centre ellipsoid on a detector whose axis is at column AXIS."""
    solid = ellipsoid((16, 10, 8), (5, -4, 1), density=0.08)
    scan = ScanGeometry.parallel(
        angles_rad=angles,
        detector_shape=(20, 64),
        pixel_mm=1.0,
        detector_offset_mm=(0.0, 31.5 - AXIS),
    )
    return solid.line_integrals(scan)


@pytest.fixture
def archive(tmp_path, exact, angles):
    """The counts of that scan: uneven flat field, drifting beam, a dead pixel."""
    generator = np.random.default_rng(0)
    flat = FLAT * (1 + 0.2 * generator.random((20, 64)))
    drift = np.linspace(0.9, 0.7, len(angles))[:, None, None]
    counts = DARK + (flat - DARK) * drift * np.exp(-exact)
    counts[:, 3, 5] = flat[3, 5] = DARK
    path = tmp_path / "scan.npz"
    fields = {"flat": flat, "dark": np.full((20, 64), DARK)}
    np.savez(path, raw=counts, angles_deg=np.rad2deg(angles), **fields)
    return path


def test_counts_become_line_integrals(archive, exact):
    found = flat_fielded(read_raw(archive)).line_integrals
    np.testing.assert_allclose(found, exact, rtol=2.0**-24, atol=1e-9)  # rounded to float32


@pytest.mark.parametrize("at_once", [1, 5 * 20 * 64])
def test_blocks_of_views_change_nothing(archive, monkeypatch, at_once):
    """One view at a time, and five, of which 61 are no multiple."""
    whole = measured_case(archive)
    monkeypatch.setattr(raw_scan, "AT_ONCE", at_once)
    blocks = measured_case(archive)
    for case in (whole, blocks):
        assert case.provenance["axis_column"] == whole.provenance["axis_column"]
        assert torch.equal(case.projections, whole.projections)
        assert torch.equal(case.test_photons.counts, whole.test_photons.counts)
        assert torch.equal(case.photons.air, whole.photons.air)


def test_a_scan_takes_a_few_times_its_own_memory(exact, angles, tmp_path, monkeypatch):
    """Of 16 bits a value; line integrals, counts and photons without object are three times 32."""
    monkeypatch.setattr(raw_scan, "AT_ONCE", 1 << 12)
    counts = np.random.default_rng(0).poisson(5e3 * np.exp(-exact)).astype(np.uint16)
    raw = np.repeat(counts, 3, axis=1)
    np.savez(tmp_path / "s.npz", raw=raw, flat=5e3, dark=0.0, angles_deg=np.rad2deg(angles))
    assert peak(lambda: measured_case(tmp_path / "s.npz")) < 20 * raw.nbytes


def test_axis_is_found_to_a_fraction_of_a_column(exact, angles):
    assert find_axis(exact, angles) == pytest.approx(AXIS, abs=0.1)
    # Without the view at 180 degrees the nearest pair misses half a turn by a step.
    assert find_axis(exact[:-1], angles[:-1]) == pytest.approx(AXIS, abs=0.25)


def test_axis_needs_views_half_a_turn_apart(exact, angles, one_sentence):
    with pytest.raises(ValueError) as error:
        find_axis(exact[:40], angles[:40])
    assert "axis_column" in one_sentence(error)


def test_case_explains_the_measurement(ellipsoid, archive, tmp_path):
    case = measured_case(archive, every=4, scanner=MeasuredScanner(axis_column=AXIS))
    solid = ellipsoid((16, 10, 8), (5, -4, 1), density=0.08)
    assert (len(case.scan), len(case.test_scan)) == (16, 45)
    for scan, data in ((case.scan, case.projections), (case.test_scan, case.test_projections)):
        np.testing.assert_allclose(data, solid.line_integrals(scan), atol=1e-5)
    # The narrower side of the detector is 64 - 34.3 - 0.5 columns wide.
    assert case.grid.shape == (20, 58, 58)
    again = read_case(write_case(case, tmp_path / "case"))
    assert torch.equal(again.projections, case.projections)
    np.testing.assert_allclose(again.scan.detector_mm @ [0, 0, 1], case.scan.detector_mm[:, 2])
    np.testing.assert_allclose(again.scan.u_mm, case.scan.u_mm, atol=1e-9)


def test_a_scan_through_zero_is_read_again_without_a_word(archive, tmp_path, caplog):
    with np.load(archive) as fields:
        moved = {**fields, "angles_deg": fields["angles_deg"] - 88.0}
    np.savez(archive, **moved)
    case = measured_case(archive, every=4, scanner=MeasuredScanner(axis_column=AXIS))
    again = read_case(write_case(case, tmp_path / "case"))
    np.testing.assert_allclose(again.scan.direction, case.scan.direction, atol=1e-9)
    assert "totalAngle" not in caplog.text


def test_options(archive):
    case = measured_case(
        archive, every=61 // 2, size=29, scanner=MeasuredScanner(pixel_mm=0.5, clockwise=True)
    )
    assert len(case.scan) == 3
    assert case.unit == "1/mm"
    assert case.grid.shape == (10, 29, 29)
    assert case.grid.voxel_mm[0] == pytest.approx(0.5 * 2 * (63 - AXIS + 0.5) / 29, rel=0.01)
    np.testing.assert_allclose(
        np.sin(case.scan.orbit.angles_rad), -np.sin(np.deg2rad([0, 90, 180])), atol=1e-9
    )
    every = measured_case(archive, every=1)
    assert every.test_scan is None


def test_held_out_views_of_a_whole_turn_are_no_mirror_images(archive, tmp_path):
    """Of views over 180 degrees, then their opposites, every fourth is used."""
    found = dict(np.load(archive))
    opposite = found["angles_deg"] + 180.0
    whole = np.concatenate([found["angles_deg"], opposite, [360.0 + found["angles_deg"][0]]])
    raw = np.concatenate([found["raw"], found["raw"][..., ::-1], found["raw"][:1]])
    np.savez(tmp_path / "turn.npz", **{**found, "raw": raw, "angles_deg": whole})
    case = measured_case(
        tmp_path / "turn.npz",
        every=4,
        scanner=MeasuredScanner(axis_column=0.5 * (raw.shape[2] - 1)),
    )
    used, kept = (
        np.abs(scan.direction @ case.scan.direction.T) for scan in (case.scan, case.test_scan)
    )
    assert len(case.scan) == 31 and np.allclose(used.max(axis=1), 1.0)
    # Three degrees from the nearest axis of the views that are used.
    assert kept.max() < np.cos(np.deg2rad(2.9))


@pytest.mark.parametrize("unit", [1.0, 1 / FLAT])
def test_views_without_light_are_left_out(archive, caplog, unit):
    """Of a shutter that was closed: the first that is used, and one that is held out."""
    found = {name: array * unit for name, array in np.load(archive).items()}
    found["angles_deg"] /= unit
    found["raw"][[0, 5]] = DARK * unit
    np.savez(archive, **found)
    case = measured_case(archive, every=4, scanner=MeasuredScanner(axis_column=AXIS))
    assert "2 view(s) got no light and are left out, the first of them number 0" in caplog.text
    assert len(case.scan) + len(case.test_scan) == 59
    for views in (case.projections, case.test_projections):
        assert views.amax(dim=(1, 2)).min() > 0.5


def test_every_whole_column_of_the_field_of_view_gets_a_voxel(archive):
    """Of 43 columns of 0.1 mm, whose product divided by 0.1 is a little less than 43."""
    case = measured_case(archive, scanner=MeasuredScanner(axis_column=42.0, pixel_mm=0.1))
    assert case.grid.shape == (20, 43, 43)


def test_data_exchange_file_is_read(archive, tmp_path, exact):
    with np.load(archive) as arrays, h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = arrays["raw"]
        file["exchange/data_white"] = np.stack([arrays["flat"]] * 3)
        file["exchange/data_dark"] = np.stack([arrays["dark"]] * 2)
        file["exchange/theta"] = arrays["angles_deg"]
    np.testing.assert_allclose(
        flat_fielded(read_raw(tmp_path / "scan.h5")).line_integrals, exact, atol=1e-6
    )


def _without(key):
    return lambda arrays: arrays.pop(key)


def _with(**changes):
    return lambda arrays: arrays.update(changes)


DAMAGES = {
    "raw": (_without("raw"), "raw"),
    "flat": (_without("flat"), "flat"),
    "angles": (_without("angles_deg"), "angles"),
    "few angles": (_with(angles_deg=np.arange(5.0)), "angles"),
    "small flat": (_with(flat=np.ones((3, 4))), "flat"),
    "flat raw": (_with(raw=np.ones((20, 64))), "shape"),
    "nan": (_with(dark=np.full((20, 64), np.nan)), "dark"),
    "exchanged": (_with(flat=np.zeros((20, 64))), "exchanged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_scan_is_named_in_one_sentence(archive, damage, one_sentence):
    with np.load(archive) as file:
        arrays = dict(file)
    change, expected = DAMAGES[damage]
    change(arrays)
    np.savez(archive, **arrays)
    with pytest.raises(ValueError) as error:
        measured_case(archive)
    text = one_sentence(error)
    assert expected in text
    assert "scan.npz" in text


def test_unusable_files_and_arguments_are_refused(archive, tmp_path, one_sentence):
    (tmp_path / "damaged.npz").write_bytes(archive.read_bytes()[:5000])
    (tmp_path / "damaged.h5").write_bytes(b"nothing")
    (tmp_path / "scan.csv").write_text("1,2")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    for name, arguments in (
        ("missing.npz", {}),
        ("damaged.npz", {}),
        ("damaged.h5", {}),
        ("empty.h5", {}),
        ("scan.csv", {}),
        ("scan.npz", {"every": 0}),
        ("scan.npz", {"every": 100}),
        ("scan.npz", {"axis_column": 80.0}),
        ("scan.npz", {"pixel_mm": 0.0}),
        ("scan.npz", {"size": 2}),
    ):
        own = {k: v for k, v in arguments.items() if k in ("axis_column", "pixel_mm")}
        others = {k: v for k, v in arguments.items() if k not in own}
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            measured_case(tmp_path / name, scanner=MeasuredScanner(**own), **others)
        text = one_sentence(error)
        assert (next(iter(arguments)) if arguments else name) in text


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "offset"), [("pedestal_parallel3d.npz", 6.5), ("tooth_parallel.h5", -23.5)]
)
def test_axis_of_real_scans_is_where_their_makers_put_it(real_data, file, offset):
    case = measured_case(real_data / "projections" / file, every=4)
    width = case.scan.detector_shape[1]
    assert case.provenance["axis_column"] == pytest.approx(0.5 * (width - 1) + offset, abs=0.75)
    assert torch.isfinite(case.projections).all()
    # Air is free of attenuation once beam drift is corrected.
    assert abs(float(case.projections.quantile(0.02))) < 0.1
    assert float(case.projections.max()) > 1.0


def test_photons_are_counted_in_training_and_held_out_views(ellipsoid, angles, exact, tmp_path):
    """What explains the measurement explains its counts to chi-square 1, per view."""
    photons = 2e4
    counts = np.random.default_rng(1).poisson(photons * np.exp(-exact))
    path = tmp_path / "scan.npz"
    np.savez(path, raw=counts, flat=photons, dark=0.0, angles_deg=np.rad2deg(angles))
    case = measured_case(
        path, every=4, scanner=MeasuredScanner(axis_column=AXIS), air_border="none"
    )
    solid = ellipsoid((16, 10, 8), (5, -4, 1), density=0.08)
    found = [
        float(photons.chi_square(torch.from_numpy(solid.line_integrals(scan))).mean())
        for scan, photons in ((case.scan, case.photons), (case.test_scan, case.test_photons))
    ]
    # On so few pixels the object's edges pass for noise to a quarter.
    assert found[0] == pytest.approx(1, abs=0.25)
    assert found[1] == pytest.approx(found[0], abs=0.05)
    again = read_case(write_case(case, tmp_path / "case"))
    for read, kept in ((again.photons, case.photons), (again.test_photons, case.test_photons)):
        assert torch.equal(read.counts, kept.counts) and torch.equal(read.air, kept.air)
