import csv
import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from offline_wandb import finished_runs, series

from diffnr_lightning import cli, workflows
from diffnr_lightning.files import write_json
from diffnr_lightning.reports import RowRuns, paper_lines, read_published
from diffnr_lightning.workflows.command_line.config_files import config_files
from diffnr_lightning.workflows.command_line.settings import configured, parse, settings_parser
from diffnr_lightning.workflows.tables.experiment import TABLE_FILE, read_experiment

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
TABLES = sorted(p.parent.relative_to(EXPERIMENTS).as_posix() for p in EXPERIMENTS.rglob(TABLE_FILE))


@pytest.fixture(autouse=True)
def at_the_root(repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("R2_GAUSSIAN", "volumes")


def lines_of(folder):
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_tables_of_the_papers_are_there():
    wanted = {*(f"diffnr/{number}" for number in range(1, 7)), "dinr", "diffusionblend"}
    assert wanted | {"main_job", "out_of_distribution"} <= set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_planned_at_both_scales(name, tmp_path, capsys):
    """Every command can be read with all its configs, and the miniature has the rows and views of the table."""
    full, miniature = (read_experiment(name, scale) for scale in ("full", "miniature"))
    assert [row.name for row in miniature.rows] == [row.name for row in full.rows]
    assert [part.views for part in miniature.parts] == [part.views for part in full.parts]
    published = {n.method for n in read_published(full.paper)}
    assert published <= {row.name for row in full.rows}
    for experiment in (full, miniature):
        out = tmp_path / experiment.scale
        arguments = ["table", name, "--scale", experiment.scale, "--plan", "true"]
        assert cli.main([*arguments, "--out", str(out)]) == 0
        lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
        trainings = [t for row in experiment.rows for t in row.trainings(out)]
        trained = {training.overlay: training.words[0] for training in trainings}
        commands = ["curate"] * any(t.pairs for t in trainings) + list(trained.values())
        assert [line[1] for line in lines] == commands + ["sweep"] * len(experiment.parts)
        for line in lines[: len(commands)]:
            assert config_files(line[line.index("--config") + 1])
        for line, part in zip(lines[len(commands) :], experiment.parts, strict=True):
            settings = parse(workflows.sweep, line[2:]).arguments
            assert settings["views"] == list(part.views)
            for scan in settings["scans"]:
                configured(
                    workflows.simulate, config_files(scan), {"volume": "phantom:0", "out": "case"}
                )
            assert all(config_files(row.entry(out)) for row in experiment.rows if row.method)
            assert settings["methods"] == list(
                dict.fromkeys(row.entry(out) for row in experiment.rows if row.method)
            )
        assert {path for path in out.rglob("*") if path.is_file()} == set(trained)


def test_some_views_of_a_table_can_be_taken_alone(capsys):
    arguments = ["table", "diffnr/1", "--plan", "true", "--views"]
    assert cli.main([*arguments, "[24]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    for line in lines:
        assert parse(workflows.sweep, shlex.split(line)[2:]).arguments["views"] == [24]
    assert cli.main([*arguments, "[24, 7]"]) == 2
    assert "views is [24, 7]; the table has 12, 24, 36." in capsys.readouterr().err


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_the_checkout_find_their_configs_from_anywhere(name, tmp_path, monkeypatch):
    rows = read_experiment(name).rows
    monkeypatch.chdir(tmp_path)
    elsewhere = read_experiment(name)
    assert [row.name for row in elsewhere.rows] == [row.name for row in rows]
    for entry in [row.method for row in elsewhere.rows if row.method]:
        assert config_files(entry)
    for part in elsewhere.parts:
        assert all(config_files(scan) for scan in part.scans)


@pytest.mark.slow
def test_every_method_of_a_miniature_can_be_read():
    parser = settings_parser(workflows.reconstruct)
    rows = [row for name in TABLES for row in read_experiment(name, "miniature").rows]
    for method in dict.fromkeys(row.method for row in rows if row.method):
        configs = [f"--config={path}" for path in config_files(method)]
        read = parser.parse_args([*configs, "--case=case", "--out=run"])
        assert read.method.class_path.startswith("diffnr_lightning.workflows.")


def test_a_miniature_table_is_run_whole(tmp_path, capsys):
    arguments = ["table", "diffnr/5", "--scale", "miniature", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    lines = lines_of(tmp_path)
    assert [line["method"] for line in lines[::2]] == [
        row.name for row in read_experiment("diffnr/5").rows
    ]
    assert [float(line["published"]) for line in lines if line["metric"] == "PSNR"] == [
        24.11,
        23.23,
        26.70,
        26.42,
        28.82,
    ]
    # No two rows make the same volume.
    ours = [line["ours"] for line in lines if line["metric"] == "PSNR"]
    assert all(ours)
    assert len(set(ours)) == 5
    # A phantom of 32^3 voxels is not compared with what a paper measured.
    assert not any(line["difference"] for line in lines)
    experiment = read_experiment("diffnr/5", "miniature")
    finished = importlib.import_module("diffnr_lightning.workflows.table")._finished
    rows = [
        RowRuns(
            row.name, {p.name: finished(experiment, row, p, tmp_path) for p in experiment.parts}
        )
        for row in experiment.rows
    ]
    compared = [
        line
        for line in paper_lines(rows, read_published(experiment.paper))
        if line.ours is not None and line.published is not None
    ]
    assert len(compared) == 10
    assert all(line.difference == line.ours - line.published for line in compared)
    assert {line["cases"] for line in lines} == {"1"}
    shown = capsys.readouterr().out
    for text in (shown, *((tmp_path / f"table.{end}").read_text() for end in ("md", "html"))):
        assert "Miniature: one generated chest" in " ".join(text.split())
        assert "network that repairs projections is a compact one" in " ".join(text.split())
    made = sorted(tmp_path.rglob("metrics.json"))
    before = [path.stat().st_mtime_ns for path in made]
    # Five runs and a finetuning.
    assert len(made) == 6
    assert cli.main([*arguments, "--rows", "R2-Gaussian"]) == 0
    assert [path.stat().st_mtime_ns for path in made] == before
    assert {line["method"] for line in lines_of(tmp_path)} == {"R2-Gaussian"}


def write_experiment(folder, text, paper="method,psnr\nFDK,30\n"):
    folder.mkdir(exist_ok=True)
    (folder / "table.yaml").write_text(text)
    (folder / "paper.csv").write_text(paper)
    return folder


PART = (
    "title: A table\nparts: {Chests: {volumes: [phantom:3], scans: [tiny/simulate], views: [6]}}\n"
)
LEARNED = "pairs: {full: tiny/curate}\nrows: {A: {method: naf, prior: {full: tiny/finetune}}}\n"


def test_a_row_that_fails_stops_no_other(tmp_path, capsys):
    rows = "rows: {Broken: {method: ours.yaml}, Missing: {method: sqrt}, Half: {method: sirt+}, FDK: {method: fdk}}\n"
    folder = write_experiment(tmp_path / "mine", PART + rows)
    (folder / "ours.yaml").write_text(
        "method: {class_path: diffnr_lightning.workflows.Solver, init_args: {name: sqrt}}\n"
    )
    assert cli.main(["table", str(folder), "--out", str(tmp_path / "out")]) == cli.USAGE_ERROR
    assert "3 of 4 rows failed (Missing, Half, Broken)" in capsys.readouterr().err
    lines = lines_of(tmp_path / "out")
    assert {line["method"] for line in lines} == {"FDK"} and float(lines[0]["ours"]) > 5
    assert (lines[0]["published"], lines[0]["protocol"]) == ("30.0", "r2, not stated")
    assert "\nMissing: failed: config" in (tmp_path / "out" / "table.md").read_text()


def test_what_is_finished_is_shown_alone(tmp_path):
    folder = write_experiment(tmp_path / "mine", PART + "rows: {FDK: {method: fdk}}\n")
    out = tmp_path / "out"
    workflows.table(str(folder), out=out, run=False)
    assert not any(line["ours"] for line in lines_of(out))
    assert not list(out.rglob("metrics.json"))


def test_runs_of_a_volume_that_the_table_has_no_more_are_not_shown(tmp_path):
    for case, psnr in (("phantom_3", 20.0), ("phantom_4", 30.0)):
        run = {"case": case, "method": "fdk", "protocols": {"r2": {"psnr": psnr}}}
        write_json(tmp_path / f"Chests/simulate/6_views/{case}/fdk/metrics.json", run)

    def ours(volumes):
        text = PART.replace("phantom:3", volumes) + "rows: {FDK: {method: fdk}}\n"
        folder = write_experiment(tmp_path / "mine", text)
        workflows.table(str(folder), out=tmp_path, run=False)
        return [(line["ours"], line["cases"]) for line in lines_of(tmp_path)]

    assert ours("phantom:3-4") == [("25.0", "2")]
    assert ours("phantom:3") == [("20.0", "1")]
    assert ours("away.npy") == [("25.0", "2")], "runs alone, without their volumes, are not shown"


def test_runs_are_handed_over_to_a_cluster(tmp_path, monkeypatch):
    module = importlib.import_module("diffnr_lightning.workflows.table")
    handed = []
    monkeypatch.setattr(module, "hand_over", lambda *arguments: handed.append(arguments))
    folder = write_experiment(tmp_path / "mine", PART + "rows: {FDK: {method: fdk}}\n")
    arguments = ["table", str(folder), "--out", str(tmp_path / "out"), "--submit", "local"]
    arguments += ["--device", "cuda"]
    assert cli.main([*arguments, "--jobs", "2", "--options.timeout_min", "5"]) == 0
    ((command, logs, jobs, cluster, options),) = handed
    assert command.startswith("sweep --volumes phantom:3 --views 6 --scans tiny/simulate")
    assert command.endswith(" --device cuda")
    assert (logs, jobs, cluster, options) == (
        tmp_path / "out" / "jobs",
        2,
        "local",
        {"timeout_min": 5},
    )


def test_networks_that_printed_commands_train_are_known(tmp_path, monkeypatch, capsys):
    module = importlib.import_module("diffnr_lightning.workflows.table")
    monkeypatch.setattr(module, "_run_training", lambda words: pytest.fail(f"trained: {words}"))
    monkeypatch.setattr(module, "curate", lambda **settings: pytest.fail("curated"))
    handed = []
    monkeypatch.setattr(module, "hand_over", lambda *arguments: handed.append(arguments))
    folder = write_experiment(tmp_path / "mine", PART + LEARNED)
    out = tmp_path / "out"
    arguments = ["table", str(folder), "--out", str(out), "--curves", "loggers/csv"]
    assert cli.main([*arguments, "--plan", "true"]) == 0
    _, training, sweep = map(shlex.split, capsys.readouterr().out.splitlines())
    assert training[-2:] == ["--config", "loggers/csv"]
    methods = parse(workflows.sweep, sweep[2:]).arguments["methods"]
    assert all(path.is_file() for method in methods for path in config_files(method))
    assert cli.main([*arguments, "--submit", "local"]) == cli.USAGE_ERROR
    assert "A have networks to be trained first" in capsys.readouterr().err
    run = Path(training[training.index("--out") + 1])
    run.mkdir(parents=True)
    (run / "metrics.json").write_text("{}")
    assert cli.main([*arguments, "--submit", "local"]) == 0
    assert len(handed) == 1
    experiment = read_experiment(str(folder))
    module._train(experiment, experiment.rows[0], out, "cpu", None)


def test_a_folder_with_a_plus_is_refused_before_anything_is_learned(tmp_path, monkeypatch, capsys):
    module = importlib.import_module("diffnr_lightning.workflows.table")
    monkeypatch.setattr(module, "_train", lambda *given: pytest.fail("trained"))
    folder = write_experiment(tmp_path / "mine", PART + LEARNED)
    for more in ([], ["--plan", "true"]):
        out = ["--out", str(tmp_path / "a+b")]
        assert cli.main(["table", str(folder), *out, *more]) == cli.USAGE_ERROR
        assert "A.yaml has a plus in its path" in capsys.readouterr().err


def test_what_is_no_experiment_is_refused(tmp_path, capsys):
    def refused(text, *words):
        folder = write_experiment(tmp_path / "mine", text)
        assert cli.main(["table", str(folder), "--plan", "true"]) == cli.USAGE_ERROR
        line = capsys.readouterr().err.splitlines()[-1]
        for word in words:
            assert word in line

    assert cli.main(["table", "diffnr/7"]) == cli.USAGE_ERROR
    assert "did you mean diffnr/" in capsys.readouterr().err
    refused("title: A table\n", "has the keys title where parts, rows, title")
    refused(PART + "rows: {FDK: {methods: fdk}}\n", "has the keys methods")
    refused(PART + "rows: {FDK: {}}\n", "row FDK has method None and reason None")
    refused("title: A\nparts: {P: {views: [6]}}\nrows: {F: {reason: no}}\n", "part P lacks volumes")
    rows = "rows: {FDK: {method: fdk}}\n"
    refused("title: A\nparts: [P]\n" + rows, "parts is ['P']; a mapping from names is expected")
    refused(PART + "rows: [fdk]\n", "rows is ['fdk']; a mapping from names is expected")
    refused(PART + rows + "notes: one\n", "notes is 'one'; a list is expected")
    refused(PART + rows + "pairs: curate\n", "pairs is 'curate'; a mapping with full")
    refused(
        PART + rows + "downstream: lngs\n", "downstream is 'lngs'; lungs or regions is expected"
    )
    for key, value in (("volumes", "phantom:3"), ("scans", "data/body"), ("views", "6")):
        entry = {"volumes": "[phantom:3]", "scans": "[tiny/simulate]", "views": "[6]", key: value}
        part = ", ".join(f"{name}: {said}" for name, said in entry.items())
        refused(f"title: A\nparts: {{P: {{{part}}}}}\n{rows}", f"{key} is", "a list is expected")
    learned = "{full: finetune/compact, miniature: finetune/compact}"
    both = f"rows: {{A: {{method: fdk, prior: {learned}, projection_prior: {learned}}}}}\n"
    refused(PART + both, "rows of this table train two networks in one folder, A.yaml")
    prior = "rows: {A: {method: fdk, prior: {full: tiny/finetune}}}\n"
    refused(PART + prior, "A learn from pairs, but pairs names no config of `curate` for full")
    refused(PART + "rows: {A: {method: fdk, prior: compact}}\n", "prior is 'compact'; a mapping")
    folder = write_experiment(tmp_path / "mine", PART + "rows: {FDK: {method: fdk}}\n")
    assert cli.main(["table", str(folder), "--rows", "SART"]) == cli.USAGE_ERROR
    assert "rows has 'SART'; any of FDK are expected" in capsys.readouterr().err
    assert cli.main(["table", str(folder), "--rows", "[]"]) == cli.USAGE_ERROR
    assert "rows is empty; any of FDK are expected" in capsys.readouterr().err
    for option, words in (
        (["--jobs", "2"], "jobs is 2"),
        (["--options.mem_gb", "4"], "options is {'mem_gb': 4}"),
    ):
        assert cli.main(["table", str(folder), "--plan", "true", *option]) == cli.USAGE_ERROR
        told = capsys.readouterr().err
        assert words in told and "without --submit" in told


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off")):
        monkeypatch.setenv(f"WANDB_{name}", value)


def agents_words(definition, chosen):
    """The words that `wandb agent` makes of a sweep for one of its combinations, by its own functions."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    assert all(value in definition["parameters"][name]["values"] for name, value in chosen.items())
    arguments = {"args": {name: {"value": value} for name, value in chosen.items()}}
    made = create_sweep_command_args(arguments)
    words = create_sweep_command(list(definition["command"]))
    return [word for chunk in words for word in made.get(chunk.strip("${}"), [chunk])]


def test_agents_of_the_sweep_of_table_6_run_our_command(offline, tmp_path, monkeypatch):
    """Two of its runs, as an agent would start them but for a miniature's schedule and case, each read back."""
    definition = yaml.safe_load((EXPERIMENTS / "diffnr/6/wandb_sweep.yaml").read_text())
    assert definition["metric"]["name"] == "r2/psnr"
    case = tmp_path / "case"
    scan = ["--config", "tiny/simulate", "--size", "16", "--num_views", "6", "--out", str(case)]
    assert cli.main(["simulate", *scan]) == 0
    names = [
        f"method.init_args.optimisation.init_args.{n}" for n in ("lambda_diff", "reference_every")
    ]
    made = []
    for run, values in {"k3x": (0.3, 5), "k4x": (1.5, 30)}.items():
        program, command, *words = agents_words(definition, dict(zip(names, values, strict=True)))
        assert (program, command, words[0]) == (
            "diffnr",
            "reconstruct",
            "--config=r2gaussian_paper+diffnr/paper",
        )
        words[words.index("--case=cases/table_6")] = f"--case={case}"
        words[1:1] = ["--config=tiny/reconstruct_cloud+tiny/reconstruct_loop"]
        monkeypatch.setenv("WANDB_RUN_ID", run)
        assert cli.main([command, *words, f"--out={tmp_path / run}"]) == 0
        (found,) = finished_runs(tmp_path / run)
        method = found["settings"]["method"]["init_args"]
        optimisation = method["optimisation"]["init_args"]
        assert (optimisation["lambda_diff"], optimisation["reference_every"]) == values
        assert (found["id"], found["job"], found["exit"]) == (run, "reconstruct", 0)
        assert {"DiffNR", "Table 6"} <= set(found["tags"])
        assert series(found, "loss") and found["pictures"]
        made.append(found["last"]["r2/psnr"])
    assert made[0] != made[1]
    settings = parse(workflows.reconstruct, words).resolved
    assert settings["out"] == "runs/table_6/k4x" == settings["curves"]["init_args"]["save_dir"]


def test_a_table_and_its_runs_are_one_group(offline, tmp_path):
    folder = write_experiment(
        tmp_path / "mine", PART + "rows: {FDK: {method: fdk}, SIRT: {method: sirt}}\n"
    )
    out = str(tmp_path / "out")
    assert cli.main(["table", str(folder), "--out", out, "--curves", "loggers/wandb"]) == 0
    fdk, sirt, table = finished_runs(tmp_path / "out")
    assert [run["job"] for run in (fdk, sirt, table)] == ["reconstruct", "reconstruct", "table"]
    assert {run["group"] for run in (fdk, sirt, table)} == {out}
    lines = table["tables"]["table"]
    rows = [dict(zip(lines["columns"], row, strict=True)) for row in lines["data"]]
    first = next(row for row in rows if row["method"] == "FDK" and row["metric"] == "PSNR")
    assert (first["published"], first["ours"]) == (30.0, fdk["last"]["r2/psnr"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_miniature_runs_at_all_its_numbers_of_views(name, tmp_path):
    assert cli.main(["table", name, "--scale", "miniature", "--out", str(tmp_path)]) == 0
    found = {line["method"] for line in lines_of(tmp_path) if line["ours"]}
    assert found == {row.name for row in read_experiment(name, "miniature").rows if row.method}


def test_a_training_on_several_devices_is_a_command_of_its_own(tmp_path, monkeypatch):
    module = importlib.import_module("diffnr_lightning.workflows.table")
    called, ended = [], subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(
        module.subprocess, "run", lambda words, check: called.append(words) or ended
    )
    (tmp_path / "two.yaml").write_text("devices: 2\n")
    words = ["--data.folders", f"[{tmp_path}]", "--out", str(tmp_path / "run")]
    several = ["finetune", "--config", f"tiny/finetune+{tmp_path / 'two.yaml'}", *words]
    assert module._placed_alone(several, "cuda:all") == several
    module._run_training(several)
    assert called == [[sys.executable, "-m", "diffnr_lightning.cli", *several]]
    ended.returncode = 3
    with pytest.raises(ValueError, match="ended with code 3"):
        module._run_training(several)
    alone = ["finetune", "--config", "tiny/finetune", *words]
    assert module._placed_alone(alone, "cuda:all") == [*alone, "--device", "cuda"]
    with pytest.raises(FileNotFoundError, match="holds no slice pairs"):
        module._run_training(module._placed_alone(alone, "cpu"))
    assert len(called) == 2
