"""No row of any table is dead: the miniatures of all of them, at the least number of views of each."""

import csv
from pathlib import Path

import pytest

from diffnr_lightning import cli
from diffnr_lightning.workflows.tables.experiment import TABLE_FILE, read_experiment

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
TABLES = sorted(p.parent.relative_to(EXPERIMENTS).as_posix() for p in EXPERIMENTS.rglob(TABLE_FILE))
WHOLE = "diffnr/5"
"""Is run in test_table.py, and has pairs of its own, for which it needs a folder of its own."""

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder for all tables: they share the runs, pairs and networks that are the same."""
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("name", [name for name in TABLES if name != WHOLE])
def test_no_row_of_a_miniature_is_dead(name, out, repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("R2_GAUSSIAN", "volumes")
    experiment = read_experiment(name, "miniature")
    views = str(min(experiment.parts[0].views))
    words = ["table", name, "--scale", "miniature", "--views", views, "--out", str(out)]
    assert cli.main(words) == 0
    with (out / "table.csv").open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["ours"]]
    runnable = {row.name for row in experiment.rows if row.method}
    for part in experiment.parts:
        assert {line["method"] for line in lines if line["data"] == part.name} == runnable
