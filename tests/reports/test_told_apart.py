"""Tables keep overlays of one method, and other scans of one volume, apart."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffnr_lightning.reports import RunSummary, read_earlier, score_table, write_tables
from diffnr_lightning.reports.runs import ScanSetting
from diffnr_lightning.reports.table_rows import best_rows

SETTING = ScanSetting(24, "none", "32")


@pytest.fixture
def scanned(tmp_path):
    """Return a function that makes runs of a sweep's folders, each on a case of its own geometry and source."""

    def run(scan, case, method, folder, psnr, arc=360.0, source=None, **known):
        place = tmp_path / scan / case
        (place / "case").mkdir(parents=True, exist_ok=True)
        meta = {"scanner": {"totalAngle": arc}, "source": case if source is None else source}
        meta["provenance"] = known
        (place / "case" / "meta_data.json").write_text(json.dumps(meta))
        protocols = {"r2": {"psnr": psnr, "ssim": 0.9}}
        return RunSummary(
            place / folder, case, method, protocols, setting=SETTING, case_folder=place / "case"
        )

    return run


def overlays(scanned):
    return [
        scanned("body", case, method, folder, psnr)
        for case in ("one", "two")
        for method, folder, psnr in (
            ("SIRT", "sirt", 20.0),
            ("Gaussians", "r2gaussian", 30.0),
            ("Gaussians", "r2gaussian+tv", 33.0),
        )
    ]


def test_overlays_without_a_variant_are_rows_of_their_own(scanned):
    table = score_table(overlays(scanned), baseline="SIRT")
    means = {row.method: (row.count, row.values["r2_psnr"]) for row in table.means}
    assert means == {
        "SIRT": (2, 20),
        "Gaussians (r2gaussian)": (2, 30),
        "Gaussians (r2gaussian+tv)": (2, 33),
    }
    gains = [row.values.get("r2_psnr_over_baseline") for row in table.means]
    assert gains == [None, 10, 13]
    assert not any("not told apart" in note for note in table.notes)


def test_overlays_of_two_sweeps_are_rows_of_their_own(scanned):
    """Each sweep has a copy of the case, which its runs know by its content."""
    runs = [
        scanned(f"{sweep}/body", case, "Gaussians", folder, psnr)
        for sweep, folder, psnr in (("a", "r2gaussian", 30.0), ("b", "r2gaussian+tv", 33.0))
        for case in ("one", "two")
    ]
    for run in runs:
        run.folder.mkdir()
        record = {"inputs": {"case": f"content of {run.case}"}}
        (run.folder / "environment.json").write_text(json.dumps(record))
    table = score_table(runs)
    assert [(row.method, row.count) for row in table.means] == [
        ("Gaussians (a/r2gaussian)", 2),
        ("Gaussians (b/r2gaussian+tv)", 2),
    ]
    assert not any("told apart" in note for note in table.notes)


def two_sweeps(scanned):
    """Return runs of two sweeps, each with FDK and another method on copies of one case."""
    runs = [
        scanned(f"{sweep}/body", "one", method, method.lower(), psnr, source="one")
        for sweep, method, psnr in (
            ("a", "FDK", 20),
            ("a", "TV", 25),
            ("b", "FDK", 21),
            ("b", "NAF", 28),
        )
    ]
    for run in runs:
        run.folder.mkdir()
        record = {"inputs": {"case": "content of one"}}
        (run.folder / "environment.json").write_text(json.dumps(record))
    return runs


def test_a_baseline_of_two_sweeps_is_compared_within_each(scanned):
    table = score_table(two_sweeps(scanned), baseline="FDK")
    gains = {row.method: row.values.get("r2_psnr_over_baseline") for row in table.means}
    assert gains == {"FDK (a)": None, "TV": 5, "FDK (b)": None, "NAF": 7}
    assert [note.partition(" dB")[0] for note in table.notes if "against" in note] == [
        "TV against FDK: +5.00",
        "NAF against FDK: +7.00",
    ]


def test_a_baseline_that_was_run_several_times_on_a_case_is_refused(scanned):
    with pytest.raises(
        ValueError, match=r"several runs on one case; one of SIRT, Gaussians \(r2gaussian\), "
    ):
        score_table(overlays(scanned), baseline="Gaussians")


def scans(scanned):
    return [
        scanned(scan, case, method, method.lower(), psnr + (method == "TV"), arc)
        for scan, arc, psnr in (("body", 360.0, 30.0), ("limited", 90.0, 20.0))
        for case in ("one", "two")
        for method in ("SIRT", "TV")
    ]


def test_scans_of_other_geometry_are_not_averaged(scanned, tmp_path):
    runs = scans(scanned)
    table = score_table(runs, baseline="SIRT")
    assert table.settings == ("scan",)
    assert [(row.method, row.setting.scan, row.values["r2_psnr"]) for row in table.means] == [
        ("SIRT", "body", 30),
        ("TV", "body", 31),
        ("SIRT", "limited", 20),
        ("TV", "limited", 21),
    ]
    assert any("TV against SIRT (scan limited): +1.00 dB" in note for note in table.notes)
    _, written = write_tables(runs, tmp_path / "table")
    assert {row.setting.scan for row in read_earlier(written).rows} == {"body", "limited"}


def test_scans_of_a_volume_that_was_moved_are_not_averaged(scanned):
    """The file is known by its content; its path is another one then."""
    runs = [
        scanned(scan, "ct", "SIRT", "sirt", psnr, arc, f"/{scan}/ct.nii.gz", source_sha256="aa")
        for scan, arc, psnr in (("body", 360.0, 30.0), ("limited", 90.0, 20.0))
    ]
    means = {row.setting.scan: row.values["r2_psnr"] for row in score_table(runs).means}
    assert means == {"body": 30, "limited": 20}


def test_scans_of_a_volume_that_two_versions_hashed_are_not_averaged(scanned):
    """Of a header and a mask beside it one version reads both, another one the header's alone."""
    runs = [
        scanned(scan, "ct", "SIRT", "sirt", psnr, arc, "/ct.mhd", source_sha256=content)
        for scan, arc, psnr, content in (("body", 360.0, 30.0, "aa"), ("limited", 90.0, 20.0, "bb"))
    ]
    means = {row.setting.scan: row.values["r2_psnr"] for row in score_table(runs).means}
    assert means == {"body": 30, "limited": 20}


def test_contents_alone_tell_volumes_without_a_source_apart(scanned):
    runs = [
        replace(scanned("body", name, "FDK", "fdk", 30.0, arc, "", source_sha256=name), case="ct")
        for name, arc in (("P1", 350.0), ("P2", 360.0))
    ]
    table = score_table(runs)
    assert [(row.method, row.count) for row in table.means] == [("FDK", 2)]
    assert "r2_psnr" in table.means[0].intervals


def test_a_run_again_takes_the_row_of_its_folder_in_an_earlier_table(scanned, tmp_path):
    _, written = write_tables(overlays(scanned), tmp_path / "table")
    again = [scanned("body", "one", "Gaussians", "r2gaussian", 34.0)]
    rows = score_table(again, earlier=read_earlier(written)).cases
    found = {(row.method, row.case): row.values["r2_psnr"] for row in rows}
    assert len(found) == len(rows) == 6
    assert found["Gaussians (r2gaussian)", "one"] == 34


def test_a_scan_again_takes_the_row_of_its_folder_in_an_earlier_table(scanned, tmp_path):
    _, written = write_tables(scans(scanned), tmp_path / "table")
    again = [scanned("limited", "one", "TV", "tv", 22.0, 90.0)]
    rows = score_table(again, earlier=read_earlier(written)).cases
    found = {(row.method, row.case, row.setting.scan): row.values["r2_psnr"] for row in rows}
    assert len(found) == len(rows) == 8
    assert found["TV", "one", "limited"] == 22


def test_overlays_take_the_rows_of_before_there_were_several(scanned, tmp_path):
    runs = overlays(scanned)
    first = [run for run in runs if run.folder.name != "r2gaussian+tv"]
    _, written = write_tables(first, tmp_path / "table")
    table = score_table(runs, earlier=read_earlier(written))
    assert [row.method for row in table.means] == [row.method for row in score_table(runs).means]
    assert not table.kept


@pytest.mark.parametrize(
    ("folders", "kept"),
    [
        (("naf+tv01", "naf+tv05"), ["NAF"]),
        (("naf+tv01", "naf"), []),
        (("naf+tv01", "naf+tv01+fine"), []),
    ],
)
def test_overlays_replace_the_row_of_their_base_only_with_a_run_of_it(
    scanned, tmp_path, folders, kept
):
    _, written = write_tables([scanned("body", "one", "NAF", "naf", 30.0)], tmp_path / "table")
    runs = [scanned("body", "one", "NAF", folder, 31.0) for folder in folders]
    table = score_table(runs, earlier=read_earlier(written))
    told = [f"NAF ({folder})" for folder in folders]
    assert [row.method for row in table.cases] == [*kept, *told]
    assert [row.method for row in table.kept] == kept
    assert any("New runs of NAF lie in other folders" in note for note in table.notes) == bool(kept)


def test_an_overlay_that_has_its_own_row_replaces_none_of_its_base(scanned, tmp_path):
    runs = [scanned("body", "one", "NAF", folder, 30.0) for folder in ("naf+tv01", "naf+tv05")]
    _, overlaid = write_tables(runs, tmp_path / "overlaid")
    text = overlaid.read_text().replace("NAF (naf+tv05)", "NAF")
    (tmp_path / "table.csv").write_text(text)
    table = score_table(runs[:1], earlier=read_earlier(tmp_path / "table.csv"))
    assert {row.method for row in table.cases} == {"NAF", "NAF (naf+tv01)"}


def test_a_scan_takes_the_row_of_before_there_was_another(scanned, tmp_path):
    runs = scans(scanned)
    _, written = write_tables(runs[:4], tmp_path / "table")
    table = score_table(runs, earlier=read_earlier(written))
    assert {row.setting.scan for row in table.cases} == {"body", "limited"}
    assert (len(table.cases), table.kept) == (8, ())


def test_a_sweep_takes_the_row_of_before_there_was_another(scanned, tmp_path):
    runs = two_sweeps(scanned)
    _, written = write_tables(runs[:1], tmp_path / "table")
    table = score_table(runs, earlier=read_earlier(written))
    assert [row.method for row in table.cases] == ["FDK (a)", "TV", "FDK (b)", "NAF"]
    # A row of other numbers is of a run that is none of these.
    written.with_name("other.csv").write_text(written.read_text().replace("20.0", "19.0"))
    table = score_table(runs, earlier=read_earlier(written.with_name("other.csv")))
    assert [row.method for row in table.kept] == ["FDK"]


def test_a_scan_of_its_own_adds_no_column(scanned, tmp_path):
    _, written = write_tables(overlays(scanned), tmp_path / "table")
    assert "scan" not in next(csv.reader(written.open()))


def test_a_repeated_case_does_not_split_the_means_of_folders_named_by_case(scanned):
    runs = [
        scanned("body", case, "NAF", f"{case}_naf{more}", psnr)
        for case, more, psnr in (("one", "", 30), ("one", "_again", 31), ("two", "", 32))
    ]
    table = score_table(runs)
    assert [(row.method, row.count, row.values["r2_psnr"]) for row in table.means] == [
        ("NAF", 3, 31.25)
    ]
    # One patient of two numbers, which count as their mean, and another one.
    assert table.means[0].intervals["r2_psnr"] == (30.5, 32.0)
    assert [note for note in table.notes if "Several runs of NAF on one are not" in note]
    assert [row.method for row in score_table(runs[:2]).means] == [
        "NAF (one_naf)",
        "NAF (one_naf_again)",
    ]


def test_a_repeated_run_is_compared_as_one_with_the_baseline(scanned):
    """Whichever comes last, and as its mean is made; the other method was run on the same patients."""
    runs = [
        scanned("body", case, method, f"{case}_{method}{more}", psnr)
        for case, method, more, psnr in (
            *(("one", "NAF", "", 30), ("one", "NAF", "_again", 34), ("two", "NAF", "", 32)),
            *(("one", "FDK", "", 20), ("two", "FDK", "", 20)),
        )
    ]
    for order in (runs, runs[::-1]):
        table = score_table(order, baseline="FDK")
        naf = next(row for row in table.means if row.method == "NAF")
        assert naf.values["r2_psnr_over_baseline"] == 12
        assert any("NAF against FDK: +12.00 dB" in n and "2 of 2 cases" in n for n in table.notes)
        assert not any("not run on the same cases" in note for note in table.notes)
        assert best_rows(table.means, table.columns[0]) == {table.means.index(naf)}


def test_a_case_that_is_scanned_again_does_not_split_the_means_of_the_others(scanned):
    runs = [
        replace(scanned("body", folder, "NAF", "naf", 30.0, arc, case), case=case)
        for folder, case, arc in (
            ("one", "one", 360),
            ("one_limited", "one", 90),
            ("two", "two", 360),
        )
    ]
    table = score_table(runs)
    assert [(row.setting.scan, row.count) for row in table.means] == [(None, 3)]
    assert [note for note in table.notes if "Several runs of NAF on one are not" in note]


def test_patients_of_one_name_are_cases_of_one_mean(scanned):
    """A volume of each folder may be called `ct`, and its scanner be fitted to it."""
    runs = [
        replace(scanned("body", name, "FDK", "fdk", 30.0, arc, f"{name}/ct.nii"), case="ct")
        for name, arc in (("P1", 350.0), ("P2", 360.0))
    ]
    table = score_table(runs)
    assert [(row.method, row.count) for row in table.means] == [("FDK", 2)]
    assert "r2_psnr" in table.means[0].intervals
    assert not any("not told apart" in note for note in table.notes)


def test_runs_that_nothing_tells_apart_are_named():
    runs = [RunSummary(Path(name), "one", "FDK", {}, setting=SETTING) for name in ("a", "b")]
    notes = [note for note in score_table(runs).notes if "not told apart" in note]
    assert notes == [
        "Several runs of FDK on one are not told apart and count as one in the mean: a, b."
    ]
