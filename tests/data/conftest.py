from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from diffnr_lightning.data import Case, LoadedVolume
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid


class Ellipsoid:
    """An ellipsoid in air: as a volume in HU, and its line integrals in closed form."""

    def __init__(self, semi_axes_mm, centre_mm=(0.0, 0.0, 0.0), density=0.5):
        self.semi_axes = np.asarray(semi_axes_mm, dtype=float)  # x, y, z
        self.centre = np.asarray(centre_mm, dtype=float)
        self.density = density

    def loaded(self, shape, spacing_mm, window=(-1000.0, 1024.0), finer=4) -> LoadedVolume:
        """Voxels hold their mean over finer^3 samples, so the edge is not jagged."""
        spacing = np.asarray(spacing_mm, dtype=float)
        axes = [
            ((np.arange(n * finer) + 0.5) / finer - 0.5 * n) * edge
            for n, edge in zip(shape, spacing, strict=True)
        ]
        z, y, x = (
            ((axis - c) / s) ** 2
            for axis, c, s in zip(axes, self.centre[::-1], self.semi_axes[::-1], strict=True)
        )
        inside = (z[:, None, None] + y[None, :, None] + x[None, None, :] <= 1).astype(np.float32)
        blocks = inside.reshape(shape[0], finer, shape[1], finer, shape[2], finer)
        density = self.density * blocks.mean(axis=(1, 3, 5))
        array = (window[0] + density * (window[1] - window[0])).astype(np.float32)
        return LoadedVolume(array, tuple(spacing), "HU", "ellipsoid", source="closed form")

    def line_integrals(self, scan: ScanGeometry, shift_mm=(0.0, 0.0, 0.0)) -> np.ndarray:
        origins, directions = (t.numpy() for t in scan.rays(dtype=torch.float64))
        o = (origins - self.centre - np.asarray(shift_mm)) / self.semi_axes
        d = directions / self.semi_axes
        dd, od, oo = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1)
        return self.density * 2 * np.sqrt(np.maximum(od**2 - dd * (oo - 1), 0)) / dd


@pytest.fixture
def ellipsoid() -> type[Ellipsoid]:
    return Ellipsoid


@pytest.fixture
def small_case() -> Case:
    """A case of random numbers in which every axis has another length."""
    generator = torch.Generator().manual_seed(3)
    scan = ScanGeometry.cone(
        angles_rad=[0.1, 1.0, 2.5, 4.0, 6.0],
        source_to_axis_mm=500.0,
        source_to_detector_mm=750.0,
        detector_shape=(6, 9),
        pixel_mm=(3.0, 2.0),
        detector_offset_mm=(1.5, -4.0),
    )
    test_scan = ScanGeometry.cone(
        angles_rad=[0.5, 3.0],
        source_to_axis_mm=500.0,
        source_to_detector_mm=750.0,
        detector_shape=(6, 9),
        pixel_mm=(3.0, 2.0),
        detector_offset_mm=(1.5, -4.0),
    )
    return Case(
        name="small",
        scan=scan,
        projections=torch.rand(5, 6, 9, generator=generator),
        grid=VolumeGrid((4, 5, 7), (2.0, 1.0, 1.5), (3.0, -2.0, 1.0)),
        test_scan=test_scan,
        test_projections=torch.rand(2, 6, 9, generator=generator),
        volume=torch.rand(4, 5, 7, generator=generator),
        window_hu=(-1000.0, 1024.0),
        unit="HU",
        seed=42,
        source="a test",
        provenance={"kind": "simulated", "frame_origin_mm": [1.0, 2.0, 3.0]},
    )


@pytest.fixture
def one_sentence() -> Callable[[pytest.ExceptionInfo], str]:
    """Return the message after checking that a command line could print it as it is."""

    def check(error: pytest.ExceptionInfo) -> str:
        text = str(error.value)
        assert "\n" not in text
        assert text.endswith((".", "?"))
        return text

    return check
