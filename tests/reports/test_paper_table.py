import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from diffnr_lightning.reports import (
    RowRuns,
    RunSummary,
    paper_lines,
    read_published,
    write_paper_table,
)
from diffnr_lightning.reports.paper_table import PaperLine, print_paper_table
from diffnr_lightning.reports.runs import ScanSetting


def line(noise, ours):
    return PaperLine(
        "FDK", "bodies", 24, noise, "r2", "PSNR", None, ours, None, 1, 2.0, 2, "", comparable=True
    )


@pytest.mark.parametrize("width", [100, 140])
def test_lines_of_several_kinds_of_noise_say_which(width):
    def shown(*lines):
        text = io.StringIO()
        print_paper_table("A table", lines, [], Console(file=text, width=width))
        return text.getvalue()

    several = shown(line("tigre 1e4", 22.4), line("physical 1e5", 22.9))
    assert "tigre 1e4" in several and "physical 1e5" in several
    assert "tigre 1e4" not in shown(line("tigre 1e4", 22.4), line("tigre 1e4", 22.9))


def test_lines_of_several_sizes_and_scans_say_which(tmp_path):
    run = RunSummary(Path("no run"), "one", "FDK", {"r2": {"psnr": 20.0, "ssim": 0.5}})
    settings = [ScanSetting(24, "none", "256", scan) for scan in (None, "arc")]
    settings.append(ScanSetting(24, "none", "128"))

    def written(settings):
        runs = [replace(run, setting=setting) for setting in settings]
        lines = paper_lines([RowRuns("FDK", {"LUNA16": runs})], [])
        page = write_paper_table(tmp_path, "A table", lines, [])
        with (tmp_path / "table.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        text = io.StringIO()
        print_paper_table("A table", lines, [], Console(file=text, width=80))
        return found, text.getvalue(), (tmp_path / "table.md").read_text(), page.read_text()

    found, *shown = written(settings)
    sizes = [(line["size"], line["scan"]) for line in found if line["metric"] == "PSNR"]
    assert sizes == [("256", ""), ("256", "arc"), ("128", "")]
    assert all("256" in text and "arc" in text for text in shown)
    assert "| FDK | LUNA16 | 24 | none | 256 | arc | r2 | PSNR |" in shown[1]
    found, *shown = written(settings[:1])
    assert "size" not in found[0] and not any("256" in text for text in shown)


def test_costs_tell_no_scans_apart(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text("method,views,metric,value\nFDK,24,psnr,20\nFDK,,seconds,85\n")
    scores, setting = {"r2": {"psnr": 23.0}}, ScanSetting(24, "tigre 1e4", "256")
    run = RunSummary(Path("no run"), "one", "FDK", scores, seconds=5.0, setting=setting)
    lines = paper_lines([RowRuns("FDK", {"": [run]})], read_published(path))
    text = io.StringIO()
    print_paper_table("A table", lines, [], Console(file=text, width=100))
    assert "seconds" in text.getvalue() and "tigre" not in text.getvalue()
    write_paper_table(tmp_path, "A table", lines, [])
    assert "size" not in (tmp_path / "table.csv").read_text().partition("\n")[0]


def test_times_of_all_views_are_averaged_over_cases(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text("method,views,metric,value\nFDK,,seconds,85\n")
    runs = [
        RunSummary(Path("no run"), case, "FDK", {}, seconds=own + views, setting=ScanSetting(views))
        for case, own in (("one", 1.0), ("two", 3.0))
        for views in (24, 48)
    ]
    sets = {"LUNA16": runs, "ToothFairy": [replace(runs[0], case="one", seconds=50.0)]}
    (cost,) = paper_lines([RowRuns("FDK", sets)], read_published(path))[-1:]
    assert (cost.metric, cost.cases) == ("seconds", 3)
    assert cost.ours == cost.seconds == pytest.approx((37 + 39 + 50) / 3)
    (cost,) = paper_lines([RowRuns("FDK", {"LUNA16": runs})], read_published(path))[-1:]
    assert (cost.cases, cost.ours, cost.interval) == (2, 38, (37, 39))


def test_numbers_of_all_views_have_no_difference_from_runs_of_some(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text("method,views,metric,value\nFDK,36,psnr,22\nFDK,24,psnr,20\nFDK,,seconds,85\n")
    scores = {"r2": {"psnr": 23.0}}
    run = RunSummary(Path("no run"), "one", "FDK", scores, seconds=5.0, setting=ScanSetting(36))

    def differences(views):
        lines = paper_lines([RowRuns("FDK", {"": [run]})], read_published(path), views=views)
        return [(line.views, line.metric, line.difference) for line in lines]

    assert differences(None) == [(36, "PSNR", 1), (None, "seconds", -80), (24, "PSNR", None)]
    assert differences([36]) == [(36, "PSNR", 1), (None, "seconds", None)]
