"""Measure what FDK loses when views lie beside a circle, kind by kind; prints a table in Markdown.

    python experiments/near_circle/measure.py

Discs of 2.5 voxels, one above the other, suffer most: they change along z, where a circle sees least.
They are projected on a grid twice as fine, 150 views, 60^2 pixels of 1 mm at the axis, 40 voxels
across, source to axis 200 mm.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, nominal_orbit, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import fdk

GRID, FINE = VolumeGrid((32, 40, 40), 1.0), VolumeGrid((64, 80, 80), 0.5)
VIEWS = 150
CIRCLE = ScanGeometry.cone(
    angles_rad=uniform_angles(VIEWS),
    source_to_axis_mm=200.0,
    source_to_detector_mm=300.0,
    detector_shape=(60, 60),
    pixel_mm=1.5,
)


def discs() -> Tensor:
    """Return (Z, Y, X) of five discs and a ball, on the fine grid."""
    points = FINE.points()
    radius, height = points[..., :2].norm(dim=-1), points[..., 2]
    volume = torch.zeros(FINE.shape)
    for centre in (-10, -5, 0, 5, 10):
        volume[(radius < 14) & ((height - centre).abs() < 1.25)] = 1.0
    volume[(points - torch.tensor((5.0, 0.0, 2.5))).norm(dim=-1) < 2] = 1.5
    return volume


def shifted(source: np.ndarray, detector: np.ndarray) -> ScanGeometry:
    """Return the circle with sources and detectors moved by (V, 3) mm."""
    return replace(
        CIRCLE, source_mm=CIRCLE.source_mm + source, detector_mm=CIRCLE.detector_mm + detector
    )


def raised(heights: np.ndarray) -> ScanGeometry:
    """Return the circle with each view at its own height (V,) in mm."""
    rise = heights[:, None] * [0.0, 0.0, 1.0]
    return shifted(rise, rise)


def rolled(degrees: np.ndarray) -> ScanGeometry:
    """Return the circle with detectors turned in their planes by (V,) degrees."""
    cos, sin = np.cos(np.deg2rad(degrees))[:, None], np.sin(np.deg2rad(degrees))[:, None]
    return replace(
        CIRCLE,
        u_mm=CIRCLE.u_mm * cos + CIRCLE.v_mm * sin,
        v_mm=CIRCLE.v_mm * cos - CIRCLE.u_mm * sin,
    )


def deviations() -> dict[str, ScanGeometry]:
    """Return the scans that are compared, by what is wrong with them."""
    rng = np.random.default_rng(0)
    ones, turn = np.ones(VIEWS), uniform_angles(VIEWS)
    scans = {"none": CIRCLE}
    for rise in (5, 10, 20):
        scans[f"helix, {rise} mm a turn"] = raised(np.linspace(-rise / 2, rise / 2, VIEWS))
    for rise in (2, 5, 7.5):
        scans[f"saddle, {rise} mm up and down"] = raised(rise * np.cos(2 * turn))
    for size in (0.5, 1, 2, 4):
        moves = rng.normal(scale=size, size=(2, VIEWS, 3))
        scans[f"source and detector scattered by {size} mm"] = shifted(*moves)
    for degrees in (1, 2, 3, 5, 10):
        scans[f"detector rolled by {degrees} degrees"] = rolled(degrees * ones)
    for degrees in (1, 3, 5):
        scans[f"rolls scattered by {degrees} degrees"] = rolled(degrees * rng.normal(size=VIEWS))
    return scans


def main() -> None:
    """Print residual and error of every scan."""
    # Scans that are refused are measured too. The package hides the module behind its functions.
    importlib.import_module("diffnr_lightning.solvers.circular").LARGEST_RESIDUAL = np.inf
    volume = discs()
    truth = torch.nn.functional.avg_pool3d(volume[None], 2)[0]
    field = GRID.points()[..., :2].norm(dim=-1) < 19
    print("| deviation | residual in mm | share of the radius | error |\n|---|---|---|---|")
    for name, scan in deviations().items():
        nominal = nominal_orbit(scan)
        found = fdk(project(volume, FINE, scan), GRID, scan)
        error = float((found - truth)[field].square().mean().sqrt())
        share = f"{100 * nominal.residual_share:.1f} %"
        print(f"| {name} | {nominal.residual_mm:.2f} | {share} | {error:.3f} |", flush=True)


if __name__ == "__main__":
    main()
