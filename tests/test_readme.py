"""The commands of the documents exist as they are written, and the marked ones run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documented_commands import check_command

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "experiments").rglob("README.md")),
]
BLOCK = re.compile(r"(<!-- run -->\n)?```bash\n(.*?)```", re.DOTALL)


def blocks():
    for document in DOCUMENTS:
        for marked, text in BLOCK.findall(document.read_text(encoding="utf-8")):
            yield bool(marked), text.replace("\\\n", " ")


LINES = [line for _, text in blocks() for line in text.splitlines() if line.strip()]
MARKED = [text for marked, text in blocks() if marked]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("diffnr ")])
def test_commands_and_options_exist(line):
    check_command(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_readme_is_a_manual_and_no_book():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("line", LINES)
def test_files_of_the_repository_exist(line):
    for word in shlex.split(line, comments=True):
        if word.startswith(("configs/", "experiments/", "notebooks/", "benchmarks/", "tests/")):
            assert (REPOSITORY / word).exists(), word


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_named_in_the_text_exist(document):
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"`((?:configs|notebooks|benchmarks|tests|diffnr_lightning)/[\w./]*)`", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    for name in [*named, *links]:
        if Path(name).stem in ("x", "test_x"):  # stands for any name
            continue
        found = (document.parent / name, REPOSITORY / name, REPOSITORY / f"{name}.py")
        assert any(path.exists() for path in found), name


@pytest.mark.parametrize("text", MARKED, ids=lambda text: text.split()[1])
def test_marked_commands_run(text, tmp_path):
    (tmp_path / "diffnr").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m diffnr_lightning.cli "$@"\n'
    )
    (tmp_path / "diffnr").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    for out in re.findall(r"--out (\S+)", text):
        assert (tmp_path / out).exists()


def test_something_is_marked():
    assert MARKED
