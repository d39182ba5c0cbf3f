"""Scans and grids that the laws of the projectors are checked on."""

import numpy as np
import pytest

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles

DISTANCES = {"source_to_axis_mm": 90.0, "source_to_detector_mm": 140.0}
GRID = VolumeGrid((20, 22, 24), 1.0)
FLAT_GRID = VolumeGrid((14, 26, 22), (1.7, 0.8, 1.1), (2.5, -3.0, 1.5))


def _tilted() -> ScanGeometry:
    """A C-arm that wobbles: in-plane rotation, tilt towards the axis and drifting distances."""
    rng = np.random.default_rng(5)
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(5, 360, 11), detector_shape=(26, 30), pixel_mm=1.6, **DISTANCES
    )

    def wobble(vectors, size):
        return vectors + rng.normal(scale=size, size=vectors.shape)

    return ScanGeometry(
        "cone",
        scan.detector_shape,
        wobble(scan.source_mm, 3.0),
        wobble(scan.detector_mm, 3.0),
        wobble(scan.u_mm, 0.1),
        wobble(scan.v_mm, 0.1),
    )


def _from_above() -> ScanGeometry:
    """Sources all around the object, also straight above it: every axis is a main axis."""
    rng = np.random.default_rng(6)
    outward = rng.normal(size=(6, 3))
    outward[0] = [0.0, 0.0, 1.0]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    u = np.cross(outward, rng.normal(size=(6, 3)))
    u *= 1.5 / np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(outward, u)
    return ScanGeometry("cone", (28, 26), 90 * outward, -50 * outward, u, v)


def _oblique_parallel() -> ScanGeometry:
    """Parallel rays that rise through the object and meet the detector at an angle."""
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(4, 180, 20), detector_shape=(26, 30), pixel_mm=1.0
    )
    source = scan.source_mm + [0.0, 6.0, 14.0]
    return ScanGeometry("parallel", (26, 30), source, scan.detector_mm, scan.u_mm, scan.v_mm)


def _cone(num_views=6, arc_deg=360.0, start_deg=17.0, **changes):
    options = {"detector_shape": (28, 32), "pixel_mm": (1.4, 1.5), **DISTANCES, **changes}
    return ScanGeometry.cone(angles_rad=uniform_angles(num_views, arc_deg, start_deg), **options)


# name: (grid, scan, whether the separable backend serves it)
CASES = {
    "circle": (GRID, _cone(), True),
    "axis_aligned": (GRID, _cone(num_views=4, start_deg=0.0), True),
    "diagonal": (GRID, _cone(num_views=4, start_deg=45.0), True),
    "short_arc": (GRID, _cone(arc_deg=110.0), True),
    "shifted_detector": (GRID, _cone(detector_offset_mm=(3.0, -9.0)), True),
    "shifted_axis": (GRID, _cone(axis_mm=(4.0, -3.0)), True),
    "small_detector": (GRID, _cone(detector_shape=(9, 11)), True),
    "flat_voxels_off_centre": (FLAT_GRID, _cone(), True),
    "helix": (GRID, _cone(height_mm=np.linspace(-6, 6, 6)), True),
    "one_view": (GRID, _cone(num_views=1), True),
    "parallel": (
        FLAT_GRID,
        ScanGeometry.parallel(
            angles_rad=uniform_angles(5, 180, 3),
            detector_shape=(30, 33),
            pixel_mm=(1.1, 0.9),
            detector_offset_mm=(1.0, 2.0),
        ),
        True,
    ),
    "source_close": (
        GRID,
        _cone(source_to_axis_mm=22.0, source_to_detector_mm=60.0, pixel_mm=(1.5, 2.2)),
        True,
    ),
    "tilted": (GRID, _tilted(), False),
    "all_around": (FLAT_GRID, _from_above(), False),
    "oblique_parallel": (GRID, _oblique_parallel(), False),
}


@pytest.fixture(params=list(CASES), scope="session")
def case(request):
    """(grid, scan, backends that serve it)."""
    grid, scan, separable = CASES[request.param]
    return grid, scan, ["reference", "rays"] + ["separable"] * separable


@pytest.fixture(scope="session")
def all_cases():
    """All of them by name."""
    return CASES


@pytest.fixture
def circle():
    """The plain circular scan: (grid, scan)."""
    return CASES["circle"][:2]
