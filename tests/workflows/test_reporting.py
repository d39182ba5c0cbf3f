import numpy as np
import pytest

from diffnr_lightning import cli
from tests.reports.conftest import write_run


@pytest.fixture
def runs(tmp_path):
    truth = np.zeros((12, 12, 12), np.float32)
    truth[3:9, 3:9, 3:9] = 0.5
    for method, error in (("FDK", 0.1), ("SIRT", 0.05)):
        write_run(tmp_path / "runs" / method, "chest", method, truth + error, truth)
    return tmp_path / "runs"


def test_published_numbers_and_a_baseline_are_options(runs, tmp_path, capsys):
    (tmp_path / "paper.csv").write_text("method,protocol,psnr\nSIRT,r2,20\n")
    options = ["--runs", runs, "--paper", tmp_path / "paper.csv", "--baseline", "FDK"]
    assert cli.main(["evaluate", *map(str, options), "--out", str(tmp_path / "table")]) == 0
    shown = capsys.readouterr().out
    assert "SIRT against FDK: +6.02 dB" in shown and "SIRT (paper)" in shown
    assert "+6.02" in shown and "+6.02" in (tmp_path / "table/table.md").read_text()
    page = tmp_path / "page.html"
    assert cli.main(["report", *map(str, options), "--out", str(page)]) == 0
    assert "SIRT (paper)" in page.read_text() and "Δbaseline" in page.read_text()


def test_bad_papers_and_baselines_are_refused(runs, tmp_path, capsys):
    def refused(*options):
        assert cli.main(["evaluate", "--runs", str(runs), *options]) == cli.USAGE_ERROR
        return capsys.readouterr().err

    assert "published numbers none.csv does not exist" in refused("--paper", "none.csv")
    assert "the baseline 'NAF' has no run; one of FDK, SIRT" in refused("--baseline", "NAF")
