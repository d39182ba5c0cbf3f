import csv
import io
import math

import pytest
from rich.console import Console

from diffnr_lightning.reports import (
    RunSummary,
    print_table,
    read_runs,
    score_table,
    to_markdown,
    write_tables,
)


def runs_of(scores):
    """Build summaries from {method: {case: psnr}}."""
    return [
        RunSummary(
            folder=None, case=case, method=method, protocols={"r2": {"psnr": psnr, "ssim": 0.9}}
        )
        for method, cases in scores.items()
        for case, psnr in cases.items()
    ]


def test_means_and_best(run_folders):
    table = score_table(read_runs(run_folders))
    means = {row.method: row for row in table.means}
    first, second = 20.0, -20 * math.log10(0.05)
    assert means["FDK"].values["r2_psnr"] == pytest.approx((first + second) / 2, abs=1e-3)
    assert means["FDK"].count == 2
    assert means["DiffNR"].values["r2_psnr"] == pytest.approx(40, abs=1e-2)
    low, high = means["FDK"].intervals["r2_psnr"]
    assert low == pytest.approx(first, abs=1e-3)
    assert high == pytest.approx(second, abs=1e-3)
    # Held-out views are known for DiffNR alone.
    assert "views_psnr" not in means["FDK"].values
    assert means["DiffNR"].values["views_psnr"] == 41
    assert [c.key for c in table.columns][:6] == [
        "r2_psnr",
        "r2_ssim",
        "naf_psnr",
        "naf_ssim",
        "strict_psnr",
        "strict_ssim",
    ]


def test_a_mean_never_covers_some_cases_only():
    runs = runs_of({"A": {"one": 30.0, "two": 32.0}})
    runs[1] = RunSummary(folder=None, case="two", method="A")
    assert "r2_psnr" not in score_table(runs).means[0].values


def test_baseline_is_compared_case_by_case():
    runs = runs_of(
        {"G": {"one": 30.0, "two": 40.0, "other": 10.0}, "D": {"two": 43.0, "one": 32.0}}
    )
    notes = score_table(runs, baseline="G").notes
    assert any("D against G: +2.50 dB" in n and "2 of 2 cases" in n for n in notes)
    assert any("not run on the same cases" in n for n in notes)
    with pytest.raises(ValueError, match="baseline 'X'"):
        score_table(runs, baseline="X")


def test_published_numbers_stand_below_ours(tmp_path):
    paper = tmp_path / "paper.csv"
    paper.write_text("method,protocol,psnr,ssim\nD,r2,28.82,0.822\nNAF,naf,23.85,0.712\n")
    table = score_table(runs_of({"G": {"one": 30.0}, "D": {"one": 31.0}}), paper=paper)
    rows = [(row.method, row.published) for row in table.means]
    assert rows == [("G", False), ("D", False), ("D", True), ("NAF", True)]
    assert table.means[2].values == {"r2_psnr": 28.82, "r2_ssim": 0.822}
    assert "| D (paper) | 28.82 | 0.822 |" in to_markdown(table)
    paper.write_text("method,psnr\nD,28\n")
    with pytest.raises(ValueError, match="method, protocol, psnr, ssim are expected"):
        score_table(runs_of({"D": {"one": 31.0}}), paper=paper)
    with pytest.raises(FileNotFoundError):
        score_table(runs_of({"D": {"one": 31.0}}), paper=tmp_path / "none.csv")


def test_terminal_holds_all_protocols_in_80_columns(run_folders):
    text = io.StringIO()
    print_table(read_runs(run_folders), console=Console(file=text, width=80))
    shown = text.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("r2", "naf", "strict", "views", "FDK", "DiffNR", "<head>", "chest", "23.01 / "):
        assert word in shown


def test_markdown_and_csv_hold_every_case(run_folders, tmp_path):
    markdown, table = write_tables(read_runs(run_folders), tmp_path / "new" / "folder")
    text = markdown.read_text(encoding="utf-8")
    assert text.count("| chest | FDK |") == 1
    assert "| FDK | 23.01 [20.00, 26.02] |" in text
    lines = list(csv.DictReader(table.open()))
    assert [(line["method"], line["case"]) for line in lines] == [
        ("FDK", "chest"),
        ("DiffNR", "chest"),
        ("FDK", "<head>"),
        ("DiffNR", "<head>"),
        ("FDK", "mean"),
        ("DiffNR", "mean"),
    ]
    assert float(lines[0]["r2_psnr"]) == pytest.approx(20, abs=1e-3)
    assert float(lines[4]["r2_psnr_low"]) == pytest.approx(20, abs=1e-3)
    assert lines[0]["r2_psnr_low"] == ""


def test_no_runs_make_no_table():
    with pytest.raises(ValueError, match="no runs"):
        score_table([])
