"""Tables and pages of finished runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from diffnr_lightning.workflows.command_line.signature import exists, file_to_be, folder_to_be
from diffnr_lightning.workflows.runs.downstream import LungSegmenter, Task, score_task

logger = logging.getLogger("diffnr")


def evaluate(
    runs: list[Path],
    out: Annotated[Path | None, folder_to_be("table")] = None,
    paper: Annotated[Path | None, exists("the file of published numbers")] = None,
    baseline: str | None = None,
    earlier: Annotated[Path | None, exists("the earlier table")] = None,
    downstream: Task | None = None,
    segmenter: LungSegmenter = "auto",
    regions: Annotated[Path | None, exists("the file of regions")] = None,
) -> None:
    """Print one table of finished runs under every metric protocol.

    Args:
        runs: run folders, or folders of run folders.
        out: folder for the table as Markdown and CSV; null only prints.
        paper: CSV file of published numbers, such as experiments/main_job/paper.csv; they stand below ours of the same
            method and number of views, with the difference where they are of one set of data.
        baseline: method with which the others are compared case by case.
        earlier: CSV file that this command wrote before; its rows stay beside those of the runs, which take the places
            of rows of the same method, case and scan, and means are made anew. For runs that are gone.
        downstream: a task on every volume whose truth is known, whose results are kept in downstream.json beside it and
            become columns: lungs compares the lungs that are found in it and in the true volume; regions compares
            means, deviations, contrasts and profiles of regions.
        segmenter: of the lungs: embedded, lungmask (LungMask's network, a package of its own), or auto, which takes
            lungmask where it is installed.
        regions: YAML file of regions, or a folder with CASE.yaml for each case, see docs/tables.md; null finds flat
            ones in the true volume.

    Raises:
        ImportError: lungmask is not installed.
        ValueError: no finished run, no run of the baseline, published numbers or an earlier table that cannot be
            read, a segmenter or regions without their task, or regions outside of the volume.
    """
    from diffnr_lightning.reports import print_table, read_earlier, read_runs, write_tables

    if segmenter != "auto" and downstream != "lungs":
        raise ValueError(
            f"segmenter is {segmenter}, but downstream is {downstream}; --downstream lungs is expected with it."
        )
    found = read_runs(runs)
    if regions is not None and downstream != "regions":
        raise ValueError(
            f"regions is {regions}, but downstream is {downstream}; --downstream regions is expected with it."
        )
    if downstream is not None:
        score_task(downstream, found, segmenter, regions)
        found = read_runs(runs)
    before = None if earlier is None else read_earlier(earlier)
    print_table(found, baseline=baseline, paper=paper, earlier=before)
    if out is not None:
        write_tables(found, out, baseline=baseline, paper=paper, earlier=before)
        logger.info("%s: the table as Markdown and CSV", out)


def report(
    runs: list[Path],
    out: Annotated[Path, file_to_be("page")] = Path("report.html"),
    paper: Annotated[Path | None, exists("the file of published numbers")] = None,
    baseline: str | None = None,
) -> Path:
    """Write one self-contained HTML page that compares runs.

    Args:
        runs: run folders of one or several cases, or folders of run folders. Those without their volume are in tables
            alone.
        out: the HTML file; a name that ends in .png gets a picture of the first case's middle slices instead.
        paper: CSV file of published numbers, see `diffnr evaluate`; not for pictures.
        baseline: method with which the others are compared case by case; not for pictures.

    Raises:
        ValueError: no finished run, no run of the baseline, published numbers that cannot be read, or a file of another
            kind.
    """
    from diffnr_lightning.reports import read_runs, write_comparison, write_page
    from diffnr_lightning.reports.runs import having_volumes
    from diffnr_lightning.reports.table_rows import counted

    if out.suffix.lower() not in (".html", ".htm", ".png"):
        raise ValueError(f"out is {out}; a name that ends in .html or .png is expected.")
    for name, value in (("paper", paper), ("baseline", baseline)):
        if value is not None and out.suffix.lower() == ".png":
            raise ValueError(
                f"{name} is {value}, and out {out}, a picture without numbers; a name that ends in .html is expected "
                "with it."
            )
    found = read_runs(runs)
    if out.suffix.lower() == ".png":
        found = having_volumes(found)
        cases = list(dict.fromkeys(run.case for run in found))
        if len(cases) > 1:
            logger.info("the picture is of %s, without %s.", cases[0], ", ".join(cases[1:]))
        found = [run for run in found if run.case == cases[0]]
        written = write_comparison(found, out)
    else:
        written = write_page(found, out, baseline=baseline, paper=paper)
    of = counted(len({run.case for run in found}), "case")
    logger.info("%s: %s of %s", written, counted(len(found), "run"), of)
    return written
