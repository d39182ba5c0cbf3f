"""Tables and pages of finished runs."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger("diffnr")


def evaluate(runs: list[Path], out: Path | None = None) -> None:
    """Print one table of finished runs under every metric protocol.

    Args:
        runs: run folders, or folders of run folders.
        out: folder for the table as Markdown and CSV; null only prints.
    """
    from diffnr_lightning.reports import print_table, read_runs, write_tables

    found = read_runs(runs)
    print_table(found)
    if out is not None:
        write_tables(found, out)
        logger.info("%s: the table as Markdown and CSV", out)


def report(runs: list[Path], out: Path = Path("report.html")) -> Path:
    """Write one self-contained HTML page that compares runs.

    Args:
        runs: run folders of one or several cases, or folders of run folders.
        out: the HTML file; a name that ends in .png gets a picture of the first case's middle slices instead.
    """
    from diffnr_lightning.reports import read_runs, write_comparison, write_page

    found = read_runs(runs)
    written = write_comparison(found, out) if out.suffix == ".png" else write_page(found, out)
    cases = len({run.case for run in found})
    logger.info("%s: %d runs of %d cases", written, len(found), cases)
    return written
