import csv

import pytest

from diffnr_lightning.reports import (
    RowRuns,
    paper_lines,
    read_published,
    score_table,
    write_tables,
)
from diffnr_lightning.reports.runs import RunSummary, ScanSetting

ROWS = {
    "diffnr/1": 9 * 2 * 3 * 2 + 9,
    "diffnr/2": 6 * 3 * 2,
    "diffnr/3": 6 * 3 * 2,
    "diffnr/4": 4 * 2,
    "diffnr/5": 5 * 2,
    "diffnr/6": 5 + 5 * 2,
    "dinr": 16 + 8 + 12 + 4,
    "diffusionblend": 7,
    "iscs": 5 * 3 + 4 * 3,
    "luna16": 2 * 3 * 2,
    "main_job": 4 * 2,
    "out_of_distribution": 6 * 3 * 2,
    "toothfairy": 2 * 3 * 2,
}

LUNGS = {"dice_percent": 75.0, "surface_distance_mm": 3.0}


def value(numbers, method, metric, data=None, views=None):
    (found,) = [
        n.value
        for n in numbers
        if (n.method, n.metric) == (method, metric)
        and data in (None, n.data)
        and views in (None, n.views)
    ]
    return found


def test_every_file_of_published_numbers_is_read(repository):
    files = sorted((repository / "experiments").glob("**/paper.csv"))
    counts = {
        path.parent.relative_to(repository / "experiments").as_posix(): len(read_published(path))
        for path in files
    }
    assert counts == ROWS


def test_numbers_are_those_of_the_papers(repository):
    def read(name):
        return read_published(repository / "experiments" / name / "paper.csv")

    first = read("diffnr/1")
    assert value(first, "R2-Gaussian + DiffNR", "psnr", "LUNA16", 36) == 28.82
    assert value(first, "NAF + DiffNR", "ssim", "ToothFairy", 12) == 0.906
    assert value(first, "DiffusionMBIR", "seconds") == 11 * 3600 + 15 * 60
    gains = [
        value(first, f"{base} + DiffNR", "psnr", data, views)
        - value(first, base, "psnr", data, views)
        for base in ("NAF", "R2-Gaussian")
        for data in ("ToothFairy", "LUNA16")
        for views in (36, 24, 12)
    ]
    # The paper's text: 3.99 dB in the mean, 2.19 dB of them for NAF.
    assert sum(gains) / 12 == pytest.approx(3.99, abs=0.005)
    assert sum(gains[:6]) / 6 == pytest.approx(2.19, abs=0.005)
    assert {n.protocol for n in first if n.method.startswith("NAF")} == {"naf", ""}
    assert value(read("diffnr/2"), "DDS", "psnr", views=12) == 25.17
    assert value(read("diffnr/3"), "R2-Gaussian", "surface_distance", views=12) == 25.11
    assert value(read("diffnr/6"), "tau = 30", "seconds") == 446
    assert value(read("dinr"), "DINR", "psnr", "concrete", 33) == 31.37
    assert value(read("iscs"), "DDS + ISCS", "psnr", "AAPM, sagittal", 30) == 38.16


def test_columns_and_cells_that_say_nothing_are_refused(tmp_path):
    path = tmp_path / "paper.csv"

    def refused(text, match):
        path.write_text(text)
        with pytest.raises(ValueError, match=match):
            read_published(path)

    refused("slicefixer,psnr\nA,28\n", "has the columns psnr, slicefixer; method with metric")
    refused("method,source\nA,here\n", "has the columns method, source")
    refused("method,metric,value\nA,rmse,1\n", "line 2 of .* names the metric 'rmse'; one of psnr")
    refused("method,protocol,psnr\nA,r3,1\n", "names the protocol 'r3'")
    refused("method,protocol,psnr\nA,lungs,28\n", "'lungs' for psnr; r2 or naf or strict, or none")
    refused("method,protocol,dice_percent\nA,r2,80\n", "'r2' for dice_percent; lungs, or none")
    refused("method,psnr\nA,28 dB\n", "value '28 dB'")
    refused("method,views,psnr\nA,few,28\n", "views 'few'")
    with pytest.raises(FileNotFoundError):
        read_published(tmp_path / "none.csv")


def test_published_numbers_stand_below_ours_of_as_many_views(tmp_path):
    def run(method, views, psnr):
        protocols = {"r2": {"psnr": psnr, "ssim": 0.9}}
        return RunSummary(None, "one", method, protocols, setting=ScanSetting(views, None, "64"))

    path = tmp_path / "paper.csv"
    path.write_text(
        "method,data,views,psnr\nG,LUNA16,24,22.06\nG,LUNA16,12,18.32\nG,LUNA16,8,15\nX,,12,30\n"
    )
    runs = [run("G", 24, 30.0), run("G", 12, 28.0), run("D", 12, 29.0)]
    table = score_table(runs, paper=path)
    rows = [(row.method, row.setting.views, row.published) for row in table.means]
    assert rows == [
        ("G", 24, False),
        ("G", 24, True),
        ("G", 12, False),
        ("G", 12, True),
        ("D", 12, False),
        ("X", 12, True),
    ]
    assert "1 published numbers are of other numbers of views." in table.notes
    assert any("under r2 where their paper states no protocol" in note for note in table.notes)


def test_numbers_of_all_sets_stand_beside_those_of_one(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text("method,data,views,metric,value\nG,LUNA16,24,psnr,22\nG,,,seconds,85\n")
    setting = ScanSetting(24, None, "64")
    run = RunSummary(None, "one", "G", {"r2": {"psnr": 30.0, "ssim": 0.9}}, setting=setting)
    assert score_table([run], paper=path).means[0].values["r2_psnr_over_paper"] == 8


def test_methods_that_are_told_apart_keep_the_number_of_their_name(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text("method,psnr\nG,22\n")
    (tmp_path / "meta_data.json").write_text('{"source": "one"}')
    runs = [
        RunSummary(
            tmp_path / name, "one", "G", {"r2": {"psnr": psnr, "ssim": 0.9}}, case_folder=tmp_path
        )
        for name, psnr in (("g", 30.0), ("g+mine", 31.0))
    ]
    rows = score_table(runs, paper=path).means
    assert [(row.method, row.values.get("r2_psnr_over_paper")) for row in rows] == [
        ("G (g)", 8),
        ("G (g+mine)", 9),
        ("G", None),
    ]


def test_the_example_of_the_command_has_one_set_of_data(repository):
    """Differences from numbers of several sets are not shown."""
    numbers = read_published(repository / "experiments" / "main_job" / "paper.csv")
    assert {number.data for number in numbers} == {"LUNA16"}


def test_published_dice_stands_under_the_lungs_where_no_protocol_is_named(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text("method,psnr,dice_percent\nFDK,22,80\n")
    run = RunSummary(tmp_path, "one", "FDK", {"r2": {"psnr": 21.0}}, downstream={"lungs": LUNGS})
    write_tables([run], tmp_path, paper=path)
    with (tmp_path / "table.csv").open(newline="") as file:
        paper = list(csv.DictReader(file))[-1]
    assert (paper["r2_psnr"], paper["lungs_dice_percent"]) == ("22.0", "80.0")
    finished, unfinished = (
        [
            (line.protocol, line.metric, line.published, line.ours)
            for line in paper_lines([RowRuns("FDK", {"chests": runs})], read_published(path))
        ]
        for runs in ([run], [])
    )
    assert ("lungs, not stated", "Dice %", 80.0, 75.0) in finished
    assert ("lungs, not stated", "Dice %", 80.0, None) in unfinished


def test_a_file_that_a_spreadsheet_has_written_is_read(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text("method,views,psnr\nNAF,24,30.5\n", encoding="utf-8-sig")
    (number,) = read_published(path)
    assert (number.method, number.views, number.value) == ("NAF", 24, 30.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"method,views,psnr\nNAF,24,30,5\n", "line 2 of .* has more fields than the 3"),
        ("method,psnr\nFBP für alle,30\n".encode("latin-1"), "paper.csv is no text in UTF-8"),
    ],
)
def test_files_that_would_be_misread_are_refused(tmp_path, content, words):
    (tmp_path / "paper.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_published(tmp_path / "paper.csv")
