"""What a table refuses before it computes anything."""

import csv
import importlib
import json
from pathlib import Path

import pytest
import yaml

from diffnr_lightning import cli, workflows
from diffnr_lightning.files import write_json
from diffnr_lightning.workflows.command_line.settings import configured, parse
from diffnr_lightning.workflows.tables.experiment import Part, read_experiment

PART = (
    "title: A table\nparts: {Chests: {volumes: [phantom:3], scans: [SCAN], views: [6]}}\n"
    "pairs: {full: tiny/curate}\nrows: {A: {method: METHOD, prior: {full: PRIOR}}}\n"
)


@pytest.fixture
def table(tmp_path, repository, monkeypatch):
    """Run a table of one row that trains; nothing is computed."""
    monkeypatch.chdir(repository)
    module = importlib.import_module("diffnr_lightning.workflows.table")
    for name in ("curate", "_run_training"):
        monkeypatch.setattr(module, name, lambda *words, name=name, **given: pytest.fail(name))

    def run(*more, scan="tiny/simulate", method="voxel_grid", prior="tiny/finetune"):
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        text = PART.replace("SCAN", scan).replace("METHOD", method).replace("PRIOR", str(prior))
        (folder / "table.yaml").write_text(text)
        return cli.main(["table", str(folder), "--out", str(tmp_path / "out"), *more])

    return run


def trained(tmp_path, prior, **changed):
    """Write what a training leaves that `read_experiment` names, its record changed."""
    (training,) = read_experiment(str(tmp_path / "mine")).rows[0].trainings(tmp_path / "out")
    given = {"out": training.folder, "data.folders": ["/elsewhere/pairs"], "devices": 2}
    record = configured(workflows.finetune, [prior], given).resolved
    for dotted, value in changed.items():
        *parents, key = dotted.split("__")
        node = record
        for parent in parents:
            node = node[parent]
        node[key] = value
        if value is None:
            del node[key]
    write_json(training.folder / "metrics.json", {})
    (training.folder / "config.yaml").write_text(yaml.safe_dump(record))


def ends_of(table, capsys, *more, **given):
    """The code and the last lines of a table that reached its runs, or did not."""
    code = table(*more, **given)
    return code, " ".join(capsys.readouterr().err.split())


def prior_of(tmp_path, **module):
    content = yaml.safe_load(Path("configs/tiny/finetune.yaml").read_text())
    content["module"]["init_args"] |= module
    path = tmp_path / "prior.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("submit", [(), ("--submit", "local")])
def test_a_network_that_was_trained_by_other_settings_is_refused(table, tmp_path, capsys, submit):
    prior = prior_of(tmp_path)
    table("--plan", "true", prior=prior)
    trained(tmp_path, prior)
    prior_of(tmp_path, lambda_gan=0.2)
    code, told = ends_of(table, capsys, *submit, prior=prior)
    assert code == cli.USAGE_ERROR
    assert "lambda_gan = 0.1, not 0.2; give another --out, or remove that folder" in told


@pytest.mark.parametrize(
    "changed",
    [{}, {"module__init_args__log_every": None}, {"num_nodes": None}],
    ids=["the same", "of a version without an option of a class", "or of the command"],
)
def test_a_network_of_the_same_settings_is_kept(table, tmp_path, monkeypatch, changed):
    module = importlib.import_module("diffnr_lightning.workflows.table")
    monkeypatch.setattr(module, "_run", lambda *given: {})
    prior = prior_of(tmp_path)
    table("--plan", "true", prior=prior)
    trained(tmp_path, prior, **changed)
    assert table(prior=prior) == 0


def test_a_network_of_other_settings_is_shown_with_a_warning(table, tmp_path, monkeypatch, caplog):
    module = importlib.import_module("diffnr_lightning.workflows.table")
    monkeypatch.setattr(module, "_show", lambda *given: None)
    prior = prior_of(tmp_path)
    table("--plan", "true", prior=prior)
    trained(tmp_path, prior)
    prior_of(tmp_path, lambda_gan=0.2)
    assert table("--run", "false", prior=prior) == 0
    assert "lambda_gan = 0.1, not 0.2" in caplog.text


def test_a_network_that_was_trained_from_python_is_kept(table, tmp_path, monkeypatch, caplog):
    module = importlib.import_module("diffnr_lightning.workflows.table")
    monkeypatch.setattr(module, "_run", lambda *given: {})
    prior = prior_of(tmp_path)
    table("--plan", "true", prior=prior)
    trained(tmp_path, prior)
    record = next(tmp_path.glob("out/priors/*/config.yaml"))
    record.write_text(yaml.safe_dump({"iterations": 3, "seed": 0, "built": {"precision": "32"}}))
    assert table(prior=prior) == 0
    assert "was trained from Python" in caplog.text


def test_what_is_mistyped_behind_a_training_is_known_before_it(table, tmp_path, capsys):
    (tmp_path / "typo.yaml").write_text("sise: 16\n")
    (tmp_path / "method.yaml").write_text("sed: 1\n")
    code, told = ends_of(table, capsys, scan=f"tiny/simulate+{tmp_path / 'typo.yaml'}")
    assert code == cli.USAGE_ERROR and "sise" in told
    code, told = ends_of(table, capsys, method=f"voxel_grid+{tmp_path / 'method.yaml'}")
    assert code == cli.USAGE_ERROR and "sed" in told
    code, told = ends_of(table, capsys, prior=prior_of(tmp_path, lambda_gam=0.1))
    assert code == cli.USAGE_ERROR and "lambda_gam" in told


def test_a_logger_that_is_not_there_is_known_before_a_training(table, tmp_path, capsys):
    code, told = ends_of(table, capsys, "--curves", "logger/csv")
    assert code == cli.USAGE_ERROR and "did you mean loggers/csv.yaml" in told
    (tmp_path / "logger.yaml").write_text("curves: {class_path: nowhere.Logger}\n")
    code, told = ends_of(table, capsys, "--curves", str(tmp_path / "logger.yaml"))
    assert code == cli.USAGE_ERROR and "there is no module 'nowhere'" in told
    assert not (tmp_path / "out").exists()


def test_the_volumes_of_a_part_are_known_where_a_variable_names_their_folder(tmp_path, monkeypatch):
    volumes = importlib.import_module("diffnr_lightning.workflows.table")._volumes
    part = Part("Chests", ("${oc.env:CHESTS}/*.npy",), (), ())
    monkeypatch.delenv("CHESTS", raising=False)
    assert volumes(part) is None
    monkeypatch.setenv("CHESTS", str(tmp_path))
    assert volumes(part) is None, "there are none"
    (tmp_path / "one.npy").touch()
    assert volumes(part) == {"one"}


def test_a_training_finds_its_pairs_in_any_folder(table, tmp_path):
    table("--plan", "true")
    out = tmp_path / "one, two"
    (training,) = read_experiment(str(tmp_path / "mine")).rows[0].trainings(out)
    data = parse(workflows.finetune, training.words[1:], build=False).resolved["data"]
    assert data.get("init_args", data)["folders"] == [str(out / "pairs")]


def test_some_views_of_a_table_are_shown_alone(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    arguments = ["table", "diffnr/1", "--run", "false", "--out", str(tmp_path)]
    for views, shown in ((["--views", "[36]"], {"36", ""}), ([], {"36", "24", "12", ""})):
        assert cli.main([*arguments, *views]) == 0
        with (tmp_path / "table.csv").open(newline="") as file:
            assert {line["views"] for line in csv.DictReader(file)} == shown


def test_rows_of_one_method_count_their_runs_once(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    part = "{volumes: [phantom:3], scans: [tiny/simulate], views: [6]}"
    (tmp_path / "table.yaml").write_text(
        f"title: A table\nparts: {{Chests: {part}}}\nrows: {{A: {{method: fdk}}, B: {{method: fdk}}}}\n"
    )
    out = tmp_path / "out"
    assert cli.main(["table", str(tmp_path), "--out", str(out)]) == 0
    assert json.loads((out / "table.provenance.json").read_text())["runs"] == 1


def test_rows_that_cannot_be_run_are_not_submitted(tmp_path, monkeypatch, capsys):
    module = importlib.import_module("diffnr_lightning.workflows.table")
    handed = []
    monkeypatch.setattr(module, "hand_over", lambda command, *given: handed.append(command))
    rows = "rows: {A: {method: fdk}, B: {method: no_method}, C: {reason: no code}}\n"
    (tmp_path / "table.yaml").write_text(
        PART.partition("pairs:")[0].replace("SCAN", "tiny/simulate") + rows
    )
    arguments = ["table", str(tmp_path), "--out", str(tmp_path / "out"), "--submit", "local"]
    assert cli.main([*arguments, "--rows", "A", "B"]) == cli.USAGE_ERROR
    assert "1 of 2 rows failed (B) and were not submitted" in capsys.readouterr().err
    assert len(handed) == 1 and "--methods fdk --out" in handed[0]
    assert cli.main([*arguments, "--rows", "C"]) == cli.USAGE_ERROR
    assert "no row can be run (C: no code)" in capsys.readouterr().err
    assert cli.main([*arguments[:-2], "--rows", "C", "--plan", "true"]) == 0
    assert len(handed) == 1 and capsys.readouterr().out == ""


def test_names_are_those_that_are_written(tmp_path, repository, monkeypatch, capsys):
    """Also where YAML reads them as truth values, numbers or nothing."""
    monkeypatch.chdir(repository)
    names = ["on", "no", "1e5", "1.0e+5", "010", "null", "2026-01-31"]
    part = "{volumes: [phantom:3], scans: [tiny/simulate], views: [6]}"
    rows = "".join(f"  {name}: {{method: fdk}}\n" for name in names)
    (tmp_path / "table.yaml").write_text(f"title: A\nparts: {{010: {part}}}\nrows:\n{rows}")
    read = read_experiment(str(tmp_path))
    assert [row.name for row in read.rows] == names
    assert [part.name for part in read.parts] == ["010"]
    assert read.parts[0].views == (6,)
    arguments = ["table", str(tmp_path), "--out", str(tmp_path / "out"), "--plan", "true"]
    assert cli.main([*arguments, "--rows", *names]) == 0
    capsys.readouterr()
    assert cli.main([*arguments, "--rows", "yes"]) == cli.USAGE_ERROR
    assert "rows has 'yes'; any of on, no, 1e5," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("title", "row", "words"),
    [
        ("2000", "method: fdk", "title is 2000, which YAML reads as int; text, in quotes"),
        ("A", "method: 7", "method is 7, which YAML reads as int"),
        ("A", "reason: no", "reason of the row A is False, which YAML reads as bool"),
    ],
)
def test_text_that_yaml_reads_as_something_else_is_refused(title, row, words, tmp_path):
    part = "{volumes: [phantom:3], scans: [tiny/simulate], views: [6]}"
    (tmp_path / "table.yaml").write_text(
        f"title: {title}\nparts: {{P: {part}}}\nrows: {{A: {{{row}}}}}\n"
    )
    with pytest.raises(ValueError, match=words):
        read_experiment(str(tmp_path))
