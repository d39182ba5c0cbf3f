"""Cases: simulated from a volume, or made of measured projections."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from diffnr_lightning.data import ScanRecipe, measured_case, simulate_case, write_case
from diffnr_lightning.workflows.settings import Flatten
from diffnr_lightning.workflows.volume_sources import load_source

logger = logging.getLogger("diffnr")


def simulate(
    volume: str,
    out: Path,
    recipe: Annotated[ScanRecipe, Flatten()] = ScanRecipe(),
    name: str | None = None,
    seed: int | None = None,
) -> Path:
    """Scan a volume, or a generated object, and write the case.

    Args:
        volume: NIfTI, MHA/MHD, NPY or TIFF file, folder of DICOM or TIFF slices, `phantom:SEED` (a
            generated chest) or `specimen:SEED` (a generated object of other materials).
        out: case folder, in R2-Gaussian's format.
        recipe: cube, views, scanner and noise; options of their own on the command line.
        name: of the case; null takes the volume's.
        seed: of views and noise; null takes a hash of the name.

    Returns:
        The case folder.
    """
    case = simulate_case(load_source(volume, recipe), recipe, name, seed)
    write_case(case, out)
    edge = case.grid.voxel_mm[0]
    logger.info("%s: %s; %d^3 voxels of %.3g mm", case.name, case.scan, recipe.size, edge)
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
