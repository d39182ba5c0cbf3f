"""The main job in one command: a generated chest, reconstructed in several ways."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from diffnr_lightning.workflows.cases.scanned_case import scanned_case
from diffnr_lightning.workflows.command_line.config_files import method_name
from diffnr_lightning.workflows.command_line.settings import configured
from diffnr_lightning.workflows.command_line.signature import folder_to_be
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.scanning import simulate

logger = logging.getLogger("diffnr")

METHODS = ("fdk", "asd_pocs", "r2gaussian", "r2gaussian+diffnr/align")


def demo(
    out: Annotated[Path, folder_to_be("demo")] = Path("runs/demo"),
    size: int = 128,
    num_views: int = 24,
    seed: int = 1,
) -> Path:
    """Reconstruct a generated chest in several ways and compare them.

    Args:
        out: folder for the case, the runs and the report.
        size: voxels along each edge.
        num_views: projections.
        seed: of the chest; the shipped SliceFixer was trained on chests of other seeds.

    Returns:
        The report.

    Raises:
        ValueError: the folder holds a demo of another size, number of views or seed.
    """
    from diffnr_lightning.reports import print_table, read_runs, write_comparison, write_page

    scan = {"volume": f"phantom:{seed}", "size": size, "num_views": num_views, "out": out / "case"}
    case = scanned_case(configured(simulate, ["data/demo"], scan))
    folders = [out / method_name(method) for method in METHODS]
    for method, folder in zip(METHODS, folders, strict=True):
        reconstruct(**configured(reconstruct, [method], {"case": case, "out": folder}).arguments)
    runs = read_runs(folders)
    print_table(runs)
    write_comparison(runs, out / "comparison.png")
    page = write_page(runs, out / "report.html")
    logger.info("pictures: %s\nreport:   %s", out / "comparison.png", page)
    return page
