import json
import multiprocessing
import os

import pytest
import torch
import yaml

from diffnr_lightning.files import write_bytes
from diffnr_lightning.workflows.runs import run_folder
from diffnr_lightning.workflows.runs.environment import environment
from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.runs.weights_record import weights_record

PROCESSES = 8
OPENINGS = 12
# Forked processes have the imports already, and meet at the barrier within microseconds.
FORK = multiprocessing.get_context("fork")

SETTINGS = {
    "case": "a",
    "out": "here",
    "method": {"init_args": {"iterations": 3, "window": (0, 1)}},
}


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def changed(**init_args):
    return {**SETTINGS, "method": {"init_args": {**SETTINGS["method"]["init_args"], **init_args}}}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.open()
    return folder


def test_a_new_run_is_described(run):
    assert yaml.safe_load((run.path / "config.yaml").read_text())["method"]["init_args"] == {
        "iterations": 3,
        "window": [0, 1],
    }
    described = json.loads((run.path / "environment.json").read_text())
    assert described["packages"]["torch"]
    assert not run.finished
    assert run.resume_from() is None


def test_mappings_keep_their_order(tmp_path):
    """Of patterns the first that matches counts."""
    run = RunFolder(tmp_path / "run", {"shares": {"pt_*": 5, "*": 4}})
    run.open()
    kept = yaml.safe_load((run.path / "config.yaml").read_text())
    assert list(kept["shares"]) == list(run.settings["shares"]) == ["pt_*", "*"]


def test_the_same_settings_take_up_the_run_from_another_place(run):
    RunFolder(run.path, {**SETTINGS, "out": "elsewhere"}).open()


def test_what_an_earlier_version_could_not_be_told_is_taken_as_left_to_choose(run):
    (run.path / "checkpoint.ckpt").touch()
    again = RunFolder(run.path, changed(precision="auto"))
    again.open()
    with again.claim():
        pass
    with pytest.raises(ValueError, match="init_args.precision = 'auto', not 'float32'"):
        RunFolder(run.path, changed(precision="float32")).open()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (changed(iterations=4), "method.init_args.iterations = 3, not 4"),
        (changed(extra="x"), "method.init_args.extra = nothing, not 'x'"),
        ({**SETTINGS, "case": "b"}, "case = 'a', not 'b'"),
    ],
)
def test_a_run_of_other_settings_is_refused(run, settings, words):
    run.checkpoint.touch()
    with pytest.raises(ValueError, match="give another --out") as error:
        RunFolder(run.path, settings).open()
    assert words in str(error.value)


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"text", b""])
def test_settings_that_are_damaged_are_refused_by_their_file(run, content):
    run.checkpoint.touch()
    (run.path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=f"{run.path}/config.yaml is damaged; remove the run"):
        RunFolder(run.path, SETTINGS).open()


def test_a_run_that_made_nothing_is_replaced(run):
    RunFolder(run.path, changed(iterations=4)).open()
    kept = yaml.safe_load((run.path / "config.yaml").read_text())
    assert kept["method"]["init_args"]["iterations"] == 4


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [
        ("checkpoint_every", 500, 10),
        ("device", "cpu", "cuda:1"),
        ("accelerator", "cpu", "gpu"),
        ("data", {"workers": 0}, {"workers": 4}),
        ("curves", None, {"class_path": "lightning.pytorch.loggers.CSVLogger"}),
    ],
)
def test_settings_that_change_no_result_bind_nobody(tmp_path, key, before, now):
    first = RunFolder(tmp_path / "run", {**SETTINGS, key: before})
    first.open()
    first.checkpoint.touch()
    RunFolder(first.path, {**SETTINGS, key: now}).open()


def test_the_number_of_processes_binds_until_the_end(tmp_path):
    first = RunFolder(tmp_path / "run", {**SETTINGS, "devices": 2})
    first.open()
    first.checkpoint.touch()
    other = RunFolder(first.path, {**SETTINGS, "devices": 4})
    with pytest.raises(ValueError, match="devices = 2, not 4"):
        other.open()
    first.finish({})
    other.open()


def test_inputs_may_move_but_not_change(tmp_path):
    first = RunFolder(tmp_path / "run", SETTINGS, {"case": "12ab"})
    first.open()
    first.checkpoint.touch()
    RunFolder(first.path, {**SETTINGS, "case": "moved/a"}, {"case": "12ab"}).open()
    with pytest.raises(ValueError, match="another content of case"):
        RunFolder(first.path, SETTINGS, {"case": "34cd"}).open()


@pytest.mark.parametrize("name", ["weights.safetensors", "denoiser"])
def test_weights_may_move_but_not_change(tmp_path, name):
    def opened(folder):
        run = RunFolder(tmp_path / "run", {**SETTINGS, "weights": str(folder / name)})
        if (folder / name).exists():
            run.facts["weights"] = weights_record([folder / name])
        run.open()
        return run

    file = tmp_path / "t" / (name if "." in name else f"{name}/unet/model.safetensors")
    write_bytes(file, b"learned")
    opened(tmp_path / "t").finish({})
    (tmp_path / "t").rename(tmp_path / "u")
    assert opened(tmp_path / "u").finished
    write_bytes(tmp_path / "u" / file.relative_to(tmp_path / "t"), b"learned anew")
    with pytest.raises(ValueError, match="holds a run with weights = '.*/t/"):
        opened(tmp_path / "u")
    with pytest.raises(ValueError, match="holds a run with weights = '.*/t/"):
        opened(tmp_path / "missing")


def test_a_run_that_goes_on_elsewhere_remembers_where_it_was(tmp_path, monkeypatch, caplog):
    def opened(weights, machine):
        monkeypatch.setattr(run_folder, "environment", lambda: {"cpu": machine})
        run = RunFolder(tmp_path / "run", SETTINGS)
        run.facts = {"weights": {"a.safetensors": weights}}
        with caplog.at_level("WARNING", "diffnr"):
            run.open()
            with run.claim():
                pass
        return run

    opened("old", "first").checkpoint.touch()
    assert "earlier" not in opened("old", "first").environment
    assert not caplog.records
    last = opened("new", "second").environment
    assert (last["cpu"], last["weights"]) == ("second", {"a.safetensors": "new"})
    assert [e["cpu"] for e in last["earlier"]] == ["first"]
    assert "goes on with other weights than it was begun with" in caplog.text
    assert len(opened("new", "second").environment["earlier"]) == 1
    assert [e["cpu"] for e in opened("new", "third").environment["earlier"]] == ["first", "second"]


def test_who_does_not_get_the_folder_does_not_describe_it(tmp_path, monkeypatch):
    """As of two sweeps on two machines, of which one comes to a run that the other one is working on."""
    for machine in ("first", "second"):
        monkeypatch.setattr(run_folder, "environment", lambda machine=machine: {"cpu": machine})
        run = RunFolder(tmp_path / "run", {**SETTINGS, "device": machine})
        run.open()
    assert run.environment["cpu"] == "first"
    assert "device: first" in (run.path / "config.yaml").read_text()
    with run.claim():
        assert run.environment["cpu"] == "second"
    assert "device: second" in (run.path / "config.yaml").read_text()


@pytest.mark.parametrize("left", ["checkpoint.ckpt", "metrics.json"])
def test_inputs_are_known_by_what_earlier_versions_recorded(tmp_path, left):
    first = RunFolder(tmp_path / "run", SETTINGS, {"case": "12ab"})
    first.open()
    (first.path / left).touch()
    with pytest.raises(ValueError, match="another content of case"):
        RunFolder(first.path, SETTINGS, {"case": "34cd.v2.56ef"}).open()
    now = RunFolder(first.path, SETTINGS, {"case": "12ab.v2.56ef"})
    now.open()
    if now.finished:
        return
    with now.claim():
        pass
    assert now.environment["inputs"] == {"case": "12ab.v2.56ef"}
    with pytest.raises(ValueError, match="another content of case"):
        RunFolder(first.path, SETTINGS, {"case": "12ab.v2.78ab"}).open()


def in_processes(number, work):
    """Call ``work(rank, barrier, answers)`` in processes; return the answers by rank."""
    barrier, answers = FORK.Barrier(number), FORK.Queue()
    processes = [FORK.Process(target=work, args=(k, barrier, answers)) for k in range(number)]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(10)
        assert process.exitcode == 0
    return found


def test_the_processes_of_a_run_open_it_together(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "environment", lambda: {"packages": {}})

    def open_all(rank, barrier, answers):
        refused = []
        for number in range(OPENINGS):
            barrier.wait(60)
            try:
                RunFolder(tmp_path / str(number), SETTINGS).open()
            except Exception as error:
                refused.append(repr(error))
        answers.put((rank, refused))

    assert in_processes(PROCESSES, open_all) == {rank: [] for rank in range(PROCESSES)}
    for number in range(OPENINGS):
        assert sorted(os.listdir(tmp_path / str(number))) == ["config.yaml", "environment.json"]


def test_of_two_runs_one_has_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "environment", lambda: {"packages": {}})

    def work(rank, barrier, answers):
        run = RunFolder(tmp_path / "run", SETTINGS)
        run.open()
        barrier.wait(60)
        try:
            with run.claim():
                barrier.wait(60)
            answers.put((rank, "worked"))
        except ValueError as error:
            answers.put((rank, str(error)))
            barrier.wait(60)

    answers = sorted(in_processes(2, work).values(), key=len)
    assert answers[0] == "worked"
    assert "is being filled by process" in answers[1]
    assert "give another --out" in answers[1]
    assert sorted(os.listdir(tmp_path / "run")) == ["config.yaml", "environment.json"]


def test_a_run_that_has_begun_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "environment", lambda: {"packages": {}})

    def work(rank, barrier, answers):
        run = RunFolder(tmp_path / "run", SETTINGS if rank == 0 else changed(iterations=4))
        try:
            if rank == 0:
                run.open()
                with run.claim():
                    barrier.wait(60)
                    barrier.wait(60)
            else:
                barrier.wait(60)
                run.open()
            answers.put((rank, "worked"))
        except ValueError as error:
            answers.put((rank, str(error)))
        finally:
            if rank == 1:
                barrier.wait(60)

    answers = in_processes(2, work)
    assert answers[0] == "worked"
    assert "iterations = 3, not 4" in answers[1]


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        RunFolder(tmp_path, SETTINGS).open()
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex", SETTINGS).open()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    folder = RunFolder(tmp_path, SETTINGS)
    (tmp_path / ".123.part.config.yaml").write_text("method: {")
    (tmp_path / ".running").write_text("process 123 on host")
    folder.open()
    with folder.claim():
        pass
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "environment.json"]


def fails(folder, *made):
    with pytest.raises(ValueError, match="no such option"), folder.claim():
        for name in made:
            (folder.path / name).write_text("kept")
        raise ValueError("no such option")


def test_a_run_that_fails_before_any_result_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "chest" / "run", SETTINGS)
    folder.open()
    fails(folder)
    assert not list(tmp_path.iterdir())
    empty = tmp_path / "empty"
    empty.mkdir()
    folder = RunFolder(empty, SETTINGS)
    folder.open()
    fails(folder)
    assert not list(empty.iterdir())


def test_a_run_that_fails_later_or_in_a_run_that_was_there_keeps_what_it_has(run):
    fails(run, "checkpoint.ckpt")
    assert (run.path / "config.yaml").is_file()
    (run.path / "checkpoint.ckpt").unlink()
    again = RunFolder(run.path, SETTINGS)
    again.open()
    fails(again)
    assert (run.path / "config.yaml").is_file()


def test_a_damaged_checkpoint_is_refused(run):
    run.checkpoint.write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(ValueError, match="cannot be read"):
        run.resume_from()
    torch.save({"weights": 1}, run.checkpoint)
    with pytest.raises(ValueError, match="cannot be read"):
        run.resume_from()


def test_a_hostile_checkpoint_is_not_run(run, capsys):
    torch.save({"state_dict": Hostile()}, run.checkpoint)
    with pytest.raises(ValueError, match="cannot be read"):
        run.resume_from()
    assert "executed" not in capsys.readouterr().out


def test_a_run_begins_until_it_is_finished(run, caplog):
    caplog.set_level("INFO", "diffnr")
    assert run.begin() and not caplog.messages
    run.finish({})
    assert not run.begin()
    assert caplog.messages == [f"{run.path} is finished already"]


def test_a_logger_is_told_settings_and_environment(run):
    assert set(run.described) == {*SETTINGS, "environment"}
    assert run.described["environment"] == run.environment


def test_the_environment_says_where_it_was_computed(tmp_path):
    run = RunFolder(tmp_path / "run", {**SETTINGS, "device": "cpu"})
    run.open()
    assert run.environment["device"] == "cpu"


def test_metrics_mark_the_end(run):
    metrics = run.finish({"protocols": {"r2": {"psnr": 30.0}}})
    assert run.finished
    assert json.loads((run.path / "metrics.json").read_text()) == metrics
    assert metrics["protocols"]["r2"]["psnr"] == 30.0
    assert {"seconds", "peak_memory_mb"} <= set(metrics)


def test_environment_says_what_a_result_depends_on():
    described = json.loads(json.dumps(environment()))
    assert described["threads"]["numba"] >= 1
    assert described["cpu"]
    assert {"git", "gpus", "platform", "python", "omp_wait_policy"} <= set(described)
