"""Gaussians and scans that the laws of the representations are checked on."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles

GRID = VolumeGrid((18, 22, 20), (1.9, 1.5, 1.7), (3.0, -2.0, 1.0))
DETECTOR = {"detector_shape": (25, 30), "pixel_mm": (2.3, 2.0), "axis_mm": (3.0, -2.0)}
DISTANCES = {"source_to_axis_mm": 90.0, "source_to_detector_mm": 120.0}


def _cone(num_views=3, **changes):
    angles = uniform_angles(num_views, 360, 17)
    return ScanGeometry.cone(angles_rad=angles, **{**DETECTOR, **DISTANCES, **changes})


def _parallel(**changes):
    return ScanGeometry.parallel(angles_rad=uniform_angles(3, 180, 5), **{**DETECTOR, **changes})


def _wobbling():
    """A C-arm whose detector tilts, turns in its plane and whose pixels are not quite square."""
    rng = np.random.default_rng(5)
    scan = _cone()

    def wobble(vectors, size):
        return vectors + rng.normal(scale=size, size=vectors.shape)

    return ScanGeometry(
        "cone",
        scan.detector_shape,
        wobble(scan.source_mm, 3.0),
        wobble(scan.detector_mm, 3.0),
        wobble(scan.u_mm, 0.15),
        wobble(scan.v_mm, 0.15),
    )


def _oblique():
    """Parallel rays that meet a skewed detector at an angle."""
    scan = _parallel()
    return ScanGeometry(
        "parallel",
        scan.detector_shape,
        scan.source_mm + [0.0, 12.0, 25.0],
        scan.detector_mm,
        scan.u_mm + [0.0, 0.0, 0.3],
        scan.v_mm,
    )


SCANS = {
    "cone": _cone(),
    "cone, shifted detector": _cone(detector_offset_mm=(3.0, -9.0)),
    "cone, helix": _cone(height_mm=np.linspace(-4, 4, 3)),
    "cone, wobbling": _wobbling(),
    "parallel": _parallel(),
    "parallel, shifted detector": _parallel(detector_offset_mm=(2.0, 7.0)),
    "parallel, oblique": _oblique(),
}


@pytest.fixture
def scans():
    """All scans by name."""
    return SCANS


@pytest.fixture(params=list(SCANS))
def scan(request):
    return SCANS[request.param]


@pytest.fixture(params=[name for name in SCANS if name.startswith("parallel")])
def parallel_scan(request):
    return SCANS[request.param]


@pytest.fixture
def cone_scan():
    return SCANS["cone"]


@pytest.fixture
def grid():
    return GRID


@pytest.fixture
def gaussians():
    """A function that draws Gaussians in and a little around the grid."""

    def draw(count=60, seed=0, smallest=0.8, largest=4.0, spread=0.55, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.tensor(GRID.size_mm[::-1], dtype=torch.float64)
        uniform = torch.rand(count, 8, generator=generator, dtype=torch.float64)
        positions = torch.tensor(GRID.centre_mm) + 2 * spread * (uniform[:, :3] - 0.5) * sizes
        scales = smallest * (largest / smallest) ** uniform[:, 3:6]
        quaternions = torch.randn(count, 4, generator=generator, dtype=torch.float64)
        densities = 0.05 + uniform[:, 6]
        parts = positions, scales, F.normalize(quaternions, dim=1), densities
        return tuple(part.to(dtype) for part in parts)

    return draw


@pytest.fixture(scope="session")
def ball_scene():
    """Grid, scan, truth and exact projections of two soft balls, of peak 1 and 0.6."""
    grid = VolumeGrid((20, 20, 20), 2.0, (3.0, -2.0, 1.0))
    scan = _cone(24, detector_shape=(24, 24), pixel_mm=2.8)
    rays = scan.rays(dtype=torch.float64)
    truth, projections = 0.0, 0.0
    for peak, width, middle in ((1.0, 5.0, (0.0, -6.0, 4.0)), (0.6, 3.5, (10.0, 4.0, -5.0))):
        centre = torch.tensor(middle, dtype=torch.float64)
        squares = (grid.points(dtype=torch.float64) - centre).square().sum(-1)
        truth = truth + peak * torch.exp(-squares / (2 * width**2))
        offset = rays[0] - centre
        squares = offset.square().sum(-1) - (offset * rays[1]).sum(-1).square()
        projections = projections + peak * width * np.sqrt(2 * np.pi) * torch.exp(
            -squares / (2 * width**2)
        )
    return grid, scan, truth.float(), projections.float()
