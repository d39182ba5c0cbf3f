import base64
import json
import logging
import os
import re
import shutil
import subprocess
import zlib
from dataclasses import replace

import numpy as np
import pytest

from diffnr_lightning.reports import read_runs, write_page
from diffnr_lightning.reports.figures import PRIOR_PICTURE, prior_panels
from diffnr_lightning.reports.page import LEVELS, block_mean, pack_volume
from diffnr_lightning.reports.runs import ScanSetting, read_volume

from .conftest import write_run


def unpack(text, shape, limits):
    """What the page's script does to a volume."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).astype(int)
    folded = planes[: planes.size // 2] + 256 * planes[planes.size // 2 :]
    steps = np.where(folded & 1, -((folded + 1) >> 1), folded >> 1)
    low, high = limits
    return low + np.cumsum(steps).reshape(shape) * (high - low) / (LEVELS - 1)


def described(page):
    text = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.S)[1]
    return json.loads(text)["cases"]


def embedded(page, identity):
    return re.search(f'<script type="text/plain" id="{identity}">(.*?)</script>', page, re.S)[1]


def test_packed_volume_comes_back_within_half_a_level():
    volume = np.random.default_rng(0).uniform(-3, 5, (6, 7, 9)).astype(np.float32)
    limits = (-2.0, 4.0)
    back = unpack(pack_volume(volume, limits), volume.shape, limits)
    assert np.abs(back - np.clip(volume, *limits)).max() <= 0.5 * 6 / (LEVELS - 1) + 1e-6


def test_page_holds_volumes_truth_and_numbers(run_folders, tmp_path, truth):
    page = write_page(read_runs(run_folders), tmp_path / "out" / "report.html").read_text(
        encoding="utf-8"
    )
    cases = described(page)
    assert [case["name"] for case in cases] == ["chest", "<head>"]
    case = cases[0]
    assert [v["label"] for v in case["volumes"]] == ["FDK", "DiffNR", "truth"]
    assert [v["truth"] for v in case["volumes"]] == [False, False, True]
    assert case["voxel_mm"] == [2.0, 1.5, 1.0]
    assert case["unit"] == "HU"
    expected = (truth + 0.1, truth + 0.01, truth)
    for volume, values in zip(case["volumes"], expected, strict=True):
        text = embedded(page, volume["element"])
        back = unpack(text, case["shape"], case["limits"])
        np.testing.assert_allclose(back, -1000 + 3000 * values, atol=1)
    assert case["volumes"][1]["history"]["loss"] == [1.0, 0.2, None]
    assert "23.01" in page
    assert "40.00 dB / " in page


def test_page_is_self_contained_and_escapes_names(run_folders, tmp_path):
    title = "Runs of <script>alert(1)</script>"
    page = write_page(read_runs(run_folders), tmp_path / "report.html", title=title).read_text(
        encoding="utf-8"
    )
    assert not re.search(r"https?://", page)
    assert not re.search(r'(src|href)=["\']', page)
    assert "{{" not in page.split("<main>")[0]
    assert "<head>" not in page.split("<main>")[1].split("<script>")[0].replace("\\u003chead>", "")
    assert "<script>alert" not in page
    assert title.replace("<", "&lt;").replace(">", "&gt;") in page


def test_pictures_of_what_a_prior_added_stand_on_the_page(run_folders, tmp_path):
    runs = read_runs(run_folders)
    plain = write_page(runs, tmp_path / "plain.html").read_text()
    assert "What the prior added" not in plain
    volume = read_volume(runs[0])
    prior_panels(volume, replace(volume, values=abs(volume.values)), runs[0].folder / PRIOR_PICTURE)
    page = write_page(runs, tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "What the prior added" in page


def test_pictures_of_priors_say_which_scan_of_a_volume_they_are_of(run_folders, tmp_path):
    runs = [replace(run, case="chest", method="DiffNR") for run in read_runs(run_folders[:2])]
    runs = [
        replace(run, setting=ScanSetting(views=n)) for run, n in zip(runs, (12, 24), strict=True)
    ]
    for run in runs:
        volume = read_volume(run)
        prior_panels(volume, replace(volume, values=abs(volume.values)), run.folder / PRIOR_PICTURE)
    page = write_page(runs, tmp_path / "page.html").read_text()
    for views in (12, 24):
        assert f"<figcaption>chest: DiffNR, {views} views</figcaption>" in page


def test_large_volumes_are_averaged_and_the_page_knows(run_folders, tmp_path, truth):
    page = write_page(read_runs(run_folders[:2]), tmp_path / "report.html", max_edge=8).read_text(
        encoding="utf-8"
    )
    (case,) = described(page)
    assert case["factor"] == 2
    assert case["shape"] == [6, 7, 8]
    assert case["voxel_mm"] == [4.0, 3.0, 2.0]
    text = embedded(page, case["volumes"][2]["element"])
    back = unpack(text, case["shape"], case["limits"])
    means = truth.reshape(6, 2, 7, 2, 8, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(back, -1000 + 3000 * means, atol=1)


def test_an_axis_shorter_than_a_block_keeps_its_extent(tmp_path, truth):
    run = write_run(tmp_path / "few", "few", "FDK", truth[:2])
    page = write_page(read_runs([run]), tmp_path / "report.html", max_edge=4)
    (case,) = described(page.read_text(encoding="utf-8"))
    assert case["factor"] == 4
    assert case["shape"] == [1, 3, 4]
    assert case["voxel_mm"] == [2 * 2.0, 4 * 1.5, 4 * 1.0]


def test_numbers_of_a_convergence_that_are_not_known_are_gaps(tmp_path, truth):
    history = {"iteration": [1, 2, 3], "loss": [0.5, None, float("nan")]}
    run = write_run(tmp_path / "run", "chest", "DiffNR", truth, history=history)
    page = write_page(read_runs([run]), tmp_path / "report.html")
    (case,) = described(page.read_text(encoding="utf-8"))
    assert case["volumes"][0]["history"] == {"iteration": [1, 2, 3], "loss": [0.5, None, None]}


def test_block_mean_drops_what_fills_no_block():
    volume = np.arange(5 * 4 * 1, dtype=np.float32).reshape(5, 4, 1)
    result = block_mean(volume, 2)
    assert result.shape == (2, 2, 1)
    assert result[0, 0, 0] == volume[:2, :2].mean()


def test_case_without_truth_has_a_page(tmp_path, truth):
    run = write_run(tmp_path / "run", "tooth", "FBP", 0.02 * truth, window_hu=None)
    page = write_page(read_runs([run]), tmp_path / "report.html").read_text(encoding="utf-8")
    (case,) = described(page)
    assert [v["truth"] for v in case["volumes"]] == [False]
    assert case["unit"] == "arbitrary"
    assert 0.015 < case["window"][1] <= 0.02


def test_cases_beyond_the_limit_are_named_and_stay_in_the_table(run_folders, tmp_path):
    page = write_page(read_runs(run_folders), tmp_path / "report.html", max_cases=1).read_text(
        encoding="utf-8"
    )
    assert [case["name"] for case in described(page)] == ["chest"]
    assert "not embedded: &lt;head&gt;" in page
    assert page.count('<td class="name">&lt;head&gt;</td>') == 2


def test_run_on_another_grid_is_in_the_table_only(run_folders, tmp_path, truth, caplog):
    odd = write_run(tmp_path / "odd", "chest", "coarse", truth[::2], protocols={})
    with caplog.at_level(logging.WARNING, "diffnr"):
        page = write_page(read_runs([*run_folders, odd]), tmp_path / "report.html").read_text(
            encoding="utf-8"
        )
    assert [v["label"] for v in described(page)[0]["volumes"]] == ["FDK", "DiffNR", "truth"]
    assert "in the table only" in caplog.text
    assert '<td class="name">coarse</td>' in page


def test_a_run_of_another_volume_of_the_name_is_in_the_table_only(
    run_folders, tmp_path, truth, caplog
):
    (tmp_path / "elsewhere").mkdir()
    other = write_run(tmp_path / "elsewhere" / "run", "chest", "SIRT", truth, 1 - truth)
    with caplog.at_level(logging.WARNING, "diffnr"):
        page = write_page(read_runs([*run_folders, other]), tmp_path / "report.html")
    shown = described(page.read_text(encoding="utf-8"))[0]["volumes"]
    assert [v["label"] for v in shown] == ["FDK", "DiffNR", "truth"]
    assert "is of another volume than the first run of its case chest" in caplog.text


def test_two_runs_of_one_method_are_told_apart(run_folders, tmp_path, truth):
    again = write_run(tmp_path / "seed2", "chest", "FDK", truth + 0.2, truth)
    page = write_page(read_runs([*run_folders[:2], again]), tmp_path / "report.html").read_text(
        encoding="utf-8"
    )
    labels = [v["label"] for v in described(page)[0]["volumes"]]
    assert labels == ["FDK (chest_fdk)", "DiffNR", "FDK (seed2)", "truth"]


def test_a_page_is_replaced_whole_or_not_at_all(run_folders, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("before")
    (run_folders[1] / "volume.nii.gz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as NIfTI; remove the folder of the run"):
        write_page(read_runs(run_folders), out)
    assert out.read_text(encoding="utf-8") == "before"
    assert not list(tmp_path.glob(".report*"))
    with pytest.raises(ValueError, match="max_edge is 0"):
        write_page(read_runs(run_folders), out, max_edge=0)


def test_runs_whose_volumes_were_removed_are_in_the_table_alone(run_folders, tmp_path, caplog):
    for folder in run_folders[1:]:
        (folder / "volume.nii.gz").unlink()
    with caplog.at_level(logging.WARNING, "diffnr"):
        page = write_page(read_runs(run_folders), tmp_path / "report.html").read_text("utf-8")
    assert f"run {run_folders[1]} has no volume.nii.gz and is left out of pictures" in caplog.text
    (case,) = described(page)
    assert [volume["label"] for volume in case["volumes"]] == ["FDK", "truth"]
    # The viewer stays hidden where it has nothing to show.
    shown = re.sub(r'<section id="viewer" hidden>.*?</section>', "", page, flags=re.DOTALL)
    assert "not embedded: &lt;head&gt;." in shown and "DiffNR" in shown
    (run_folders[0] / "volume.nii.gz").unlink()
    assert (
        described(write_page(read_runs(run_folders), tmp_path / "none.html").read_text("utf-8"))
        == []
    )


def test_curves_of_many_runs_differ_in_colour(tmp_path, truth):
    folders = [write_run(tmp_path / f"m{n}", "chest", f"M{n}", truth, truth) for n in range(12)]
    page = write_page(read_runs(folders), tmp_path / "page.html").read_text(encoding="utf-8")
    colours = [volume["colour"] for volume in described(page)[0]["volumes"]]
    assert len(set(colours)) == len(colours) == 13


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_draws_in_a_browser(run_folders, tmp_path):
    page = write_page(read_runs(run_folders), tmp_path / "report.html")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=10000",
        "--dump-dom",
        f"{page.as_uri()}#show=both",
    ]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    stage = done.stdout.split('<div id="stage">')[1].split('<p id="readout"')[0]
    assert 'data-ready="true"' in done.stdout
    # Three planes of two methods and the truth, and the error maps of the methods.
    assert stage.count("<canvas") == 3 * (3 + 2)
    assert '<canvas width="16" height="14"' in stage
    assert "z 6 of 11" in stage
    assert "<polyline" in done.stdout


def test_volumes_of_one_case_and_other_views_are_told_apart(tmp_path, truth):
    folders = [
        write_run(tmp_path / str(views), "chest", "FDK", truth, truth, views=views)
        for views in (8, 12)
    ]
    page = write_page(read_runs(folders), tmp_path / "page.html").read_text(encoding="utf-8")
    labels = [v["label"] for v in described(page)[0]["volumes"]]
    assert labels == ["FDK, 8 views", "FDK, 12 views", "truth"]
