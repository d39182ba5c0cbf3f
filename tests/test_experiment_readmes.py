"""Experiments document themselves: claim, command and provenance, and numbers that their results have."""

import csv
import hashlib
import json
import re
import subprocess
from pathlib import Path
from statistics import fmean

import pytest
from documented_commands import check_command

from diffnr_lightning.reports import provenance_in_words
from diffnr_lightning.workflows.command_line.config_files import config_files

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
FOLDERS = sorted(
    folder
    for top in EXPERIMENTS.iterdir()
    for folder in (top.iterdir() if top.name == "diffnr" else [top])
    if folder.is_dir() and folder.name != "__pycache__"
)
RESULTS = sorted(EXPERIMENTS.rglob("results*.csv"))
COMMAND_BLOCK = re.compile(
    r"(?<=\n\n)((?: {4}[^\n]*\n)+)|^```(?:bash)?\n(.*?)^```", re.DOTALL | re.M
)
# A shell in which the programs that READMEs call tell what they were called with, and nothing else can be called.
STUBS = r"""
diffnr() { printf '%s\0' diffnr "$@" END; }
python() { printf '%s\0' python "$@" END; }
git() { :; }
wandb() { :; }
"""
CELL_OF_NUMBERS = re.compile(r"^(?=.*\d\.\d)[*\d\s./,+–\-()%]*(?:(?:dB|s|GB)[*\d\s./,+–\-()%]*)*$")
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+")


def name_of(path):
    return path.relative_to(EXPERIMENTS).as_posix()


def section(text, head):
    found = re.search(rf"^## {head}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def commands_of(text, folder):
    """Return the words of every call that the blocks of a README make, as a shell expands them."""
    blocks = [first or second for first, second in COMMAND_BLOCK.findall(text)]
    script = STUBS + "\n".join(blocks)
    for name in ("runs", "cases"):
        (folder / name).mkdir()
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    calls, words = [], []
    for word in done.stdout.split("\0")[:-1]:
        if word == "END":
            calls.append(words)
            words = []
        else:
            words.append(word)
    return calls


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_an_experiment_says_claim_command_and_provenance(folder, tmp_path, repository, monkeypatch):
    text = (folder / "README.md").read_text(encoding="utf-8")
    claim = text.split("\n\n")[1]
    assert len(claim) > 60 and not claim.startswith((" ", "|", "#", "```"))
    assert section(text, "Provenance")
    calls = commands_of(text, tmp_path)
    assert calls or {path.name for path in folder.iterdir()} == {"README.md", "paper.csv"}
    monkeypatch.chdir(repository)
    for program, *words in calls:
        if program == "python":
            assert Path(words[0]).is_file(), words[0]
            continue
        check_command(words)
        option = ""
        for word in words:
            option = word if word.startswith("--") else option
            if option in ("--config", "--methods", "--scans") and word != option:
                assert config_files(word)


def test_the_index_names_every_experiment():
    index = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    linked = {name for name in re.findall(r"\]\(([\w/]+)/README\.md\)", index)}
    # The tables of one paper stand in one row, from the first to the last.
    named = {name_of(folder) for folder in FOLDERS if folder.parent.name != "diffnr"}
    assert linked == named | {"diffnr/1", "diffnr/6"}


@pytest.mark.parametrize("results", RESULTS, ids=name_of)
def test_the_provenance_of_results_is_of_these_results_and_told(results):
    record = json.loads(results.with_name(f"{results.stem}.provenance.json").read_text())
    assert record["table"] == results.name
    assert record["table_sha256"] == hashlib.sha256(results.read_bytes()).hexdigest()
    assert record["runs"] or record["note"]
    told = section((results.parent / "README.md").read_text(encoding="utf-8"), "Provenance")
    assert provenance_in_words(record) in told


def tables_of(text):
    """Yield the line above each table whose cells are numbers, and its rows of cells."""
    for found in re.finditer(r"(.*)\n\n?((?:^\|.*\n)+)", text, re.MULTILINE):
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in found[2].splitlines()
        ]
        if any(CELL_OF_NUMBERS.match(cell) for row in rows[2:] for cell in row[1:]):
            yield found[1], rows


def readme_tables():
    for folder in FOLDERS:
        text = (
            (folder / "README.md").read_text(encoding="utf-8")
            if (folder / "README.md").is_file()
            else ""
        )
        for number, (above, rows) in enumerate(tables_of(text), 1):
            yield pytest.param(folder, above, rows, id=f"{name_of(folder)}-{number}")


def numbers_of(lines):
    """Return what rows hold; memory in GB too."""
    known = [
        (key, float(value))
        for line in lines
        for key, value in line.items()
        if value and key not in ("method", "case", "kind", "noise", "views", "size", "cases")
    ]
    memory = [value / 1024 for key, value in known if key == "peak_memory_mb"]
    return [value for key, value in known if not key.endswith(("_low", "_high"))] + memory


def means_over(lines, cases):
    """Return the means over cases of what one method has on all of them, in each setting by itself."""
    groups = {}
    for line in lines:
        if line["case"] in cases:
            groups.setdefault((line.get("views"), line.get("noise")), []).append(line)
    means = []
    for group in groups.values():
        for key in (key for key in group[0] if key.endswith(("psnr", "ssim"))):
            values = {line["case"]: float(line[key]) for line in group if line[key]}
            if values.keys() == cases:
                means.append(fmean(values.values()))
    return means


@pytest.mark.parametrize(("folder", "above", "rows"), list(readme_tables()))
def test_numbers_of_a_table_are_in_the_results(folder, above, rows):
    """The line above a table names its results, or says why it has none that are kept.

    `<!-- checked: results.csv; mean over pt_1, pt_2; tooth = tooth_1mm -->`: the numbers of a row have to be,
    rounded, of the method or case that its first cell names (as the results call it behind the sign), or its means
    over these cases.
    """
    assert above.startswith(("<!-- checked: ", "<!-- unchecked: ")), "say where its numbers are"
    if above.startswith("<!-- unchecked: "):
        assert len(above) > 40
        return
    files, *said = [part.strip() for part in above[len("<!-- checked: ") : -len(" -->")].split(";")]
    lines = []
    for file in files.split(", "):
        with (folder / file).open(newline="", encoding="utf-8") as table:
            lines += list(csv.DictReader(table))
    cases = {
        name for part in said if part.startswith("mean over ") for name in part[10:].split(", ")
    }
    names = dict(part.split(" = ") for part in said if " = " in part)
    for label, *cells in rows[2:]:
        name = names.get(label.strip("*`"), label.strip("*`"))
        of_row = [line for line in lines if name in (line["method"], line["case"])]
        assert of_row, f"{name} is in no row of {files}"
        known = [*numbers_of(of_row), *(means_over(of_row, cases) if cases else [])]
        for text in NUMBER.findall(" ".join(cells)):
            half = 0.5 * 10 ** -len(text.partition(".")[2])
            found = any(abs(float(text) - value) <= half + 1e-9 for value in known)
            assert found, f"{text} of {label} is not in {files}"
