import numpy as np
import pytest

from diffnr_lightning.reports import ShownVolume
from diffnr_lightning.reports.panels import Panels, broken_titles, laid_out


def shown(shape=(8, 12, 16), unit="HU"):
    return ShownVolume(np.zeros(shape, np.float32), (2.0, 1.0, 1.0), None, unit)


def panels(truth=None, maps=(), **columns):
    columns = columns or {"fdk": shown()}
    columns |= {} if truth is None else {"truth": truth}
    return Panels(columns, truth, frozenset(maps), (4, 6, 8), (-1000.0, 1000.0), 200.0)


def test_each_plane_is_followed_by_its_errors_where_the_truth_is_known():
    assert [(plane.name, kind) for plane, kind in panels().rows()] == [
        ("axial", "image"), ("coronal", "image"), ("sagittal", "image"),
    ]  # fmt: skip
    rows = panels(shown()).rows()
    assert [kind for _, kind in rows] == ["image", "error"] * 3
    assert [plane.name for plane, _ in rows[:3]] == ["axial", "axial", "coronal"]


def test_rows_are_as_high_as_their_planes_in_millimetres():
    # 16 mm of columns; 12 mm of y, 8 slices of 2 mm.
    assert panels().heights() == [12 / 16, 1.0, 1.0]
    assert panels(thin=shown((1, 16, 16))).heights() == [1.0]


def test_the_truth_and_maps_have_no_errors():
    truth = shown()
    drawn = panels(truth, ("added",), fdk=shown(), added=shown())
    assert [drawn.is_blank(name, "error") for name in ("fdk", "truth", "added")] == [
        False, True, True,
    ]  # fmt: skip
    assert not any(drawn.is_blank(name, "image") for name in drawn.columns)


def test_the_note_says_what_colours_stand_for():
    assert panels().note() == "window -1000 to 1000 HU"
    assert panels(shown()).note().endswith("; error maps |volume - truth| from 0 to 200 HU")
    drawn = panels(None, ("added",), fdk=shown(unit="arbitrary"), added=shown())
    assert drawn.note() == "window -1000 to 1000; maps from 0 to 200"


def test_there_is_room_for_titles_of_several_lines():
    titles = broken_titles(["3D Gaussians and DiffNR"], {"3D Gaussians and DiffNR": "30 dB"}, 1.0)
    assert titles["3D Gaussians and DiffNR"].split("\n") == ["3D Gaussians", "and DiffNR", "30 dB"]
    low, _ = laid_out([1.0], 2, 2.0, ["one"])
    high, cells = laid_out([1.0, 0.5], 2, 2.0, titles.values())
    assert low.get_size_inches() == pytest.approx([4.4, 2.9])
    assert high.get_size_inches() == pytest.approx([4.4, 4.06])
    assert cells.get_geometry() == (2, 2)
