"""How a command refuses."""

import pytest

from diffnr_lightning import cli


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder, and return its complaint."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        before = set(tmp_path.rglob("*"))
        capsys.readouterr()
        assert cli.main([str(argument) for argument in arguments]) == cli.USAGE_ERROR
        error = capsys.readouterr().err
        last = error.splitlines()[-1]
        assert last.startswith(f"diffnr {arguments[0]}: error: ")
        assert "Traceback" not in error
        assert set(tmp_path.rglob("*")) == before
        return last

    return run
