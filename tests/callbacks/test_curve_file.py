import csv

import pytest

from diffnr_lightning.callbacks.curve_file import CurveFile


def rows(path):
    with path.open(newline="") as file:
        return [
            {name: value for name, value in row.items() if value} for row in csv.DictReader(file)
        ]


def test_a_run_goes_on_with_its_curves(tmp_path):
    path = tmp_path / "curves" / "metrics.csv"
    first = CurveFile(path)
    for step in range(4):
        first.log_metrics({"loss": 1.0 / (step + 1)}, step)
    with path.open("a") as file:
        file.write("0.1")  # the kill came in the middle of a line
    # From a checkpoint after step 1.
    again = CurveFile(path)
    for step in (2, 3):
        again.log_metrics({"loss": 1.0 / (step + 1)}, step)
    again.log_metrics({"score": 30.0}, 3)
    assert rows(path) == [
        {"loss": "1.0", "step": "0"},
        {"loss": "0.5", "step": "1"},
        {"loss": str(1 / 3), "step": "2"},
        {"loss": "0.25", "step": "3"},
        {"score": "30.0", "step": "3"},
    ]


def test_settings_are_left_to_the_run_folder(tmp_path):
    CurveFile(tmp_path / "metrics.csv").log_hyperparams({"rate": 1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["loss\n0.5\n", "loss,step\n0.5,two\n", "loss,step\n0.5\n", "loss,step\n1,2,3\n"]
)
def test_damaged_curves_are_told_in_a_sentence(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.csv are damaged; remove them"):
        CurveFile(tmp_path / "metrics.csv").log_metrics({"loss": 1.0}, 3)
    assert (tmp_path / "metrics.csv").read_text() == text
