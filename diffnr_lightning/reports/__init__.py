"""Reports on run folders: tables, figures and a self-contained page."""

from diffnr_lightning.reports.figures import preview, slice_panels, write_comparison
from diffnr_lightning.reports.page import write_page
from diffnr_lightning.reports.runs import (
    RunSummary,
    ShownVolume,
    read_run,
    read_runs,
    read_truth,
    read_volume,
)
from diffnr_lightning.reports.table_forms import print_table, to_markdown, write_csv, write_tables
from diffnr_lightning.reports.tables import ScoreTable, score_table

__all__ = [
    "RunSummary",
    "ScoreTable",
    "ShownVolume",
    "preview",
    "print_table",
    "read_run",
    "read_runs",
    "read_truth",
    "read_volume",
    "score_table",
    "slice_panels",
    "to_markdown",
    "write_comparison",
    "write_csv",
    "write_page",
    "write_tables",
]
