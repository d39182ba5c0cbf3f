"""Cases: simulated from a volume, or made of measured projections."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from diffnr_lightning.data import MeasuredScanner, Readout, ScanRecipe, is_generated
from diffnr_lightning.data.datasets import load_source, source_sha256
from diffnr_lightning.workflows.command_line.settings import Flatten
from diffnr_lightning.workflows.command_line.signature import at_least, case_to_be

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
    scanner: Annotated[MeasuredScanner, Flatten()] = MeasuredScanner(),
    flat: float | Path | None = None,
    dark: float | Path | None = None,
    line_integrals: bool = False,
    readout: Annotated[Readout, Flatten()] = Readout(),
    every: int = 4,
    held_out: int | None = None,
    size: int | None = None,
    air_border: Literal["auto", "none", "left", "right", "top", "bottom"] = "auto",
    name: str | None = None,
) -> Path:
    """Turn measured projections into a case.

    Args:
        projections: NPZ (`raw`, `flat`, `dark`, `angles_deg` or `angles_rad`) or DXchange HDF5 of a whole scan; or
            images alone: a folder of TIFF images, a TIFF or NPY stack, MHA, MHD or NRRD. Counts, or views that were
            divided by the flat field already (flat = 1, dark = 0).
        out: case folder.
        scanner: beam, detector and angles; options of their own on the command line.
        flat: counts without object beside images alone: a file or folder of one or more images, or a number.
        dark: counts without beam, likewise.
        line_integrals: whether images alone are -log of the transmission already.
        readout: how the images are turned and binned; options of their own on the command line.
        every: one view in so many is reconstructed from; the others are held out.
        held_out: how many of the others are kept, evenly spread; null keeps all.
        size: voxels along x and y; null makes voxels as large as pixels, scaled down to the axis.
        air_border: border of the images that is air in every view, to which they are scaled; auto
            takes the brightest if it is even, none scales nothing (sample wider than the detector).
        name: of the case; null takes the file's.

    Returns:
        The case folder.
    """
    from diffnr_lightning.data import measured_case, write_case

    case = measured_case(
        projections,
        scanner=scanner,
        flat=flat,
        dark=dark,
        line_integrals=line_integrals,
        readout=readout,
        every=every,
        held_out=held_out,
        size=size,
        air_border=air_border,
        name=name,
    )
    write_case(case, out)
    voxels = "x".join(map(str, case.grid.shape))
    logger.info("%s: %s; %s voxels of %.3g mm", case.name, case.scan, voxels, case.grid.voxel_mm[0])
    return out
