from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from diffnr_lightning.reports import (
    ShownVolume,
    figures,
    preview,
    read_runs,
    slice_panels,
    write_comparison,
)
from diffnr_lightning.reports.figures import (
    display_window,
    full_window,
    prior_panels,
    run_labels,
)
from diffnr_lightning.reports.runs import read_run

from .conftest import write_run


def shown(values, unit="arbitrary", window=None):
    return ShownVolume(np.asarray(values, np.float32), (1.0, 1.0, 1.0), window, unit)


def test_preview_with_and_without_truth(tmp_path, truth):
    alone = imread(preview(truth, None, tmp_path / "alone.png"))
    beside = imread(preview(truth + 0.2, truth, tmp_path / "deep" / "beside.png"))
    assert beside.shape[1] > 1.5 * alone.shape[1]
    # Error maps are the only thing in colour, and equal volumes have black ones.
    coloured = np.ptp(beside[..., :3], axis=-1).max()
    assert coloured > 0.2
    equal = imread(preview(truth, truth, tmp_path / "equal.png"))
    assert np.ptp(equal[..., :3], axis=-1).max() < 0.05
    assert not list(tmp_path.glob(".*"))


def test_what_a_prior_added_is_in_colour_beside_the_volume(tmp_path, truth):
    nothing = imread(prior_panels(shown(truth), shown(0 * truth), tmp_path / "nothing.png"))
    added = imread(prior_panels(shown(truth), shown(0.1 * truth), tmp_path / "added.png"))
    assert np.ptp(nothing[..., :3], axis=-1).max() < 0.05
    coloured = np.ptp(added[..., :3], axis=-1) > 0.2
    columns = np.flatnonzero(coloured.any(axis=0))
    assert columns.min() > 0.45 * added.shape[1]


def test_comparison_has_one_column_per_method_and_the_truth(run_folders, tmp_path):
    one = imread(write_comparison(read_runs(run_folders[:1]), tmp_path / "one.png"))
    two = imread(write_comparison(read_runs(run_folders), tmp_path / "two.png"))
    # Two columns are drawn half as large again as three.
    assert two.shape[1] / one.shape[1] == pytest.approx(1, abs=0.05)


def test_a_comparison_shows_a_method_once_for_each_number_of_views(tmp_path, truth):
    for views in (12, 24):
        write_run(tmp_path / f"{views}_views/fdk", "chest", "FDK", truth, truth, views=views)
    runs = read_runs([tmp_path])
    assert run_labels(runs) == ["FDK, 12 views", "FDK, 24 views"]
    both, one = (
        imread(write_comparison(chosen, tmp_path / "shown.png")) for chosen in (runs, runs[:1])
    )
    # Three columns with the truth, where the two of one run are half as large again.
    assert both.shape[0] < one.shape[0]


def test_a_comparison_says_which_noise_is_whose(tmp_path, truth):
    noises = ({"mode": "none"}, {"mode": "physical", "photons": 1e4, "electronic": 10.0})
    for number, noise in enumerate(noises):
        write_run(tmp_path / f"{number}/fdk", "chest", "FDK", truth, truth, views=12, noise=noise)
    assert run_labels(read_runs([tmp_path])) == ["FDK, noise none", "FDK, noise physical 10000±10"]


def test_a_comparison_says_which_scan_or_sweep_is_whose(tmp_path, truth):
    for place in ("arcs/body", "arcs/limited90", "again/limited90"):
        write_run(tmp_path / place / "24_views/one/sirt", "one", "SIRT", truth, truth)
    of_one, both = read_runs([tmp_path / "arcs"]), read_runs([tmp_path])
    assert run_labels(of_one) == ["SIRT (body)", "SIRT (limited90)"]
    assert run_labels(both) == [
        "SIRT (again/limited90)",
        "SIRT (arcs/body)",
        "SIRT (arcs/limited90)",
    ]


def test_a_comparison_says_which_case_folder_is_whose(tmp_path, truth):
    runs = [
        replace(read_run(write_run(tmp_path / name, "one", "SIRT", truth)), case_folder=Path(case))
        for name, case in (("a", "cases/body"), ("b", "cases/limited90"))
    ]
    assert run_labels(runs) == ["SIRT (a/body)", "SIRT (b/limited90)"]


def test_a_run_deeper_than_another_is_named_below_the_folder_of_both(tmp_path, truth):
    for place in ("sirt", "again/sirt"):
        write_run(tmp_path / "runs" / place, "one", "SIRT", truth)
    assert run_labels(read_runs([tmp_path])) == ["SIRT (again)", "SIRT (runs)"]


def test_a_run_that_is_given_twice_is_shown_twice(run_folders, tmp_path):
    run = read_run(run_folders[0])
    assert run_labels([run, run, run]) == ["FDK", "FDK'", "FDK''"]
    # Three columns with the truth, where the two of one run are half as large again.
    twice, once = (
        imread(write_comparison(chosen, tmp_path / "shown.png")) for chosen in ([run, run], [run])
    )
    assert twice.shape[0] < once.shape[0]


def test_a_label_that_a_method_has_for_its_name_is_given_once(run_folders):
    first, other = map(read_run, run_folders[:2])
    named = replace(other, method="FDK'")
    assert len(set(run_labels([first, named, first]))) == 3


def test_long_names_of_methods_stay_above_their_own_columns(tmp_path, truth, monkeypatch):
    drawn = []
    save = figures._save
    monkeypatch.setattr(
        figures, "_save", lambda figure, path: drawn.append(figure) or save(figure, path)
    )
    names = [f"3D Gaussians (paper) + DiffNR + data consistency, {kind}" for kind in "abcd"]
    captions = dict.fromkeys(names, "27.97 dB / 0.929")
    slice_panels(
        {name: shown(truth) for name in names}, None, tmp_path / "long.png", captions=captions
    )
    titles = [axes.title for axes in drawn[0].axes if axes.get_title()]
    assert [" ".join(title.get_text().split()) for title in titles] == [
        f"{name} {captions[name]}" for name in names
    ]
    extents = [title.get_window_extent() for title in titles]
    assert all(left.x1 < right.x0 for left, right in pairwise(extents))
    assert max(extent.y1 for extent in extents) < drawn[0].bbox.height


def test_planes_too_thin_to_show_anything_are_left_out(tmp_path, truth):
    whole = imread(preview(truth, None, tmp_path / "whole.png"))
    thin = imread(preview(truth[:2], None, tmp_path / "thin.png"))
    assert whole.shape[0] > 2 * thin.shape[0] > 0.5 * whole.shape[0]


def test_windows():
    volume = shown(np.linspace(-2, 3, 1000).reshape(10, 10, 10))
    truth = shown(np.linspace(0, 1, 1000).reshape(10, 10, 10))
    assert full_window({"a": volume}, truth) == (0.0, 1.0)
    low, high = full_window({"a": volume}, None)
    assert -2 < low < -1.9
    assert 2.9 < high < 3
    hu = shown(volume.values, "HU", (-1000.0, 3000.0))
    assert full_window({"a": hu}, None) == (-1000.0, 3000.0)
    assert display_window({"a": hu}, None) == (-1000.0, 1000.0)
    constant = shown(np.ones((3, 3, 3)))
    low, high = full_window({"a": constant}, None)
    assert high > low


def test_what_cannot_be_drawn_is_refused(tmp_path, truth):
    with pytest.raises(ValueError, match="no volumes"):
        slice_panels({}, None, tmp_path / "a.png")
    with pytest.raises(ValueError, match="one shape is expected"):
        slice_panels({"a": shown(truth)}, shown(truth[1:]), tmp_path / "a.png")
    with pytest.raises(ValueError, match="outside"):
        slice_panels({"a": shown(truth)}, None, tmp_path / "a.png", position=(99, 0, 0))
    with pytest.raises(ValueError, match="no runs"):
        write_comparison([], tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        preview(truth, None, tmp_path / "file" / "a.png")
