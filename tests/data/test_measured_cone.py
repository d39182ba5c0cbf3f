"""Measured cone beams: images, fields and geometry from files of others become a case that explains them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile

from diffnr_lightning.data import MeasuredScanner, Readout, measured_case, read_case, write_case
from diffnr_lightning.geometry import ScanGeometry, astra_vectors, projection_matrices
from diffnr_lightning.solvers import fdk

VIEWS, ROWS, COLUMNS = 72, 24, 64
DISTANCES = {"source_to_axis_mm": 120.0, "source_to_detector_mm": 180.0}
PIXEL, AXIS, ROW = 1.5, 30.2, 12.6
FLAT, DARK = 30000.0, 90.0
SEMI_AXES, CENTRE, DENSITY = (11, 8, 6), (4, -3, 1), 0.05


def scan_of(angles, clockwise=False):
    return ScanGeometry.cone(
        angles_rad=-angles if clockwise else angles,
        detector_shape=(ROWS, COLUMNS),
        pixel_mm=PIXEL,
        detector_offset_mm=((0.5 * (ROWS - 1) - ROW) * PIXEL, (0.5 * (COLUMNS - 1) - AXIS) * PIXEL),
        **DISTANCES,
    )


@pytest.fixture
def angles():
    return np.linspace(0, 2 * np.pi, VIEWS, endpoint=False)


@pytest.fixture
def solid(ellipsoid):
    return ellipsoid(SEMI_AXES, CENTRE, density=DENSITY)


@pytest.fixture
def exact(solid, angles):
    return solid.line_integrals(scan_of(angles))


@pytest.fixture
def images(tmp_path, exact):
    """A folder of TIFF images a view, flat and dark fields beside it."""
    counts = np.rint(DARK + (FLAT - DARK) * np.exp(-exact)).astype(np.uint16)
    folder = tmp_path / "views"
    folder.mkdir()
    for number, image in enumerate(counts):
        tifffile.imwrite(folder / f"scan_{number}.tif", image)
    tifffile.imwrite(
        tmp_path / "flat.tif",
        np.full((3, ROWS, COLUMNS), FLAT, np.uint16),
        photometric="minisblack",
    )
    return folder


FIELDS = {"dark": DARK, "air_border": "none"}
SCANNER = {**DISTANCES, "pixel_mm": PIXEL}


def case_of(images, scanner, **more):
    fields = {"flat": images.parent / "flat.tif", **FIELDS}
    return measured_case(images, scanner=MeasuredScanner(**scanner), **(fields | more))


def explains(case, solid, tolerance=2e-3):
    for scan, data in ((case.scan, case.projections), (case.test_scan, case.test_projections)):
        np.testing.assert_allclose(data, solid.line_integrals(scan), atol=tolerance)


def test_images_fields_and_distances_make_a_case(images, solid, tmp_path):
    known = {**SCANNER, "step_deg": 5.0, "axis_column": AXIS, "centre_row": ROW}
    case = case_of(images, known)
    explains(case, solid)
    assert (len(case.scan), len(case.test_scan), case.unit) == (18, 54, "1/mm")
    # Pixels at the axis are two thirds as large, and so are voxels.
    assert case.grid.voxel_mm[0] == pytest.approx(1.0)
    assert case.grid.shape[0] == ROWS
    again = read_case(write_case(case, tmp_path / "case"))
    np.testing.assert_allclose(again.scan.detector_mm, case.scan.detector_mm, atol=1e-9)
    density = fdk(again.projections, again.grid, again.scan)
    z, y, x = (
        round((c - o) / 1.0 + 0.5 * (n - 1))
        for c, o, n in zip(CENTRE[::-1], again.grid.centre_mm[::-1], again.grid.shape, strict=True)
    )
    assert float(density[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2].mean()) == pytest.approx(
        DENSITY, rel=0.05
    )


def test_the_axis_of_a_whole_turn_is_found(images):
    case = case_of(images, {**SCANNER, "step_deg": 5.0, "centre_row": ROW})
    assert case.provenance["axis_column"] == pytest.approx(AXIS, abs=0.15)


def test_the_axis_of_a_shifted_detector_is_found(solid, angles, tmp_path):
    """Half of the field of view is seen by one half of the turn, the other by the other."""
    scan = ScanGeometry.cone(
        angles_rad=angles,
        detector_shape=(ROWS, 40),
        pixel_mm=PIXEL,
        detector_offset_mm=(0.0, 15.0),
        **DISTANCES,
    )
    np.save(tmp_path / "half.npy", solid.line_integrals(scan))
    case = measured_case(
        tmp_path / "half.npy",
        line_integrals=True,
        air_border="none",
        scanner=MeasuredScanner(**SCANNER, step_deg=5.0),
    )
    assert case.provenance["axis_column"] == pytest.approx(19.5 - 10, abs=0.2)
    # The circle reaches to the farther end of the detector, 30 pixels from the axis.
    assert case.grid.shape[2] == pytest.approx(2 * 30, abs=2)


def test_a_turn_of_views_in_another_order_has_no_axis(exact, tmp_path, one_sentence):
    np.save(tmp_path / "shuffled.npy", np.random.default_rng(0).permutation(exact))
    with pytest.raises(ValueError) as error:
        measured_case(
            tmp_path / "shuffled.npy",
            line_integrals=True,
            air_border="none",
            scanner=MeasuredScanner(**SCANNER, step_deg=5.0),
        )
    assert "axis_column" in one_sentence(error)


def test_steps_that_do_not_fit_a_turn_are_said(exact, tmp_path, caplog):
    np.save(tmp_path / "turn.npy", exact)
    known = {"line_integrals": True, "air_border": "none"}
    right = MeasuredScanner(**SCANNER, step_deg=5.0, centre_row=ROW)
    measured_case(tmp_path / "turn.npy", scanner=right, **known)
    assert "check" not in caplog.text
    wrong = MeasuredScanner(**SCANNER, step_deg=7.5, axis_column=AXIS)
    measured_case(tmp_path / "turn.npy", scanner=wrong, **known)
    assert "go around 1.50 times; check step_deg" in caplog.text


def test_part_of_a_turn_takes_the_middle_and_says_so(exact, tmp_path, caplog):
    np.save(tmp_path / "part.npy", exact[:50])
    case = measured_case(
        tmp_path / "part.npy",
        line_integrals=True,
        air_border="none",
        scanner=MeasuredScanner(**SCANNER, step_deg=5.0),
    )
    assert case.provenance["axis_column"] == 31.5
    assert "give axis_column" in caplog.text


def test_angles_come_from_a_file_of_their_own(images, solid, angles, tmp_path):
    np.savetxt(tmp_path / "angles.csv", -np.rad2deg(angles), header="angle")
    known = {**SCANNER, "axis_column": AXIS, "centre_row": ROW, "clockwise": True}
    explains(case_of(images, {**known, "angles": tmp_path / "angles.csv"}), solid)


@pytest.mark.parametrize("form", ["vectors.geom", "vectors.npy", "matrices.npy"])
def test_poses_of_others_are_read(images, solid, angles, tmp_path, form):
    scan = scan_of(angles)
    path = tmp_path / form
    if form == "vectors.geom":
        np.savetxt(path, astra_vectors(scan))
    else:
        np.save(
            path, astra_vectors(scan) if form == "vectors.npy" else -3 * projection_matrices(scan)
        )
    case = case_of(images, {"geometry": path, "pixel_mm": PIXEL})
    explains(case, solid)
    assert case.unit == "1/mm"
    assert case.grid.voxel_mm[0] == pytest.approx(1.0)


XTEK = """[XTekCT]
Name=Part 100%
SrcToObject=120
SrcToDetector=180
DetectorPixelSizeX=1.5
DetectorPixelSizeY=1.5
Projections=72
InitialAngle=30
AngularStep=5
WhiteLevel=30000
CentreOfRotationTop=0
"""


def test_a_scanner_of_nikon_says_all_but_the_axis(exact, solid, tmp_path):
    (tmp_path / "part.xtekct").write_text(XTEK)
    np.save(tmp_path / "part.npy", np.rint(30000 * np.exp(-exact)).astype(np.uint16))
    scanner = MeasuredScanner(geometry=tmp_path / "part.xtekct", centre_row=ROW)
    case = measured_case(tmp_path / "part.npy", scanner=scanner, air_border="none")
    assert case.provenance["axis_column"] == pytest.approx(AXIS, abs=0.15)
    known = MeasuredScanner(geometry=tmp_path / "part.xtekct", centre_row=ROW, axis_column=AXIS)
    explains(measured_case(tmp_path / "part.npy", scanner=known, air_border="none"), solid)


def test_a_scanner_of_nikon_beside_a_scan_that_holds_its_fields(exact, solid, tmp_path, caplog):
    (tmp_path / "part.xtekct").write_text(XTEK)
    counts = np.rint(30000 * np.exp(-exact)).astype(np.uint16)
    angles = 5.0 * np.arange(len(counts))
    scanner = MeasuredScanner(geometry=tmp_path / "part.xtekct", centre_row=ROW, axis_column=AXIS)
    np.savez(tmp_path / "s.npz", raw=counts, flat=3e4, dark=0.0, angles_deg=angles)
    explains(measured_case(tmp_path / "s.npz", scanner=scanner, air_border="none"), solid)
    assert not caplog.text
    np.savez(tmp_path / "s.npz", raw=counts, flat=3e4, dark=0.0, angles_deg=0.9 * angles)
    measured_case(tmp_path / "s.npz", scanner=scanner, air_border="none")
    assert "those of step_deg differ by up to 35.5 degrees" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "[XTekCT]\nSrcToObject=120\n", XTEK.replace("=180", "=far"), "nonsense"]
)
def test_other_settings_are_refused(text, exact, tmp_path, one_sentence):
    (tmp_path / "part.xtekct").write_text(text)
    np.save(tmp_path / "part.npy", exact)
    with pytest.raises(ValueError) as error:
        measured_case(
            tmp_path / "part.npy", scanner=MeasuredScanner(geometry=tmp_path / "part.xtekct")
        )
    assert "part.xtekct" in one_sentence(error)


def rtk_file(path, scan):
    """RTK's world has our z as y, our x as z and our y as x; its matrices end on the detector in mm."""
    turn = np.zeros((4, 4))
    turn[[0, 1, 2, 3], [1, 2, 0, 3]] = 1
    rows, columns = scan.detector_shape
    to_mm = np.array(
        [[PIXEL, 0, -0.5 * (columns - 1) * PIXEL], [0, PIXEL, -0.5 * (rows - 1) * PIXEL], [0, 0, 1]]
    )
    entries = "".join(
        "<Projection><GantryAngle>0</GantryAngle><Matrix>{}</Matrix></Projection>".format(
            "\n".join(" ".join(f"{n:.15g}" for n in row) for row in to_mm @ matrix @ turn.T)
        )
        for matrix in projection_matrices(scan)
    )
    path.write_text(
        '<?xml version="1.0"?><!DOCTYPE RTKGEOMETRY><RTKThreeDCircularGeometry version="3">'
        f"{entries}</RTKThreeDCircularGeometry>"
    )


def test_a_scan_of_rtk_is_read_with_its_images(exact, solid, angles, tmp_path):
    rtk_file(tmp_path / "geometry.xml", scan_of(angles))
    image = SimpleITK.GetImageFromArray(exact.astype(np.float32))
    image.SetSpacing((PIXEL, PIXEL, 1.0))
    image.SetOrigin((-0.5 * (COLUMNS - 1) * PIXEL, -0.5 * (ROWS - 1) * PIXEL, 0.0))
    SimpleITK.WriteImage(image, str(tmp_path / "projections.mha"))
    case = measured_case(
        tmp_path / "projections.mha",
        line_integrals=True,
        air_border="none",
        scanner=MeasuredScanner(geometry=tmp_path / "geometry.xml"),
    )
    explains(case, solid, 1e-4)


@pytest.mark.parametrize("geometry", [False, True])
def test_binned_pixels_are_means_of_their_squares(images, exact, angles, tmp_path, geometry):
    if geometry:
        np.savetxt(tmp_path / "scan.geom", astra_vectors(scan_of(angles)))
        known = {"geometry": tmp_path / "scan.geom"}
    else:
        known = {**SCANNER, "step_deg": 5.0, "axis_column": AXIS, "centre_row": ROW}
    case = case_of(images, known, readout=Readout(binning=5))
    assert case.scan.detector_shape == (4, 12)
    fine = scan_of(angles)[::4].window(slice(2, 20, 5), slice(2, 60, 5))
    np.testing.assert_allclose(case.scan.detector_mm, fine.detector_mm, atol=1e-9)
    np.testing.assert_allclose(case.scan.u_mm, fine.u_mm, atol=1e-9)
    assert case.provenance["binning"] == 5
    squares = np.exp(-exact[::4, :20, :60]).reshape(18, 4, 5, 12, 5).mean(axis=(2, 4))
    np.testing.assert_allclose(case.projections, -np.log(squares), atol=1e-3)


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        (lambda images: images[:, ::-1], {"flip": ["rows"]}),
        (lambda images: images[:, :, ::-1], {"flip": ["columns"]}),
        (lambda images: images.swapaxes(1, 2), {"transpose": True}),
        (lambda images: images.swapaxes(1, 2)[:, ::-1], {"flip": ["rows"], "transpose": True}),
    ],
)
def test_images_are_turned_upright(exact, solid, tmp_path, stored, options):
    np.save(tmp_path / "turned.npy", stored(exact))
    known = MeasuredScanner(**SCANNER, step_deg=5.0, axis_column=AXIS, centre_row=ROW)
    case = measured_case(
        tmp_path / "turned.npy",
        line_integrals=True,
        air_border="none",
        scanner=known,
        readout=Readout(**options),
    )
    explains(case, solid, 1e-4)


def test_so_many_of_the_other_views_are_kept(images):
    known = {**SCANNER, "step_deg": 5.0, "axis_column": AXIS}
    case = case_of(images, known, held_out=6)
    assert (len(case.scan), len(case.test_scan), len(case.test_projections)) == (18, 6, 6)
    assert np.unique(np.round(np.rad2deg(case.test_scan.orbit.angles_rad))).size == 6
    assert case_of(images, known, held_out=0).test_scan is None
    assert len(case_of(images, known, held_out=100).test_scan) == 54


def test_views_that_are_there_twice_are_not_held_out(exact, angles, tmp_path):
    """The last view repeats the first; one of a helix, from another height, does not."""
    np.save(tmp_path / "turn.npy", np.concatenate([exact, exact[:1]]))
    scan = scan_of(np.append(angles, angles[0]))
    for height, kept in ((0.0, 57), (3.0, 58)):
        vectors = astra_vectors(scan)
        vectors[-1, [2, 5]] += height
        np.savetxt(tmp_path / "turn.geom", vectors)
        known = MeasuredScanner(geometry=tmp_path / "turn.geom")
        case = measured_case(
            tmp_path / "turn.npy", line_integrals=True, air_border="none", scanner=known, every=5
        )
        assert (len(case.scan), len(case.test_scan)) == (15, kept)


def test_photons_are_counted_of_images_alone(exact, tmp_path):
    photons = 2e4
    counts = np.random.default_rng(1).poisson(photons * np.exp(-exact)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "scan.tif", counts)
    known = MeasuredScanner(**SCANNER, step_deg=5.0, axis_column=AXIS, centre_row=ROW)
    case = measured_case(
        tmp_path / "scan.tif", flat=photons, dark=0.0, air_border="none", scanner=known
    )
    assert float(case.photons.air.mean()) == pytest.approx(photons, rel=0.25)


REFUSED = {
    "no angles": ({}, {}, "--step_deg"),
    "no flat": ({"step_deg": 5.0}, {"flat": None}, "--flat"),
    "no dark": ({"step_deg": 5.0}, {"dark": None}, "--dark"),
    "fields of line integrals": ({"step_deg": 5.0}, {"line_integrals": True}, "line_integrals"),
    "no pitch": ({"step_deg": 5.0, "pixel_mm": None}, {}, "pixel_mm"),
    "one distance": ({"source_to_detector_mm": None}, {}, "source_to_detector_mm"),
    "exchanged distances": (
        {
            "step_deg": 5.0,
            "source_to_axis_mm": 180.0,
            "source_to_detector_mm": 120.0,
            "axis_column": AXIS,
        },
        {},
        "exchanged",
    ),
    "two of angles": ({"step_deg": 5.0, "angles": "angles.csv"}, {}, "both given"),
    "angle between": ({"step_deg": 0.0}, {}, "step_deg"),
    "column": ({"step_deg": 5.0, "axis_column": 80.0}, {}, "axis_column"),
    "binning": ({"step_deg": 5.0}, {"readout": Readout(binning=40)}, "binning"),
    "idle beside poses": ({"geometry": Path("scan.geom")}, {}, "source_to_axis_mm"),
    "angles missing": ({"angles": Path("missing.csv")}, {}, "missing.csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_scan_is_refused(images, case, one_sentence):
    scanner, more, expected = REFUSED[case]
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        case_of(images, {**SCANNER, **scanner}, **more)
    assert expected in one_sentence(error)


def test_files_of_poses_are_checked(images, angles, tmp_path, one_sentence):
    (tmp_path / "short.geom").write_text("1 2 3\n4 5 6\n")
    np.savetxt(tmp_path / "few.geom", astra_vectors(scan_of(angles))[:5])
    (tmp_path / "words.geom").write_text("one two\nthree four\n")
    (tmp_path / "damaged.xml").write_text("<RTKThree")
    (tmp_path / "other.xml").write_text("<Scan><Projection/></Scan>")
    np.save(tmp_path / "flat.npy", np.zeros((VIEWS, 3, 4)))
    for name in (
        "short.geom",
        "few.geom",
        "words.geom",
        "damaged.xml",
        "other.xml",
        "flat.npy",
        "missing.xml",
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            case_of(images, {"geometry": tmp_path / name, "pixel_mm": PIXEL})
        text = one_sentence(error)
        assert name in text or "matrix" in text
