"""Poses of source and detector: constructors, values, refusals."""

import gc
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffnr_lightning.geometry import (
    ScanGeometry,
    VolumeGrid,
    astra_vectors,
    from_astra_vectors,
    from_r2_scanner,
    r2_scanner,
    remembered,
    uniform_angles,
)
from diffnr_lightning.geometry.scan import _poses, _rays

CONE = {
    "angles_rad": uniform_angles(7, 200, 15),
    "source_to_axis_mm": 500.0,
    "source_to_detector_mm": 750.0,
    "detector_shape": (5, 6),
    "pixel_mm": (2.0, 3.0),
    "detector_offset_mm": (1.0, -4.0),
    "axis_mm": (3.0, -2.0),
    "height_mm": 5.0,
}
PARALLEL = {
    key: CONE[key] for key in ("angles_rad", "detector_shape", "pixel_mm", "detector_offset_mm")
}


def scans() -> list[ScanGeometry]:
    tilted = ScanGeometry.cone(**CONE)
    tilt = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    turned = [vectors @ tilt.T for vectors in tilted._vectors()]
    return [tilted, ScanGeometry.parallel(**PARALLEL), ScanGeometry("cone", (5, 6), *turned)]


@pytest.mark.parametrize("scan", scans(), ids=["cone", "parallel", "tilted"])
def test_the_printed_scan_rebuilds_it(scan: ScanGeometry) -> None:
    rebuilt = eval(repr(scan), {"ScanGeometry": ScanGeometry})
    assert rebuilt == scan
    assert hash(rebuilt) == hash(scan)
    assert scan[1:] != scan


def test_scans_that_are_equal_have_one_hash() -> None:
    scan = ScanGeometry.cone(**CONE | {"angles_rad": [0.0]})
    positive = ScanGeometry("cone", (5, 6), *(vectors + 0.0 for vectors in scan._vectors()))
    assert np.signbit(scan.u_mm[0, 0]) and not np.signbit(positive.u_mm[0, 0])
    assert positive == scan and hash(positive) == hash(scan)


def test_row_zero_is_on_top_and_the_source_turns_counter_clockwise() -> None:
    scan = ScanGeometry.cone(
        **{
            **CONE,
            "angles_rad": [0.0, np.pi / 2],
            "axis_mm": (0, 0),
            "height_mm": 0,
            "detector_offset_mm": (0, 0),
        }
    )
    np.testing.assert_allclose(scan.source_mm, [[500, 0, 0], [0, 500, 0]], atol=1e-9)
    np.testing.assert_allclose(scan.detector_mm, [[-250, 0, 0], [0, -250, 0]], atol=1e-9)
    np.testing.assert_allclose(scan.u_mm[0], [0, 3, 0], atol=1e-9)
    np.testing.assert_allclose(scan.v_mm[0], [0, 0, -2], atol=1e-9)
    origins, directions = scan.rays(dtype=torch.float64)
    assert origins.shape == directions.shape == (2, 5, 6, 3)
    assert (directions[:, 0, :, 2] > 0).all() and (directions[:, -1, :, 2] < 0).all()


def test_rays_end_on_their_pixels() -> None:
    scan = ScanGeometry.cone(**CONE)
    origins, directions = scan.rays(dtype=torch.float64)
    view, row, column = 3, 4, 1
    pixel = scan.detector_mm[view] + 2 * scan.v_mm[view] - 1.5 * scan.u_mm[view]
    ray = pixel - scan.source_mm[view]
    np.testing.assert_allclose(directions[view, row, column], ray / np.linalg.norm(ray), atol=1e-12)
    np.testing.assert_allclose(origins[view, row, column], scan.source_mm[view], atol=1e-12)


@pytest.mark.parametrize("scan", [ScanGeometry.cone(**CONE), ScanGeometry.parallel(**PARALLEL)])
def test_rays_are_the_same_of_arrays_and_of_tensors(scan) -> None:
    i, j = (torch.arange(n, dtype=torch.float64) for n in scan.detector_shape)
    parts = _rays(scan.beam, torch.from_numpy(_poses(scan)), i, j)
    for part, expected in zip(parts, scan.rays(dtype=torch.float64), strict=True):
        torch.testing.assert_close(part.expand_as(expected), expected, rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("scan", [ScanGeometry.cone(**CONE), ScanGeometry.parallel(**PARALLEL)])
def test_a_gpu_computes_the_same_rays(scan) -> None:
    for ours, theirs in zip(scan.rays(), scan.rays("cuda"), strict=True):
        assert theirs.is_contiguous() and theirs.dtype == torch.float32
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-6, atol=1e-6)


def test_parallel_rays_keep_their_source_where_float32_knows_it() -> None:
    scan = ScanGeometry.parallel(angles_rad=[0.3, 2.0], detector_shape=(5, 7), pixel_mm=2.0)
    middle = (slice(None), 2, 3)
    np.testing.assert_array_equal(scan.rays()[0][middle], scan.source_mm.astype(np.float32))
    far = replace(scan, source_mm=scan.source_mm - 1e7 * scan.direction)
    origins, directions = (part[middle].double().numpy() for part in far.rays())
    assert 1e3 < np.linalg.norm(origins, axis=1).max() < 1e4
    along = (origins * directions).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(origins - along * directions, 0.0, atol=1e-3)


def test_orbit_recovers_the_scanner() -> None:
    orbit = ScanGeometry.cone(**CONE).orbit
    np.testing.assert_allclose(orbit.angles_rad, CONE["angles_rad"], atol=1e-12)
    for name in (
        "source_to_axis_mm",
        "source_to_detector_mm",
        "pixel_mm",
        "detector_offset_mm",
        "axis_mm",
        "height_mm",
    ):
        np.testing.assert_allclose(getattr(orbit, name), CONE[name], atol=1e-9)
    parallel = ScanGeometry.parallel(**PARALLEL)
    assert parallel.orbit.source_to_axis_mm is None
    np.testing.assert_allclose(parallel.orbit.detector_offset_mm, (1.0, -4.0), atol=1e-9)
    tilted = scans()[2]
    assert tilted.orbit is None and not tilted.rows_along_axis
    helix = ScanGeometry.cone(**{**CONE, "height_mm": np.linspace(0, 30, 7)})
    assert helix.orbit is None and helix.rows_along_axis


def test_views_are_selected() -> None:
    scan = ScanGeometry.cone(**CONE)
    assert scan[[2, 4]] == scan[torch.tensor([2, 4])] == scan[2:5:2]
    mask = np.isin(np.arange(7), [2, 4])
    assert scan[mask] == scan[torch.tensor(mask)] == scan[mask.tolist()] == scan[[2, 4]]
    assert len(scan[3]) == 1
    assert scan[torch.tensor(3)] == scan[np.int64(3)] == scan[3]
    assert [len(view) for view in scan] == [1] * 7


@pytest.mark.parametrize(
    ("views", "error"),
    [
        (7, IndexError),
        (torch.tensor([1.5]), IndexError),
        (torch.ones(3, dtype=torch.bool), IndexError),
        (torch.zeros(7, dtype=torch.bool), ValueError),
        ([], ValueError),
    ],
    ids=str,
)
def test_views_that_are_not_there_are_refused(views, error) -> None:
    with pytest.raises(error):
        ScanGeometry.cone(**CONE)[views]


def test_a_scan_says_what_it_is() -> None:
    scan = ScanGeometry.cone(**CONE)
    assert "7 views over 200 degrees, source to axis 500 mm" in str(scan)
    assert str(scan[2]).startswith("cone beam, 1 view, source to axis")
    assert "mm (root mean square) from those of the nearest circle" in str(
        ScanGeometry.cone(**{**CONE, "height_mm": np.linspace(0, 30, 7)})
    )


WINDOWS = [
    (slice(1, 4), slice(2, 5)),
    (slice(1, None, 2), slice(0, None, 3)),
    (slice(-2, None), slice(3, 4)),
    (slice(None), slice(None)),
]


@pytest.mark.parametrize("scan", scans(), ids=["cone", "parallel", "tilted"])
@pytest.mark.parametrize(("rows", "columns"), WINDOWS, ids=str)
def test_the_rays_of_a_window_are_those_of_its_pixels(scan, rows, columns) -> None:
    window = scan.window(rows, columns)
    for whole, part in zip(
        scan.rays(dtype=torch.float64), window.rays(dtype=torch.float64), strict=True
    ):
        torch.testing.assert_close(part, whole[:, rows, columns])
    assert window.beam == scan.beam
    assert (window == scan) is (rows == columns == slice(None))


@pytest.mark.parametrize("scan", scans(), ids=["cone", "parallel", "tilted"])
def test_a_window_of_a_window_is_a_window(scan) -> None:
    twice = scan.window(slice(1, 5), slice(0, 6, 2)).window(slice(0, 4, 3), slice(1, 3))
    once = scan.window(slice(1, 5, 3), slice(2, 6, 2))
    assert twice.detector_shape == once.detector_shape == (2, 2)
    for a, b in zip(twice._vectors(), once._vectors(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (slice(3, 3), slice(None), "rows of the window is slice(3, 3"),
        (slice(None), slice(9, 20), "columns of the window"),
        (slice(None, None, -1), slice(None), "a positive step"),
    ],
)
def test_windows_without_pixels_are_refused(rows, columns, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        scans()[0].window(rows, columns)


@pytest.mark.parametrize("scan", scans()[:2], ids=["cone", "parallel"])
def test_r2_round_trip(scan: ScanGeometry) -> None:
    grid = VolumeGrid((8, 9, 10), (2.0, 1.0, 1.5), (1.0, 2.0, 3.0))
    again, grid_again = from_r2_scanner(r2_scanner(scan, grid), scan.orbit.angles_rad)
    # The file keeps the volume as seen from the axis: both may have moved, together.
    shift = np.asarray(grid_again.centre_mm) - np.asarray(grid.centre_mm)
    if scan.beam == "cone":
        np.testing.assert_allclose(again.source_mm - shift, scan.source_mm, atol=1e-9)
        np.testing.assert_allclose(again.detector_mm - shift, scan.detector_mm, atol=1e-9)
    np.testing.assert_allclose(again.u_mm, scan.u_mm, atol=1e-9)
    np.testing.assert_allclose(
        again.orbit.detector_offset_mm, scan.orbit.detector_offset_mm, atol=1e-9
    )
    assert grid_again.shape == grid.shape and np.allclose(grid_again.voxel_mm, grid.voxel_mm)


def test_a_scanner_may_hold_arrays() -> None:
    scan = ScanGeometry.cone(
        angles_rad=[0.0, 1.0],
        source_to_axis_mm=100.0,
        source_to_detector_mm=150.0,
        detector_shape=(4, 5),
        pixel_mm=1.0,
        detector_offset_mm=(0.5, -1.0),
    )
    scanner = r2_scanner(scan, VolumeGrid((2, 3, 4), 1.0, (1.0, 2.0, 3.0)))
    arrays = {k: np.array(v) if isinstance(v, list) else v for k, v in scanner.items()}
    angles = scan.orbit.angles_rad
    assert from_r2_scanner(arrays, angles) == from_r2_scanner(scanner, angles)


@pytest.mark.parametrize("scan", scans(), ids=["cone", "parallel", "tilted"])
def test_astra_round_trip(scan: ScanGeometry) -> None:
    again = from_astra_vectors(astra_vectors(scan), scan.detector_shape, scan.beam)
    np.testing.assert_allclose(astra_vectors(again), astra_vectors(scan), atol=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source_to_detector_mm": 400.0}, "were they exchanged"),
        ({"source_to_axis_mm": -1.0}, "positive length"),
        ({"source_to_detector_mm": np.nan}, r"\(DSD\) is nan; a positive length"),
        ({"height_mm": [1.0, 2.0]}, "2 heights and angles_rad .* views"),
        ({"pixel_mm": 0.0}, "pixel_mm"),
        ({"angles_rad": []}, "at least one finite angle"),
        ({"angles_rad": [0.0, np.nan]}, "finite angle"),
        ({"detector_shape": (0, 4)}, "detector_shape"),
        ({"detector_shape": (7.5, 4)}, "detector_shape is .* whole numbers"),
        ({"detector_shape": 9}, "detector_shape"),
    ],
)
def test_contradictions_are_refused_in_words(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScanGeometry.cone(**{**CONE, **change})


def test_what_is_remembered_of_a_scan_is_of_equal_ones_and_does_not_keep_it() -> None:
    asked = []

    @remembered(2)
    def views(scan: ScanGeometry, more: int) -> int:
        asked.append(more)
        return len(scan) + more

    scan = ScanGeometry.cone(**CONE)
    assert views(scan, 1) == views(ScanGeometry.cone(**CONE), 1) == 8
    assert views(scan[:3], 1) == 4
    assert asked == [1, 1]
    alive = weakref.ref(scan)
    del scan
    gc.collect()
    assert alive() is None
