import errno
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import fake_workflows
import pytest
import yaml

from diffnr_lightning import cli

METHOD = """
method:
  class_path: fake_workflows.Solver
  init_args:
    iterations: 7
    body: {class_path: fake_workflows.Body, init_args: {count: 9}}
"""


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(cli, "WORKFLOWS", "fake_workflows")
    fake_workflows.CALLS.clear()


@pytest.fixture
def config(tmp_path):
    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def reconstruct(*options, case="case"):
    return cli.main(["reconstruct", "--case", case, "--out", "run", *options])


def test_help_and_version_load_nothing_heavy():
    program = (
        "import sys; from diffnr_lightning import cli;"
        "cli.main(['--help']); cli.main(['--version']);"
        "sys.exit(bool({'torch', 'numpy', 'jsonargparse'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)


def test_a_config_becomes_objects_and_a_record(config):
    assert reconstruct("--config", config(METHOD), "--noise.photons", "1e4") == 0
    (call,) = fake_workflows.CALLS
    assert call["case"] == Path("case")
    assert call["method"].iterations == 7
    assert vars(call["method"].body(3)) == {"size": 3, "count": 9}
    assert call["noise"] == fake_workflows.Noise(photons=1e4)
    assert call["resolved"]["noise"] == {"photons": 1e4, "mode": "physical"}
    assert call["resolved"]["method"]["init_args"]["body"]["init_args"] == {"count": 9}
    assert call["resolved"]["seed"] == 0
    assert yaml.safe_load(yaml.safe_dump(call["resolved"])) == call["resolved"]


def test_configs_merge_from_left_to_right_and_options_win(config):
    first = config(METHOD + "seed: 1\nnoise: {photons: 5}\n", "first.yaml")
    second = config("method: {init_args: {iterations: 8}}\nseed: 2\n", "second.yaml")
    assert reconstruct("--config", first, "--config", second, "--noise.mode", "tigre") == 0
    (call,) = fake_workflows.CALLS
    assert (call["seed"], call["method"].iterations) == (2, 8)
    assert call["method"].body(1).count == 9
    assert call["noise"] == fake_workflows.Noise(5.0, "tigre")


def test_interpolation_follows_overrides_across_files(config):
    first = config(
        METHOD.replace("iterations: 7", "iterations: ${seed}") + "seed: 1\n", "first.yaml"
    )
    second = config("seed: 40\n", "second.yaml")
    assert reconstruct("--config", first, "--config", second) == 0
    assert fake_workflows.CALLS[0]["method"].iterations == 40


def test_a_command_may_have_no_options():
    assert cli.main(["doctor"]) == 0
    assert fake_workflows.CALLS == [{}]


def test_fields_of_a_flattened_dataclass_are_options_of_the_command(config, capsys):
    text = config("size: 32\nnoise: {photons: 5}\n")
    options = ["--volume", "a", "--config", text, "--window", "-1", "2", "--noise.mode", "tigre"]
    assert cli.main(["simulate", *options]) == 0
    noise = fake_workflows.Noise(5.0, "tigre")
    recipe = fake_workflows.Recipe(32, 5, (-1.0, 2.0), noise)
    assert fake_workflows.CALLS.pop() == {"volume": "a", "recipe": recipe}
    # What is not given is the parameter's default, not the dataclass's.
    assert cli.main(["simulate", "--volume", "a"]) == 0
    assert fake_workflows.CALLS.pop()["recipe"] == fake_workflows.STANDARD_RECIPE
    for wrong, words in (
        (["--size", "3"], ["error: size is 3; at least 8 is expected."]),
        (["--views", "3"], ["unknown option --views"]),
        (["--sise", "3"], ["did you mean --size"]),
    ):
        assert cli.main(["simulate", "--volume", "a", *wrong]) == cli.USAGE_ERROR
        assert_one_sentence(capsys, words, prog="diffnr simulate")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--window", "3"], "--window is '3'; two numbers are expected, such as --window 0 1."),
        (["--window", "-1", "2", "3"], "--window is '-1 2 3'; two numbers are expected, such as"),
        (["--window"], "--window is given without a value; two numbers are expected, such as"),
        (
            ["--edges", "1", "2"],
            "--edges is '1 2'; one number or three numbers or null is expected",
        ),
    ],
)
def test_refused_numbers_come_with_an_example(capsys, options, sentence):
    assert cli.main(["simulate", "--volume", "a", *options]) == cli.USAGE_ERROR
    assert_one_sentence(capsys, [sentence], prog="diffnr simulate")


@pytest.mark.parametrize(
    ("options", "edges"),
    [
        (["2"], 2.0),
        (["-2e0"], -2.0),
        (["2", "1", "1"], (2.0, 1.0, 1.0)),
        (["[2, 1, 1]"], (2.0, 1.0, 1.0)),
        (["null"], None),
    ],
)
def test_one_number_where_one_or_several_are_taken(options, edges):
    assert cli.main(["simulate", "--volume", "a", "--edges", *options]) == 0
    assert fake_workflows.CALLS[0]["recipe"].edges == edges


def test_null_is_recorded(config):
    assert reconstruct("--config", config(METHOD), "--noise.photons", "null") == 0
    assert fake_workflows.CALLS[0]["resolved"]["noise"]["photons"] is None


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (["--runs", "a", "b", "007"], ["a", "b", "007"]),
        (["--runs", "a"], ["a"]),
        (["--runs", "yes", "a, b"], ["yes", "a, b"]),
        (["--runs", '["a", "b"]'], ["a", "b"]),
        (["--runs=[a, b]"], ["a", "b"]),
        (["--runs=007"], ["007"]),
        (["--runs=[ab]*"], ["[ab]*"]),
        (["--runs=a"], ["a"]),
    ],
)
def test_lists_take_several_values(options, runs):
    assert cli.main(["evaluate", *options, "--window_hu", "-1000", "1e3"]) == 0
    (call,) = fake_workflows.CALLS
    assert call == {"runs": [Path(run) for run in runs], "window_hu": (-1000.0, 1000.0)}


@pytest.mark.parametrize("option", ["--data.folders", "--data.init_args.folders"])
@pytest.mark.parametrize("folders", [["a"], ["a", "b"]])
def test_lists_of_a_nested_class_too(option, folders):
    assert cli.main(["finetune", option, *folders]) == 0
    assert [str(folder) for folder in fake_workflows.CALLS[0]["data"].folders] == folders


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--nose.photons", "3"],
            ["unknown option --nose.photons", "did you mean --noise.photons"],
        ),
        (["--noise.photons", "many"], ["--noise.photons", "'many'", "float or null is expected"]),
        (["--seed", "1.5"], ["--seed", "'1.5'", "int is expected"]),
        (["--noise.mode", "none"], ["--noise.mode", "'none'", "physical"]),
        (["--noise.photons", "-3"], ["photons is -3.0", "positive"]),
        (["--method.init_args.iteration", "3"], ["--method", "fake_workflows.Solver has no"]),
        (["--method.iteration", "3"], ["'iteration'; did you mean iterations"]),
        (["--method.iterations", "few"], ["--method.iterations", "'few'; int is expected"]),
        (["--method.body.count", "few"], ["--method.body.count", "'few'; int is expected"]),
        (["--method.stop.after", "few"], ["--method.stop.after", "'few'; int is expected"]),
        (["--method.stop.afer", "3"], ["fake_workflows.Stop has no 'afer'; did you mean after"]),
        (["--method.stop.after", "0"], ["error: after is 0; at least one is expected."]),
        (["--config", "none.yaml"], ["none.yaml", "does not exist"]),
    ],
)
def test_bad_options_are_one_sentence(config, capsys, options, words):
    assert reconstruct("--config", config(METHOD), *options) == cli.USAGE_ERROR
    assert_one_sentence(capsys, words)
    assert not fake_workflows.CALLS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sead: 3", ["config.yaml", "unknown key 'sead'", "did you mean seed"]),
        ("noise: {photon: 3}", ["config.yaml", "noise.photon", "did you mean noise.photons"]),
        ("seed: [", ["config.yaml", "not valid YAML", "line"]),
        ("seed:", ["config.yaml has seed without a value"]),
        ("1: 2\nseed: 3", ["config.yaml has the key 1, which YAML reads as int"]),
        ("- seed", ["config.yaml", "no mapping"]),
        ("seed: 3\nname: a\nseed: 4", ["config.yaml", "the key seed twice, at lines 1 and 3"]),
        ("noise:\n  photons: 3\n  photons: 4", ["config.yaml", "the key photons twice"]),
        ("seed: ${nothing}", ["nothing"]),
        ("method: {class_path: fake_workflows.Nothing}", ["--method", "fake_workflows", "Nothing"]),
        ("method: {class_path: fake_workflows.Body}", ["--method", "fake_workflows.Body"]),
        ("method: {class_path: nowhere.Solver}", ["--method", "nowhere"]),
        ("seed: 3", ["--method missing"]),
    ],
)
def test_bad_configs_are_one_sentence(config, capsys, text, words):
    assert reconstruct("--config", config(text)) == cli.USAGE_ERROR
    assert_one_sentence(capsys, words)
    assert not fake_workflows.CALLS


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", ["case missing does not exist"]),
        ("no_extra", ["diffnr-lightning[astra]"]),
        ("unreadable", ["unreadable/nothing: No such file"]),
    ],
)
def test_errors_of_workflows_are_one_sentence(config, capsys, case, words):
    assert reconstruct("--config", config(METHOD), case=case) == cli.USAGE_ERROR
    assert_one_sentence(capsys, words)


def test_traceback_on_request(config, monkeypatch):
    options = ["--config", config(METHOD)]
    with pytest.raises(FileNotFoundError):
        reconstruct(*options, "--traceback", case="missing")
    monkeypatch.setenv("DIFFNR_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        reconstruct(*options, case="missing")


def test_a_defect_keeps_its_traceback(config):
    with pytest.raises(ZeroDivisionError):
        reconstruct("--config", config(METHOD), case="defect")


def test_a_pipe_that_breaks_within_a_run_is_an_error(capsys, monkeypatch):
    def broken(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "_run", broken)
    assert reconstruct() == cli.USAGE_ERROR
    assert "Broken pipe" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_none(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(cli, "_run", lambda *_: print("a line", flush=True))
        assert reconstruct() == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("option", ["--help", "--version", "--print_config"])
def test_nobody_reads_what_options_print(config, option, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    options = ["reconstruct", "--case", "case", "--out", "run", "--config", config(METHOD)]
    arguments = [*options, option] if option == "--print_config" else [option]
    program = "import sys; from diffnr_lightning import cli; cli.WORKFLOWS = 'fake_workflows';"
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [sys.executable, "-c", f"{program} sys.exit(cli.main({arguments!r}))"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "PYTHONUNBUFFERED": unbuffered,
            },
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", ["interrupted", "interrupted_by_trainer"])
def test_an_interrupted_run_says_how_to_go_on(config, capsys, case):
    assert reconstruct("--config", config(METHOD), case=case) == cli.INTERRUPTED
    assert "the same command resumes" in capsys.readouterr().err


def test_an_interrupted_submission_says_that_its_jobs_go_on(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["submit", "--wait", "true"]) == cli.INTERRUPTED
    told = capsys.readouterr().err
    assert "jobs that SLURM has taken go on" in told
    assert "squeue" in told and "scancel" in told and "nothing was kept" not in told


def test_a_run_that_sigterm_ends_has_not_succeeded(capsys, monkeypatch):
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    def ended(*_):
        raise SIGTERMException

    monkeypatch.setattr(cli, "_run", ended)
    assert reconstruct() == cli.TERMINATED
    assert "the same command resumes" in capsys.readouterr().err


def test_unknown_command(capsys):
    assert cli.main(["reconstuct"]) == cli.USAGE_ERROR
    assert_one_sentence(capsys, ["'reconstuct'", "reconstruct"], prog="diffnr")


def test_help_of_a_command_comes_from_signature_and_docstring(capsys):
    assert cli.main(["reconstruct", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--noise.photons" in shown
    assert "way from projections to a volume" in shown
    assert "--resolved" not in shown


def test_print_config_can_be_read_back(config, capsys, tmp_path):
    assert reconstruct("--config", config(METHOD), "--print_config") == 0
    printed = capsys.readouterr().out
    assert cli.main(["reconstruct", "--config", config(printed, "printed.yaml")]) == 0
    assert fake_workflows.CALLS[0]["method"].iterations == 7


def test_shipped_configs_are_found_from_every_folder(monkeypatch, tmp_path):
    from diffnr_lightning.workflows.command_line.config_files import shipped_config

    monkeypatch.chdir(tmp_path)
    path = shipped_config("reconstruct/fdk.yaml")
    assert path.is_file()
    assert path.is_absolute()
    with pytest.raises(FileNotFoundError, match="nothing.yaml"):
        shipped_config("reconstruct/nothing.yaml")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_a_workflow_and_says_what_it_does(command):
    function = getattr(
        importlib.import_module("diffnr_lightning.workflows"), command.replace("-", "_")
    )
    assert inspect.getdoc(function).splitlines()[0] == cli.COMMANDS[command]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, monkeypatch, capsys):
    monkeypatch.setattr(cli, "WORKFLOWS", "diffnr_lightning.workflows")
    assert cli.main([command, "--help"]) == 0
    assert f"usage: diffnr {command}" in capsys.readouterr().out


def assert_one_sentence(capsys, words, prog="diffnr reconstruct"):
    error = capsys.readouterr().err
    assert error.startswith(f"{prog}: error: ")
    assert error.count("\n") == 1
    assert error.endswith(".\n")
    assert "Traceback" not in error
    for word in words:
        assert word in error
