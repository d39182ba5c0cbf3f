"""A table made before keeps its rows beside new runs, in its order, and says so of itself."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffnr_lightning.cli import main
from diffnr_lightning.reports import (
    RunSummary,
    provenance_in_words,
    read_earlier,
    read_runs,
    score_table,
    write_tables,
)
from diffnr_lightning.reports.runs import ScanSetting

SETTING = ScanSetting(24, "none", "32")


def run(method, case, psnr, setting=SETTING):
    protocols = {"r2": {"psnr": psnr, "ssim": 0.9}}
    return RunSummary(Path("no run"), case, method, protocols, setting=setting, kind="head")


@pytest.fixture
def earlier(tmp_path):
    runs = [run(m, c, p) for m, p in (("FDK", 20.0), ("TV", 30.0)) for c in ("one", "two")]
    return write_tables(runs, tmp_path / "before")[1]


def test_new_runs_take_the_places_of_earlier_rows(earlier):
    table = score_table([run("TV", "one", 32.0)], earlier=read_earlier(earlier))
    cases = [(row.method, row.case, row.values["r2_psnr"]) for row in table.cases]
    assert cases == [("FDK", "one", 20), ("FDK", "two", 20), ("TV", "one", 32), ("TV", "two", 30)]
    assert {row.method: row.values["r2_psnr"] for row in table.means} == {"FDK": 20, "TV": 31}
    assert table.notes[-1] == "Of a table made before: 3 cases of FDK, TV."
    assert [(row.method, row.case) for row in table.kept] == [
        ("FDK", "one"),
        ("FDK", "two"),
        ("TV", "two"),
    ]


def test_rows_read_are_those_that_were_written(earlier, tmp_path):
    new = [run("TV", "one", 32.0)]
    _, again = write_tables(new, tmp_path / "after", earlier=read_earlier(earlier))
    lines = {(x["method"], x["case"]): x for x in csv.DictReader(again.open())}
    for line in csv.DictReader(earlier.open()):
        if line["case"] in ("one", "two") and (line["method"], line["case"]) != ("TV", "one"):
            assert lines[line["method"], line["case"]] == line


def test_another_scan_or_method_is_added(earlier):
    other = SETTING._replace(views=12)
    new = [run("TV", "one", 28.0, other), run("DiffNR", "one", 35.0)]
    table = score_table(new, earlier=read_earlier(earlier))
    assert len(table.kept) == 4
    assert [(row.method, row.setting.views) for row in table.cases[4:]] == [
        ("TV", 12),
        ("DiffNR", 24),
    ]


def test_repeated_scans_all_take_the_place(earlier):
    folder = Path("a case")
    new = [replace(run("FDK", "one", psnr), case_folder=folder / str(psnr)) for psnr in (21, 22)]
    table = score_table(new, earlier=read_earlier(earlier))
    assert [row.values["r2_psnr"] for row in table.cases] == [21, 22, 20, 30, 30]


def test_rows_keep_their_patients(tmp_path):
    """Repeated runs are one patient in means and intervals, patients of one name are several."""
    repeated = [run("TV", "one", psnr) for psnr in (30.0, 32.0)] + [run("TV", "two", 20.0)]
    namesakes = []
    for number, psnr in enumerate((20.0, 22.0, 24.0)):
        folder = tmp_path / str(number) / "case"
        folder.mkdir(parents=True)
        (folder / "meta_data.json").write_text(json.dumps({"source": f"{number}/one.nii.gz"}))
        namesakes.append(replace(run("FDK", "one", psnr), case_folder=folder))
    before = score_table([*repeated, *namesakes]).means
    _, path = write_tables([*repeated, *namesakes], tmp_path / "before")
    new = [run("DiffNR", "one", 35.0)]
    for folder in ("second", "third"):
        after = score_table(new, earlier=read_earlier(path)).means
        for one, other in zip(before, after[:2], strict=True):
            assert (one.values, one.intervals) == (other.values, other.intervals)
        _, path = write_tables(new, tmp_path / folder, earlier=read_earlier(path))


def test_the_provenance_names_what_was_kept(earlier, tmp_path):
    record = earlier.with_name("table.provenance.json")
    known = {"commits": {"1234567aaa": 4}, "weights_sha256": {"assets/prior": ["feedbeef00"]}}
    said = json.loads(record.read_text()) | known
    record.write_text(json.dumps(said))
    _, again = write_tables([run("TV", "one", 32.0)], tmp_path / "2", earlier=read_earlier(earlier))
    found = json.loads(again.with_name("table.provenance.json").read_text())
    assert (found["runs"], found["kept_rows"], found["kept_methods"]) == (1, 3, ["FDK", "TV"])
    assert provenance_in_words(found).endswith(
        "; 3 other rows (FDK, TV) are those of a table made before at commit 1234567, with weights prior feedbee."
    )
    third = write_tables([run("TV", "two", 32.0)], tmp_path / "3", earlier=read_earlier(again))[1]
    chained = json.loads(third.with_name("table.provenance.json").read_text())
    assert "at commits not recorded, 1234567" in provenance_in_words(chained)


def test_published_and_mean_rows_are_no_cases(earlier, tmp_path):
    paper = tmp_path / "paper.csv"
    paper.write_text("method,views,psnr\nTV,24,33\n")
    new = [run("TV", "one", 32.0)]
    _, again = write_tables(new, tmp_path / "after", paper=paper, earlier=read_earlier(earlier))
    assert len(read_earlier(again).rows) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("20.0", "good", 1), "has 'good'; a finite number"),
        (lambda text: text.replace("case,", "volume,", 1), "has no column case"),
        (lambda text: text.replace("20.0", "21.0", 1), "is not the file that"),
    ],
)
def test_a_table_that_was_changed_is_refused(earlier, change, message):
    earlier.write_text(change(earlier.read_text()))
    with pytest.raises(ValueError, match=message):
        read_earlier(earlier)


def test_a_table_without_provenance_is_read_and_said(earlier, tmp_path):
    earlier.with_name("table.provenance.json").unlink()
    _, again = write_tables([run("TV", "one", 32.0)], tmp_path / "2", earlier=read_earlier(earlier))
    found = json.loads(again.with_name("table.provenance.json").read_text())
    assert "made before, of which no commit is recorded" in provenance_in_words(found)


def test_the_command_joins_tables(run_folders, tmp_path, capsys):
    both, one = tmp_path / "both", tmp_path / "one"
    folders = [str(folder) for folder in run_folders]
    assert main(["evaluate", "--runs", *folders, "--out", str(both)]) == 0
    joined = ["--earlier", str(both / "table.csv"), "--out", str(one)]
    assert main(["evaluate", "--runs", folders[0], *joined]) == 0
    assert (one / "table.csv").read_text() == (both / "table.csv").read_text()
    assert len(read_runs(folders)) > 1
    missing = ["--earlier", str(tmp_path / "none.csv")]
    assert main(["evaluate", "--runs", folders[0], *missing]) == 2
    assert "the earlier table" in capsys.readouterr().err
