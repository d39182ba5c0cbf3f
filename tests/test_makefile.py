"""What `make` does where the interpreter, or what it should make an environment of, is not as expected."""

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
# An interpreter of another version, whose venv makes its folder and then succeeds or fails.
STAND_IN = """#!/bin/sh
case "$1" in
-c) exec {python} -c 'import sys; sys.version_info = {version}; exec(sys.argv[1])' "$2" ;;
-m) mkdir -p "$3/bin" && touch "$3/bin/python" && exit {status} ;;
esac
"""


@pytest.fixture
def make(repository, tmp_path):
    """Make the interpreter of `.venv` in a folder of its own."""
    shutil.copy(repository / "Makefile", tmp_path)

    def run(version=(3, 12, 1), status=0):
        text = STAND_IN.format(python=f"'{sys.executable}'", version=version, status=status)
        (tmp_path / "stand-in").write_text(text)
        (tmp_path / "stand-in").chmod(0o755)
        command = ["make", ".venv/bin/python", "BOOTSTRAP_PYTHON=./stand-in"]
        # What the `make test` that runs this was given is not for this one.
        given = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
        environment = {name: value for name, value in os.environ.items() if name not in given}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


def test_after_a_failure_the_environment_is_made_anew(make, tmp_path):
    assert make(status=1).returncode != 0
    assert not (tmp_path / ".venv").exists()
    assert make().returncode == 0
    assert (tmp_path / ".venv/bin/python").exists()


def test_what_lay_in_the_folder_stays_after_a_failure(make, tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/notes.txt").touch()
    assert make(status=1).returncode != 0
    assert (tmp_path / ".venv/notes.txt").exists()
    assert not (tmp_path / ".venv/bin/python").exists()


@pytest.mark.parametrize("version", [(3, 9, 2), (3, 14, 0), (4, 0, 0)])
def test_another_python_is_refused_before_anything_is_made(make, tmp_path, version):
    done = make(version)
    assert done.returncode != 0
    said = done.stderr.splitlines()[0]
    assert said.startswith(f"./stand-in is Python {version[0]}.{version[1]}; 3.10 to 3.13")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("minor", [10, 13])
def test_the_bounds_are_those_of_the_package(make, repository, minor):
    assert make((3, minor, 0)).returncode == 0
    assert "python_requires = >=3.10,<3.14\n" in (repository / "setup.cfg").read_text("utf-8")
