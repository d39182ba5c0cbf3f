"""What arrives at the loggers: one run each, with settings, curves, final scores and a picture."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from offline_wandb import finished_runs, series

from diffnr_lightning import cli
from diffnr_lightning.callbacks.run_record import RunRecord
from diffnr_lightning.priors import CompactDenoiser, save_denoiser
from diffnr_lightning.workflows import Solver, reconstruct
from diffnr_lightning.workflows.runs import sampler_record
from diffnr_lightning.workflows.runs.run_logger import log_scores, logged_run

TINY = Path(__file__).resolve().parents[3] / "configs" / "tiny"
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


def test_a_run_begins_with_its_settings_and_is_finished(tmp_path):
    logger = Recorder()
    with logged_run(logger, {"seed": 1}, tmp_path, "reconstruct"):
        log_scores(logger, {"protocols": {"r2": {"psnr": 30.0}}, "projections": {"psnr": 40.0}}, 7)
    numbers = {"r2/psnr": 30.0, "views/psnr": 40.0}
    assert logger.calls == [("settings", {"seed": 1}), ("numbers", numbers, 7), "success", 0]


def test_a_run_that_fails_is_finished_as_failed(tmp_path):
    logger = Recorder()
    with pytest.raises(KeyboardInterrupt), logged_run(logger, {}, tmp_path, "reconstruct"):
        raise KeyboardInterrupt
    assert logger.calls[1:] == ["failed", 1]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"id"'])
def test_a_damaged_identity_is_told_in_a_sentence(tmp_path, text):
    (tmp_path / "tracking.json").write_text(text)
    recorder = Recorder()
    recorder._wandb_init = {}
    with (
        pytest.raises(ValueError, match=r"tracking\.json is damaged; remove it"),
        logged_run(recorder, {}, tmp_path, "reconstruct"),
    ):
        pass
    assert recorder.calls == []


class NoAccount(Recorder):
    """Stands for a service that nobody has logged in to, which has an error of its own."""

    _wandb_init: dict = {}

    def log_hyperparams(self, params):
        raise RuntimeError("No API key configured.\nUse `wandb login` to log in.")


def test_a_logger_that_cannot_begin_is_told_in_a_sentence_and_leaves_nothing(case, tmp_path):
    out = tmp_path / "runs" / "run"
    with pytest.raises(ValueError, match=r"is a NoAccount that cannot begin a run \(No API key"):
        reconstruct(case, out, Solver("fdk"), curves=NoAccount())
    assert not out.parent.exists()


def test_lightnings_csv_logger(case, tmp_path):
    options = ["--config", GAUSSIANS, "--config", "loggers/csv", "--method.iterations", "20"]
    assert diffnr("reconstruct", "--case", case, *options, "--out", tmp_path / "run") == 0
    (file,) = tmp_path.glob("run/csv/version_0/metrics.csv")
    header, *lines = file.read_text().splitlines()
    wanted = {"step", "loss", "psnr", "r2/psnr", "naf/ssim", "seconds", "system/peak_memory_mb"}
    assert wanted <= set(header.split(","))
    assert len(lines) == 12
    settings = yaml.safe_load((file.parent / "hparams.yaml").read_text())
    assert settings["method"]["init_args"]["iterations"] == 20
    assert settings["environment"]["packages"]["torch"]


def test_tensorboard_gets_what_a_sweep_is_made_of(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    options = ["--volumes", "phantom:3", "--views", "6", "--scans", TINY / "simulate.yaml"]
    options += ["--methods", GAUSSIANS, "--curves", "loggers/tensorboard.yaml", "--out", "table"]
    assert diffnr("sweep", *options) == 0
    (run,) = (path.parent for path in Path("table").rglob("metrics.json"))
    events = accumulator.EventAccumulator(str(run / "tensorboard"), {"images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(12, 121, 12))
    assert events.Scalars("r2/psnr")[-1].value == pytest.approx(scores_of(run)["r2"]["psnr"])
    assert len(events.Images("volume")) == 10
    assert events.Images("preview")
    assert (run / "tensorboard" / "hparams.yaml").stat().st_size > 100
    told = {tag: data.plugin_data.content for tag, data in events.summary_metadata.items()}
    assert b"method/init_args/iterations" in told["_hparams_/session_start_info"]
    assert b"naf/ssim" in told["_hparams_/experiment"]
    of_all = accumulator.EventAccumulator("table/tensorboard")
    of_all.Reload()
    (cases,) = of_all.Tensors("cases/text_summary")
    assert b"phantom_3" in cases.tensor_proto.string_val[0]


def test_a_sampler_shows_its_estimates_while_it_runs(case, tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    save_denoiser(tmp_path / "tiny", CompactDenoiser(channels=3, widths=(8, 16), gaps=4))
    monkeypatch.setattr(sampler_record, "SECONDS", 0.0)
    options = ["--config", "dds", "--config", "loggers/tensorboard", "--case", case]
    options += ["--method.init_args.denoiser", tmp_path / "tiny"]
    options += ["--method.init_args.options", "{steps: 3}", "--out", tmp_path / "run"]
    assert diffnr("reconstruct", *options) == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("preview")] == [1, 2, 3, 3]
    assert events.Scalars("r2/psnr")[-1].step == 3
    weights = json.loads((tmp_path / "run" / "environment.json").read_text())["weights"]
    (digest,) = weights.values()
    (file,) = (tmp_path / "tiny").rglob("*.safetensors")
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.chdir(tmp_path)


def test_wandb_gets_every_run_of_a_sweep_whole(offline):
    options = ["--volumes", "phantom:3", "--views", "6", "--scans", TINY / "simulate.yaml"]
    options += ["--methods", "reconstruct/fdk.yaml", GAUSSIANS, "--curves", "loggers/wandb.yaml"]
    assert diffnr("sweep", *options, "--out", "table") == 0
    *runs, table = finished_runs(Path("table"))
    assert [run["job"] for run in (*runs, table)] == ["reconstruct", "reconstruct", "table"]
    assert len({run["id"] for run in (*runs, table)}) == 3
    assert {run["group"] for run in (*runs, table)} == {"table"}
    for found in runs:
        run = Path(found["name"])
        recorded = json.loads((run / "environment.json").read_text())
        assert found["settings"]["environment"]["git"] == recorded["git"]
        assert found["settings"]["case"] == str(run.parent / "case")
        assert found["tags"][1:] == ["6 views", "phantom_3"]
        assert found["system"] and found["exit"] == 0
        for protocol, numbers in scores_of(run).items():
            for name, value in numbers.items():
                assert found["last"][f"{protocol}/{name}"] == pytest.approx(value)
        pictures = {path.name.split("_")[0] for path in found["pictures"]}
        if run.name == "fdk":
            assert found["settings"]["method"]["init_args"]["name"] == "analytic"
            assert (pictures, series(found, "loss")) == ({"preview"}, [])
        else:
            assert found["settings"]["method"]["init_args"]["iterations"] == 120
            assert pictures == {"preview", "volume"}
            assert [step for step, _ in series(found, "psnr")] == list(range(12, 121, 12))
            assert series(found, "system/seconds")[-1][0] == 120
    cases = table["tables"]["cases"]
    assert [row[cases["columns"].index("method")] for row in cases["data"]] == ["FDK", "scene"]
    psnr = [row[cases["columns"].index("strict_psnr")] for row in cases["data"]]
    found = {Path(run["name"]).name: scores_of(Path(run["name"])) for run in runs}
    scene = next(scores for name, scores in found.items() if name != "fdk")
    assert psnr == [scores["strict"]["psnr"] for scores in (found["fdk"], scene)]
    # Finished runs are left alone, and the table stays one run.
    assert diffnr("sweep", *options, "--out", "table") == 0
    assert [run["id"] for run in finished_runs(Path("table"))[3:]] == [table["id"]]


def test_a_run_of_wandb_that_was_broken_off_goes_on_as_the_same(offline, case, monkeypatch):
    options = ["--config", GAUSSIANS, "--config", "loggers/wandb", "--case", case, "--out", "run"]
    options += ["--method.iterations", "20", "--checkpoint_every", "10"]
    kept = RunRecord.on_train_batch_end

    def broken(self, trainer, module, *arguments):
        kept(self, trainer, module, *arguments)
        if module.iteration == 14:
            raise OSError("the machine is gone")

    monkeypatch.setattr(RunRecord, "on_train_batch_end", broken)
    assert diffnr("reconstruct", *options) == 2
    monkeypatch.setattr(RunRecord, "on_train_batch_end", kept)
    assert diffnr("reconstruct", *options) == 0
    first, second = finished_runs(Path("run"))
    assert first["id"] == second["id"] and first["file"] != second["file"]
    assert (first["exit"], second["exit"]) == (1, 0)
    assert [step for step, _ in series(first, "loss")] == [2, 4, 6, 8, 10, 12, 14]
    assert [step for step, _ in series(second, "loss")] == [12, 14, 16, 18, 20]


def test_one_logger_of_wandb_serves_several_runs(offline, tmp_path):
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(save_dir=str(tmp_path), offline=True)
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        with logged_run(logger, {"seed": number}, tmp_path / name, "reconstruct", [name]):
            logger.log_metrics({"loss": number}, step=number)
    runs = finished_runs(tmp_path)
    kept = [json.loads((tmp_path / name / "tracking.json").read_text()) for name in ("one", "two")]
    assert [run["id"] for run in runs] == [identity["id"] for identity in kept]
    assert [run["tags"] for run in runs] == [["one"], ["two"]]
    assert [series(run, "loss") for run in runs] == [[(0, 0)], [(1, 1)]]


def test_only_the_first_of_several_processes_logs(offline, monkeypatch, tmp_path):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with logged_run(WandbLogger(save_dir=str(tmp_path), offline=True), {}, tmp_path, "finetune"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_task_beside_others_logs_its_own_reconstruction(case, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # the number of the task
    seen = []
    monkeypatch.setattr(Recorder, "log_hyperparams", lambda *_: seen.append(rank_zero_only.rank))
    reconstruct(case, tmp_path / "run", Solver("fdk"), curves=Recorder())
    assert seen == [0]


@pytest.mark.parametrize("command", ["finetune", "train-denoiser"])
def test_wandb_gets_trained_weights_with_their_card(offline, command, tmp_path):
    options = ["--config", "loggers/wandb", "--out", "trained"]
    if command == "finetune":
        pairs = ["--volumes", "[phantom:10,phantom:11]", "--size", "24", "--views", "[8]"]
        assert diffnr("curate", "--config", TINY / "curate.yaml", *pairs, "--out", "pairs") == 0
        options = ["--config", TINY / "finetune.yaml", *options, "--data.folders", "[pairs]"]
    else:
        options = ["--config", TINY / "train-denoiser.yaml", *options]
    assert diffnr(command, *options) == 0
    (found,) = finished_runs(tmp_path / "trained")
    assert (found["job"], found["exit"]) == (command, 0)
    assert found["settings"]["environment"]["diffnr_lightning"]
    assert any("slices" in path.name for path in found["pictures"])
    scores = json.loads(Path("trained/metrics.json").read_text())["validation"]
    assert scores and all(found["last"][name] == pytest.approx(scores[name]) for name in scores)
    (artifact,) = found["artifacts"]
    assert (artifact.name, artifact.type) == (f"{command}-trained", "model")
    files = {entry.path: entry for entry in artifact.manifest.contents}
    weights = next(path for path in Path("trained").rglob("*.safetensors"))
    card = next(path for path in Path("trained").rglob("README.md")).read_text()
    assert artifact.description == card and "README.md" in files
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    kept = next(entry for path, entry in files.items() if path.endswith(weights.name))
    digest = base64.b64encode(hashlib.md5(weights.read_bytes()).digest()).decode()
    assert kept.digest == digest and Path(kept.local_path).is_relative_to(tmp_path)


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
