import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

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
from diffnr_lightning.reports.runs import ScanSetting, read_run
from diffnr_lightning.reports.table_rows import best_rows
from tests.reports.conftest import write_run


def runs_of(scores):
    """Build summaries from {method: {case: psnr}}."""
    return [
        RunSummary(
            folder=Path("no run"),
            case=case,
            method=method,
            protocols={"r2": {"psnr": psnr, "ssim": 0.9}},
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
    runs[1] = RunSummary(folder=Path("no run"), case="two", method="A")
    assert "r2_psnr" not in score_table(runs).means[0].values


def test_regions_in_hu_and_in_other_units_have_no_mean():
    runs = [
        replace(run, downstream={"regions": {"unit": unit, "summary": summary}})
        for run, unit, summary in zip(
            runs_of({"A": {"one": 30.0, "two": 32.0}}),
            ("HU", "arbitrary"),
            ({"error": 40.0, "contrast_percent": 90}, {"error": 0.02, "contrast_percent": 94}),
            strict=True,
        )
    ]
    table = score_table(runs)
    assert [row.values["regions_error"] for row in table.cases] == [40, 0.02]
    assert "regions_error" not in table.means[0].values
    assert table.means[0].values["regions_contrast_percent"] == 92
    assert any("Regions are in HU and arbitrary units" in note for note in table.notes)
    assert "regions_error" in score_table(runs[:1]).means[0].values


def test_baseline_is_compared_case_by_case():
    runs = runs_of(
        {"G": {"one": 30.0, "two": 40.0, "other": 10.0}, "D": {"two": 43.0, "one": 32.0}}
    )
    notes = score_table(runs, baseline="G").notes
    assert any("D against G: +2.50 dB" in n and "2 of 2 cases" in n for n in notes)
    assert any("not run on the same cases" in n for n in notes)
    with pytest.raises(ValueError, match="baseline 'X'"):
        score_table(runs, baseline="X")


def test_scans_of_one_volume_are_compared_scan_by_scan():
    runs = [
        replace(run, case_folder=Path(scan))
        for scan, scores in (("body", {"G": 20.0, "D": 30.0}), ("block", {"G": 10.0, "D": 11.0}))
        for run in runs_of({method: {"one": psnr} for method, psnr in scores.items()})
    ]
    for order in (runs, runs[::-1]):
        notes = score_table(order, baseline="G").notes
        assert any("D against G: +5.50 dB" in n and "1 of 1 cases" in n for n in notes)


def test_published_numbers_stand_below_ours(tmp_path):
    paper = tmp_path / "paper.csv"
    paper.write_text("method,protocol,psnr,ssim\nD,r2,28.82,0.822\nNAF,naf,23.85,0.712\n")
    table = score_table(runs_of({"G": {"one": 30.0}, "D": {"one": 31.0}}), paper=paper)
    rows = [(row.method, row.published) for row in table.means]
    assert rows == [("G", False), ("D", False), ("D", True), ("NAF", True)]
    assert table.means[2].values == {"r2_psnr": 28.82, "r2_ssim": 0.822}
    assert "| D (paper) | 28.82 | 0.822 |" in to_markdown(table)
    with pytest.raises(FileNotFoundError):
        score_table(runs_of({"D": {"one": 31.0}}), paper=tmp_path / "none.csv")


def test_differences_from_baseline_and_paper_are_columns(tmp_path):
    runs = runs_of(
        {"G": {"one": 30.0, "two": 40.0, "other": 10.0}, "D": {"two": 43.0, "one": 32.0}}
    )
    paper = tmp_path / "paper.csv"
    paper.write_text("method,data,protocol,psnr\nD,,r2,38\nG,LUNA16,r2,24\nG,ToothFairy,r2,28\n")
    table = score_table(runs, baseline="G", paper=paper)
    baseline, ours = (row for row in table.means if not row.published)
    # On the two cases that both have: 2 and 3 dB.
    assert ours.values["r2_psnr_over_baseline"] == 2.5
    assert ours.intervals["r2_psnr_over_baseline"] == (2.0, 3.0)
    assert ours.values["r2_psnr_over_paper"] == 37.5 - 38
    assert "r2_psnr_over_baseline" not in baseline.values
    # Of two sets of data neither is the one that ours compares with.
    assert "r2_psnr_over_paper" not in baseline.values
    assert "| +2.50 [+2.00, +3.00] | +0.000 [+0.000, +0.000] | -0.50 |" in to_markdown(table)
    assert not any("over_" in column.key for column in score_table(runs).columns)


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


def test_the_csv_tells_kind_and_scan_of_every_case(tmp_path, truth):
    scan = {"noise": {"mode": "physical", "photons": 1e5, "electronic": 10}, "size": [128] * 3}
    runs = [
        write_run(tmp_path / case, case, "FDK", truth + 0.1, truth, kind=kind, views=24, **scan)
        for case, kind in (("pt_1", "head"), ("mine", None))
    ]
    _, table = write_tables(read_runs(runs), tmp_path / "table")
    told = [
        [line[key] for key in ("case", "kind", "views", "noise", "size")]
        for line in csv.DictReader(table.open())
    ]
    assert told == [
        ["pt_1", "head", "24", "physical 100000±10", "128"],
        ["mine", "", "24", "physical 100000±10", "128"],
        ["mean", "", "24", "physical 100000±10", "128"],
    ]


def runs_at(settings, psnr):
    return [
        replace(run, setting=setting)
        for setting in settings
        for run in runs_of(
            {m: {c: psnr(m, c, setting) for c in ("one", "two")} for m in ("G", "D")}
        )
    ]


SETTINGS = [
    ScanSetting(views, noise, size)
    for views in (8, 12)
    for noise in ("none", "tigre 10000±10")
    for size in ("64", "128")
]


def test_runs_of_other_scans_are_never_averaged(tmp_path):
    def psnr(method, case, setting):
        return 20.0 + SETTINGS.index(setting) + 0.5 * (case == "two") + 3 * (method == "D")

    runs = runs_at(SETTINGS, psnr)
    table = score_table(runs, baseline="G")
    assert [(row.setting, row.method) for row in table.means] == [
        (setting, method) for setting in SETTINGS for method in ("G", "D")
    ]
    for row in table.means:
        first = psnr(row.method, "one", row.setting)
        assert row.count == 2
        assert row.values["r2_psnr"] == pytest.approx(first + 0.25)
    assert table.settings == ("views", "noise", "size")
    gains = [note for note in table.notes if "D against G" in note]
    assert len(gains) == len(SETTINGS)
    assert "D against G (8 views, noise tigre 10000±10, 64 voxels" in gains[2]
    assert "along the edges): +3.00 dB" in gains[2]
    # What all scans have in common tells none of them apart.
    of_two = [run for run in runs if run.setting in SETTINGS[::4]]
    gains = [n for n in score_table(of_two, baseline="G").notes if "D against G" in n]
    assert "D against G (8 views): +3.00 dB" in gains[0]
    text = to_markdown(table)
    assert "| method | views | noise | size | r2 PSNR | r2 SSIM |" in text
    assert "| D | 12 | tigre 10000±10 | 128 | 30.25 [30.00, 30.50] |" in text
    _, file = write_tables(runs, tmp_path)
    lines = [line for line in csv.DictReader(file.open()) if line["case"] == "mean"]
    assert [(line["views"], line["noise"], line["size"]) for line in lines[::2]] == [
        (str(s.views), s.noise, s.size) for s in SETTINGS
    ]


def test_what_all_scans_share_is_said_once():
    shared = [ScanSetting(views, "none", "64") for views in (8, 12)]
    table = score_table(runs_at(shared, lambda method, case, setting: 30.0 + setting.views))
    assert table.settings == ("views",)
    assert table.notes[0] == "All scans: noise none, 64 voxels along the edges."
    text = io.StringIO()
    print_table(
        runs_at(shared, lambda *scan: 30.0), console=Console(file=text, width=80, color_system=None)
    )
    assert "views" in text.getvalue()
    assert len([line for line in text.getvalue().splitlines() if "G " in line]) == 6


def test_names_of_methods_have_room_beside_settings():
    """They were broken into four letters a line."""
    name, scores = "DDS, slices + counted", {"psnr": 30.0, "ssim": 0.9}
    runs = [
        replace(run, method=name, protocols=dict.fromkeys(("r2", "naf", "strict"), scores))
        for run in runs_at(SETTINGS[::2], lambda *scan: 30.0)
        if run.method == "G"
    ]
    text = io.StringIO()
    print_table(runs, console=Console(file=text, width=80, color_system=None))
    assert name in text.getvalue()
    assert (
        "naf and strict: in a terminal of 110 characters, or in the files of --out."
        in text.getvalue()
    )
    wide = io.StringIO()
    print_table(runs, console=Console(file=wide, width=110, color_system=None))
    assert "strict" in wide.getvalue() and "--out" not in wide.getvalue()


def test_means_over_other_cases_are_not_best_of_each_other():
    """D was run on the easy case alone, so that its mean is higher than those that it beats nowhere."""
    easy, hard = 40.0, 20.0
    runs = runs_of(
        {"G": {"one": easy, "two": hard}, "S": {"one": 39.0, "two": 19.0}, "D": {"one": easy}}
    )
    table = score_table(runs)
    assert best_rows(table.means, table.columns[0]) == {0}


def test_names_with_bars_and_tags_stay_in_their_cells_of_markdown():
    text = to_markdown(score_table(runs_of({"G|2": {"<head>": 30.0, "b": 20.0}})))
    assert "| \\<head> | G\\|2 | 30.00 |" in text
    # What separates cells is no part of a name.
    counts = {line.replace("\\|", "").count("|") for line in text.splitlines() if "G" in line}
    assert len(counts) == 2


def test_best_is_best_of_its_scan():
    table = score_table(
        runs_at(SETTINGS[:2], lambda m, c, s: 20.0 + 5 * SETTINGS.index(s) + (m == "D"))
    )
    assert best_rows(table.means, table.columns[0]) == {1, 3}


def test_settings_are_read_from_metrics_and_cases(tmp_path, truth):
    noise = {"mode": "tigre", "photons": 1e4, "electronic": 10.0}
    told = {"views": 8, "noise": noise, "size": [12, 14, 16]}
    write_run(tmp_path / "new", "a", "FDK", truth, **told)
    assert read_run(tmp_path / "new").setting == ScanSetting(8, "tigre 10000±10", "12x14x16")
    write_run(tmp_path / "old", "b", "FDK", truth, truth)
    assert read_run(tmp_path / "old").setting == ScanSetting()
    file = tmp_path / "case_b" / "meta_data.json"
    meta = json.loads(file.read_text())
    meta |= {"proj_train": [{}] * 9, "scanner": {"nVoxel": [24, 24, 24]}}
    meta["provenance"] = {"simulation": {"recipe": {"noise": {"mode": "none", "photons": 1e5}}}}
    file.write_text(json.dumps(meta))
    assert read_run(tmp_path / "old").setting == ScanSetting(9, "none", "24")


def test_no_runs_make_no_table():
    with pytest.raises(ValueError, match="no runs"):
        score_table([])


def test_names_with_brackets_are_shown_as_they_are():
    text = io.StringIO()
    runs = runs_of({"FDK": {"ct[kind]": 30.0, "[/bold]": 31.0}})
    print_table(runs, console=Console(file=text, width=80, color_system=None))
    assert "ct[kind]" in text.getvalue() and "[/bold]" in text.getvalue()
