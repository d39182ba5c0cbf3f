import pytest

from diffnr_lightning import cli
from diffnr_lightning.reports import read_runs


@pytest.mark.filterwarnings("ignore")
def test_the_demo_at_a_small_size(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    options = ["--size", "24", "--num_views", "8"]
    assert cli.main(["demo", "--out", str(tmp_path), *options]) == 0
    table = capsys.readouterr().out
    runs = read_runs([tmp_path])
    assert len(runs) == 4
    for run in runs:
        assert run.method in table
        assert run.protocols["r2"]["psnr"] > 10
    before = (tmp_path / "report.html").stat().st_mtime_ns
    changed = ["--size", "24", "--num_views", "9"]
    assert cli.main(["demo", "--out", str(tmp_path), *changed]) == cli.USAGE_ERROR
    assert "recipe.num_views = 8, not 9" in capsys.readouterr().err
    assert (tmp_path / "report.html").stat().st_mtime_ns == before
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" in page
    # One file that needs no other.
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
