"""Cases: simulated from a volume, or made of measured projections."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from diffnr_lightning.data import ScanRecipe, is_generated
from diffnr_lightning.data.datasets import load_source, source_sha256
from diffnr_lightning.workflows.settings import Flatten
from diffnr_lightning.workflows.signature import at_least, case_to_be

logger = logging.getLogger("diffnr")

SOURCE_HASH = "source_sha256"
"""Key of the hash of the volume's files in the provenance of a case."""


def simulate(
    volume: str,
    out: Annotated[Path, case_to_be()],
    recipe: Annotated[ScanRecipe, Flatten()] = ScanRecipe(),
    name: str | None = None,
    seed: Annotated[int | None, at_least(0, "seed")] = None,
) -> Path:
    """Scan a volume, or a generated object, and write the case.

    Args:
        volume: NIfTI, MHA/MHD, NPY or TIFF file, folder of DICOM or TIFF slices, `phantom:SEED` (a
            generated chest), `specimen:SEED` (a generated object of other materials) or `ellipsoids:SEED`.
        out: case folder, in R2-Gaussian's format.
        recipe: cube, views, scanner and noise; options of their own on the command line.
        name: of the case; null takes the volume's.
        seed: of views and noise; null takes a hash of the name.

    Returns:
        The case folder.

    Raises:
        ValueError: a spacing or unit for an object that is generated, or what makes no scan.
    """
    if is_generated(volume) and (recipe.spacing_mm is not None or recipe.unit == "arbitrary"):
        raise ValueError(
            f"volume is {volume}, which is generated in HU with voxels of its own; leave out "
            "spacing_mm and unit, which are for files."
        )
    loaded = load_source(volume, recipe)

    from diffnr_lightning.data import simulate_case, write_case

    case = simulate_case(loaded, recipe, name, seed)
    case.provenance[SOURCE_HASH] = source_sha256(volume)
    write_case(case, out)
    voxels = f"{recipe.size}^3" if recipe.slices is None else "x".join(map(str, recipe.shape))
    logger.info("%s: %s; %s voxels of %.3g mm", case.name, case.scan, voxels, case.grid.voxel_mm[0])
    return out


def ingest(
    projections: Path,
    out: Annotated[Path, case_to_be()],
    every: int = 4,
    size: int | None = None,
    axis_column: float | None = None,
    pixel_mm: float | None = None,
    clockwise: bool = False,
    angle_unit: Literal["file", "deg", "rad"] = "file",
    air_border: Literal["auto", "none", "left", "right", "top", "bottom"] = "auto",
    name: str | None = None,
) -> Path:
    """Turn measured projections into a case.

    Args:
        projections: parallel-beam NPZ (`raw`, `flat`, `dark`, `angles_deg` or `angles_rad`) or
            DXchange HDF5; counts, or views that were divided by the flat field already (flat = 1,
            dark = 0).
        out: case folder.
        every: one view in so many is reconstructed from; the others are held out.
        size: voxels along x and y; null makes voxels as large as pixels.
        axis_column: detector column of the rotation axis, counted from 0; null finds it from
            opposite views.
        pixel_mm: pixel pitch in mm; null is 1, and the result is per pixel.
        clockwise: whether the object turned the other way.
        angle_unit: of the angles; file takes what the file says.
        air_border: border of the images that is air in every view, to which they are scaled; auto
            takes the brightest if it is even, none scales nothing (sample wider than the detector).
        name: of the case; null takes the file's.

    Returns:
        The case folder.
    """
    from diffnr_lightning.data import measured_case, write_case

    case = measured_case(
        projections,
        every=every,
        size=size,
        axis_column=axis_column,
        pixel_mm=pixel_mm,
        clockwise=clockwise,
        angle_unit=angle_unit,
        air_border=air_border,
        name=name,
    )
    write_case(case, out)
    logger.info("%s: %s", case.name, case.scan)
    return out
