"""Whether the rays of a scan meet a volume, against the rays themselves."""

import itertools

import numpy as np
import pytest
import torch

from diffnr_lightning.geometry import (
    ScanGeometry,
    VolumeGrid,
    check_scan_sees_grid,
    uniform_angles,
)
from diffnr_lightning.geometry.visibility import views_that_see

CONE = {
    "angles_rad": uniform_angles(7, 200, 15),
    "source_to_axis_mm": 500.0,
    "source_to_detector_mm": 750.0,
    "detector_shape": (5, 6),
    "pixel_mm": (20.0, 30.0),
}


def rays_that_meet(scan: ScanGeometry, grid: VolumeGrid) -> np.ndarray:
    """(V,) whether any ray enters the box ahead of the source, by the slabs of the box."""
    origins, directions = scan.rays(dtype=torch.float64)
    low, high = (torch.tensor(c, dtype=torch.float64) for c in grid.corners_mm)
    first, second = (low - origins) / directions, (high - origins) / directions
    enter = torch.minimum(first, second).amax(dim=-1)
    leave = torch.maximum(first, second).amin(dim=-1)
    if scan.beam == "cone":
        enter = enter.clamp_min(0.0)
    return (enter < leave).flatten(1).any(dim=1).numpy()


def posed(rng: np.random.Generator, beam: str) -> ScanGeometry:
    """Views from everywhere, detectors turned anyhow, fine pixels: no box slips between two rays."""
    source = rng.normal(size=(12, 3)) * 60.0
    towards = rng.normal(size=(12, 3)) * 20.0 - source
    towards *= 120.0 / np.linalg.norm(towards, axis=1, keepdims=True)
    u = np.cross(towards, rng.normal(size=(12, 3)))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(towards, u)
    v *= 0.8 / np.linalg.norm(v, axis=1, keepdims=True)
    return ScanGeometry(beam, (60, 50), source, source + towards, u, v + 0.2 * u)


@pytest.mark.parametrize("beam", ["cone", "parallel"])
@pytest.mark.parametrize("seed", range(6))
def test_beams_meet_a_box_where_one_of_their_rays_does(beam, seed) -> None:
    rng = np.random.default_rng(seed)
    scan = posed(rng, beam)
    seen = []
    for shape, centre in itertools.product(
        [(10, 20, 30), (4, 60, 4)], rng.normal(size=(6, 3)) * 40
    ):
        grid = VolumeGrid(shape, 1.0, centre)
        outside = ~(
            (scan.source_mm > grid.corners_mm[0]) & (scan.source_mm < grid.corners_mm[1])
        ).all(1)
        expected, actual = rays_that_meet(scan, grid), views_that_see(scan, grid)
        # Between the last ray and the edge of the pyramid there is nothing: the corner pixels span it.
        assert (actual >= expected)[outside].all()
        seen.append((actual == expected)[outside].mean())
    assert np.mean(seen) > 0.98


def test_a_scan_that_cannot_see_the_volume_is_refused() -> None:
    scan = ScanGeometry.cone(**CONE)
    check_scan_sees_grid(scan, VolumeGrid((8, 8, 8), 2.0))
    with pytest.raises(ValueError, match="inside the volume"):
        check_scan_sees_grid(scan, VolumeGrid((8, 8, 8), 200.0))
    with pytest.raises(ValueError, match="no ray"):
        check_scan_sees_grid(scan, VolumeGrid((8, 8, 8), 2.0, (0.0, 0.0, 4000.0)))


def test_a_volume_behind_the_sources_is_refused() -> None:
    # From source to detector and on, so that every line through the volume leads away from it.
    scan = ScanGeometry.cone(**{**CONE, "angles_rad": [0.0, 0.1, -0.1]})
    check_scan_sees_grid(scan, VolumeGrid((8, 8, 8), 2.0, (-600.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match="no ray"):
        check_scan_sees_grid(scan, VolumeGrid((8, 8, 8), 2.0, (600.0, 0.0, 0.0)))
    parallel = ScanGeometry.parallel(angles_rad=[0.0], detector_shape=(5, 6), pixel_mm=20.0)
    check_scan_sees_grid(parallel, VolumeGrid((8, 8, 8), 2.0, (600.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match="no ray"):
        check_scan_sees_grid(parallel, VolumeGrid((8, 8, 8), 2.0, (0.0, 600.0, 0.0)))


def test_seeing_does_not_count_pixels() -> None:
    """720 views of 2048^2 pixels: 3 * 10^9 rays, of which none is made."""
    scan = ScanGeometry.cone(
        **{
            **CONE,
            "angles_rad": uniform_angles(720),
            "detector_shape": (2048, 2048),
            "pixel_mm": 0.1,
        }
    )
    assert views_that_see(scan, VolumeGrid((8, 8, 8), 2.0)).all()
