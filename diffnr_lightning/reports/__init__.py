"""Reports on run folders: tables, figures and a self-contained page."""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "earlier_table": ["EarlierTable", "read_earlier"],
        "figures": ["preview", "profile_curves", "slice_panels", "write_comparison"],
        "page": ["write_page"],
        "paper_table": [
            "RowRuns",
            "paper_lines",
            "plain_lines",
            "print_paper_table",
            "remarks_without_lines",
            "write_paper_table",
        ],
        "provenance": ["provenance_in_words", "write_provenance"],
        "published": ["PublishedNumber", "read_published"],
        "runs": ["RunSummary", "ShownVolume", "read_run", "read_runs", "read_truth", "read_volume"],
        "table_forms": ["plain_rows", "print_table", "to_markdown", "write_csv", "write_tables"],
        "table_rows": ["ScoreTable"],
        "tables": ["score_table"],
    },
)
