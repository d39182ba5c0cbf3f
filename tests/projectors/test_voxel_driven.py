"""Weighted backprojection, which looks up the pixel that each voxel is seen in."""

import numpy as np
import torch
from operators import random_pair, relative

from diffnr_lightning.geometry import ScanGeometry
from diffnr_lightning.projectors import weighted_backproject


def test_weighted_backprojection_agrees_with_the_reference(case):
    grid, scan, _ = case
    _, filtered = random_pair(grid, scan)
    weight = np.linspace(0.5, 1.5, len(scan)) * (200.0 if scan.beam == "cone" else 1.0)
    expected = weighted_backproject(filtered.double(), grid, scan, "reference", weight=weight)
    for backend in ("separable", "rays"):
        if backend == "rays" or scan.rows_along_axis:
            actual = weighted_backproject(filtered, grid, scan, backend, weight=weight)
            assert relative(actual, expected) < 1e-5


def test_skew_pixels_are_looked_up_where_they_are(circle):
    """Values that are a function of the ray, sampled by skew pixels and by straight ones."""
    grid, scan = circle
    volumes = []
    for skew in (0.0, 0.3):
        posed = ScanGeometry(
            "cone",
            (80, 90),
            scan.source_mm,
            scan.detector_mm,
            scan.u_mm,
            scan.v_mm + skew * scan.u_mm,
        )
        _, directions = posed.rays(dtype=torch.float64)
        elevation = directions[..., 2] / directions[..., :2].norm(dim=-1)
        volumes.append(weighted_backproject(elevation, grid, posed, "reference"))
        numba = weighted_backproject(elevation.float(), grid, posed, "rays")
        assert relative(numba, volumes[-1]) < 1e-5
    assert relative(volumes[1], volumes[0]) < 1e-3
