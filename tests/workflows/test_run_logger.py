"""What arrives at the loggers: one run each, with settings, curves, final scores and a picture."""

import json
import time
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import Logger

from diffnr_lightning import cli
from diffnr_lightning.workflows.run_logger import log_scores, logged_run

TINY = Path(__file__).resolve().parents[2] / "configs" / "tiny"
GAUSSIANS = TINY / "reconstruct_gaussians.yaml"
pytestmark = pytest.mark.filterwarnings("ignore")


def diffnr(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    out = tmp_path_factory.mktemp("logged") / "case"
    options = ["--config", TINY / "simulate.yaml", "--size", "16", "--num_views", "8"]
    assert diffnr("simulate", *options, "--out", out) == 0
    return out


def scores_of(run):
    return json.loads((run / "metrics.json").read_text())["protocols"]


class Recorder(Logger):
    """Keeps every call."""

    name, version = "recorder", ""

    def __init__(self):
        super().__init__()
        self.calls, self.experiment = [], self

    def log_hyperparams(self, params):
        self.calls.append(("settings", params))

    def log_metrics(self, metrics, step=None):
        self.calls.append(("numbers", metrics, step))

    def finalize(self, status):
        self.calls.append(status)

    def finish(self, exit_code):
        self.calls.append(exit_code)


def test_a_run_begins_with_its_settings_and_is_finished():
    logger = Recorder()
    with logged_run(logger, {"seed": 1}):
        log_scores(logger, {"protocols": {"r2": {"psnr": 30.0}}, "projections": {"psnr": 40.0}}, 7)
    numbers = {"r2/psnr": 30.0, "views/psnr": 40.0}
    assert logger.calls == [("settings", {"seed": 1}), ("numbers", numbers, 7), "success", 0]


def test_a_run_that_fails_is_finished_as_failed():
    logger = Recorder()
    with pytest.raises(KeyboardInterrupt), logged_run(logger, {}):
        raise KeyboardInterrupt
    assert logger.calls[1:] == ["failed", 1]


def test_lightnings_csv_logger(case, tmp_path):
    logger = ["--curves", "lightning.pytorch.loggers.CSVLogger", "--curves.save_dir", tmp_path]
    options = ["--config", GAUSSIANS, "--method.iterations", "20", *logger]
    assert diffnr("reconstruct", "--case", case, *options, "--out", tmp_path / "run") == 0
    file = next(tmp_path.glob("**/metrics.csv"))
    header, *lines = file.read_text().splitlines()
    assert {"step", "loss", "psnr", "r2/psnr", "naf/ssim", "seconds"} <= set(header.split(","))
    assert len(lines) == 11
    settings = yaml.safe_load((file.parent / "hparams.yaml").read_text())
    assert settings["method"]["init_args"]["iterations"] == 20


def test_tensorboard(case, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    options = ["--config", GAUSSIANS, "--config", "configs/loggers/tensorboard.yaml"]
    options += ["--case", case, "--method.iterations", "20"]
    assert diffnr("reconstruct", *options, "--out", run) == 0
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(2, 21, 2))
    assert events.Scalars("r2/psnr")[-1].value == pytest.approx(scores_of(run)["r2"]["psnr"])
    assert events.Images("preview")
    assert (run / "tensorboard" / "hparams.yaml").stat().st_size > 100


def records_of(file):
    """Yield the records of a `.wandb` file, which has the form of LevelDB's logs."""
    from wandb.proto import wandb_internal_pb2

    block, header = 32768, 7
    data, at, parts = file.read_bytes(), header, []
    assert data.startswith(b":W&B")
    while at + header <= len(data):
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + header : at + header + length])
        at += header + length
        if kind in (1, 4):  # whole, or the last of several parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record
        if block - at % block < header:
            at += block - at % block


def read_wandb(run):
    """Return name, group, settings, curves, last numbers, media and exit code of the one run."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    found = {"settings": {}, "loss": [], "last": {}, "media": list(file.parent.rglob("*.png"))}
    for record in records_of(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"name": record.run.display_name, "group": record.run.run_group}
        if kind in ("run", "config"):
            updates = record.run.config.update if kind == "run" else record.config.update
            for item in updates:
                key = "/".join(item.nested_key) or item.key
                found["settings"][key] = json.loads(item.value_json)
        elif kind == "history":
            row = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            found["last"] |= row
            found["loss"] += [row["loss"]] if "loss" in row else []
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def finished_wandb(run):
    """Return what `read_wandb` finds once wandb's own process has written the end of the run."""
    until = time.monotonic() + 60
    while "exit" not in (found := read_wandb(run)) and time.monotonic() < until:
        time.sleep(0.2)
    return found


@pytest.fixture
def offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.chdir(tmp_path)


def test_wandb_gets_one_run_for_each_of_a_sweep(offline, tmp_path):
    options = ["--volumes", "phantom:3", "--views", "6", "--scans", TINY / "simulate.yaml"]
    options += ["--methods", "reconstruct/fdk.yaml", GAUSSIANS, "--curves", "loggers/wandb.yaml"]
    assert diffnr("sweep", *options, "--out", "table") == 0
    runs = sorted(path.parent for path in Path("table").rglob("metrics.json"))
    assert len(runs) == 2
    for run in runs:
        found = finished_wandb(run)
        assert (found["name"], found["group"], found["exit"]) == (str(run), "table", 0)
        assert found["settings"]["case"] == str(run.parent / "case")
        for protocol, numbers in scores_of(run).items():
            for name, value in numbers.items():
                assert found["last"][f"{protocol}/{name}"] == pytest.approx(value)
        assert len(found["media"]) == 1
        if run.name == "fdk":
            assert found["settings"]["method"]["init_args"]["name"] == "analytic"
            assert found["loss"] == []
        else:
            assert found["settings"]["method"]["init_args"]["iterations"] == 120
            assert len(found["loss"]) == 10


class Missing:
    """Stands for the check of a package that is not installed."""

    def __bool__(self):
        return False

    def __str__(self):
        return "Module not found: 'wandb'. Try `pip install wandb`"


def test_a_logger_that_is_not_installed_names_the_extra(case, tmp_path, monkeypatch, capsys):
    from lightning.pytorch.loggers import wandb

    monkeypatch.setattr(wandb, "_WANDB_AVAILABLE", Missing())
    options = ["--config", GAUSSIANS, "--config", "loggers/wandb", "--case", case]
    assert diffnr("reconstruct", *options, "--out", tmp_path / "run") == 2
    assert "pip install 'diffnr-lightning[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
