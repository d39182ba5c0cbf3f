"""Cases: simulated from a volume, or made of measured projections."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from diffnr_lightning.data import (
    Noise,
    Scanner,
    measured_case,
    simulate_case,
    write_case,
)
from diffnr_lightning.workflows.volume_sources import load_source

logger = logging.getLogger("diffnr")


def simulate(
    volume: str,
    out: Path,
    num_views: int = 24,
    size: int = 128,
    fit: Literal["volume", "body"] = "volume",
    voxel_mm: float | None = None,
    margin: float = 0.05,
    layout: Literal["uniform", "random", "limited_arc"] = "uniform",
    arc_deg: float | None = None,
    start_deg: float = 0.0,
    window_hu: tuple[float, float] = (-1000.0, 1024.0),
    unit: Literal["auto", "HU", "arbitrary"] = "auto",
    spacing_mm: tuple[float, float, float] | None = None,
    scanner: Scanner = Scanner(),
    noise: Noise = Noise(),
    test_views: int = 16,
    oversampling: int = 2,
    attenuate_outside: bool = True,
    name: str | None = None,
    seed: int | None = None,
    resolved: dict[str, Any] | None = None,
) -> Path:
    """Scan a volume, or a generated object, and write the case.

    Args:
        volume: NIfTI, MHA/MHD, NPY or TIFF file, folder of DICOM or TIFF slices, `phantom:SEED` (a
            generated chest) or `specimen:SEED` (a generated object of other materials).
        out: case folder, in R2-Gaussian's format.
        num_views: training views, at least two.
        size: voxels of the reconstructed cube along each edge.
        fit: cube around the whole volume, or around the largest piece of tissue (above -500 HU).
        voxel_mm: edge of the reconstructed voxels in mm, instead of what `fit` gives.
        margin: air on every side of the body, as a share of the edge of its tightest cube.
        layout: views spread evenly, drawn at random, or evenly over `arc_deg`.
        arc_deg: arc of the views in degrees; null is 360 for cone beam and 180 for parallel beam.
        start_deg: where the arc begins.
        window_hu: HU that become 0 and 1.
        unit: of the file; auto tells HU by the values.
        spacing_mm: voxel edges (z, y, x) of files that do not say (NPY, TIFF).
        scanner: distances and detector.
        noise: photons and read-out noise.
        test_views: noise-free views at random angles, kept for evaluation.
        oversampling: how much finer voxels and pixels of the simulation are.
        attenuate_outside: whether what lies outside the cube attenuates too.
        name: of the case; null takes the volume's.
        seed: of views and noise; null takes a hash of the name.
        resolved: filled in by the command line.

    Returns:
        The case folder.
    """
    loaded = load_source(volume, size, unit, spacing_mm)
    case = simulate_case(
        loaded,
        size=size,
        num_views=num_views,
        layout=layout,
        arc_deg=arc_deg,
        start_deg=start_deg,
        fit=fit,
        voxel_mm=voxel_mm,
        margin=margin,
        window_hu=window_hu,
        scanner=scanner,
        noise=noise,
        test_views=test_views,
        oversampling=oversampling,
        attenuate_outside=attenuate_outside,
        name=name,
        seed=seed,
    )
    write_case(case, out)
    logger.info("%s: %s; %d^3 voxels of %.3g mm", case.name, case.scan, size, case.grid.voxel_mm[0])
    return out


def ingest(
    projections: Path,
    out: Path,
    every: int = 4,
    size: int | None = None,
    axis_column: float | None = None,
    pixel_mm: float | None = None,
    clockwise: bool = False,
    name: str | None = None,
) -> Path:
    """Turn measured projections into a case.

    Args:
        projections: parallel-beam NPZ (`raw`, `flat`, `dark`, `angles_deg`) or DXchange HDF5.
        out: case folder.
        every: each how-manieth view is reconstructed from; the others are held out.
        size: voxels along each edge; null takes the detector's width.
        axis_column: detector column of the rotation axis; null finds it from opposite views.
        pixel_mm: pixel pitch; null is 1.
        clockwise: whether the object turned the other way.
        name: of the case; null takes the file's.

    Returns:
        The case folder.
    """
    case = measured_case(
        projections,
        every=every,
        size=size,
        axis_column=axis_column,
        pixel_mm=pixel_mm,
        clockwise=clockwise,
        name=name,
    )
    write_case(case, out)
    logger.info("%s: %s", case.name, case.scan)
    return out
