"""Commands are handed to submitit whole or in shards, as processes of this machine, and their end is told."""

import json
import pickle
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from diffnr_lightning import cli
from diffnr_lightning.workflows import submission

pytest.importorskip("submitit")

WHOLE = "sweep --volumes phantom:1 --views 8 --methods fdk --out runs"
FINETUNE = "finetune --config finetune/compact --data.folders pairs --out run"


def submit(tmp_path, *options):
    return cli.main(["submit", "--cluster", "local", "--folder", str(tmp_path / "jobs"), *options])


@pytest.mark.parametrize(
    ("command", "jobs", "shares"),
    [
        ("curate --out 'my pairs'", 1, [["curate", "--out", "my pairs"]]),
        (
            "sweep --config a.yaml",
            2,
            [["sweep", "--config", "a.yaml", "--shard", f"{k}/2"] for k in range(2)],
        ),
        ("finetune --config a.yaml", 1, [["finetune", "--config", "a.yaml"]]),
    ],
)
def test_work_is_divided_by_shards(command, jobs, shares):
    assert submission._shares(command, jobs) == shares


def test_jobs_share_a_sweep(tmp_path, capsys):
    config = tmp_path / "runs.yaml"
    scan = tmp_path / "scan.yaml"
    scan.write_text(yaml.safe_dump({"size": 16}))
    settings = {
        "volumes": ["phantom:1-2"],
        "views": [8],
        "scans": [str(scan)],
        "methods": ["reconstruct/fdk.yaml"],
        "out": str(tmp_path / "runs"),
    }
    config.write_text(yaml.safe_dump(settings))
    assert (
        submit(tmp_path, "--jobs", "2", "--wait", "true", "--command", f"sweep --config {config}")
        == 0
    )
    for seed in (1, 2):
        metrics = (
            tmp_path / "runs" / scan.stem / "8_views" / f"phantom_{seed}" / "fdk" / "metrics.json"
        )
        assert json.loads(metrics.read_text())["protocols"]["r2"]["psnr"] > 5
    told = capsys.readouterr().out
    assert "--shard 0/2" in told and "--shard 1/2" in told
    assert list((tmp_path / "jobs").glob("*_log.out"))


def test_a_command_with_brackets_is_shown_as_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(submission, "_handed_over", lambda *_: [SimpleNamespace(job_id="7")])
    assert submit(tmp_path, "--command", f"{WHOLE}/[/a]") == 0
    quoted = WHOLE.replace("runs", "'runs/[/a]'")
    assert capsys.readouterr().out == f"7  diffnr {quoted}\n"


def test_jobs_that_fail_are_named(tmp_path, capsys):
    missing = WHOLE.replace("phantom:1", str(tmp_path / "nowhere.nii"))
    assert submit(tmp_path, "--wait", "true", "--command", missing) == 2
    told = capsys.readouterr().err
    assert "1 of 1 jobs failed" in told and str(tmp_path / "jobs") in told


def test_a_job_that_is_preempted_is_queued_again_as_it_was():
    line = pickle.loads(pickle.dumps(submission.CommandLine(["sweep", "--config", "a.yaml"])))
    again = line.checkpoint()
    assert again.function.arguments == ["sweep", "--config", "a.yaml"]


@pytest.mark.parametrize("code", [-signal.SIGTERM, 143])
def test_a_command_that_the_scheduler_ends_leaves_no_result(monkeypatch, code):
    ended = subprocess.CompletedProcess([], code)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(SystemExit):  # submitit keeps exceptions as results
        submission.CommandLine(["sweep"])()


def test_a_command_that_was_killed_says_so(monkeypatch):
    ended = subprocess.CompletedProcess([], -signal.SIGKILL)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "2")
    with pytest.raises(RuntimeError, match=r"sweep \(task 2 of 4\) was ended by SIGKILL"):
        submission.CommandLine(["sweep"])()


def answer_in_turn(monkeypatch, *answers):
    """Let `squeue` say one after the other, the last one for ever; None is a failure."""
    given = list(answers)

    def run(*_, **__):
        out = given.pop(0) if len(given) > 1 else given[0]
        code, error = (0, "") if out is not None else (1, "squeue: error:\nUnable to contact it.\n")
        return subprocess.CompletedProcess([], code, out, error)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(submission, "SECONDS_BETWEEN_LOOKS", 0.0)
    return given


def test_jobs_are_waited_for_while_the_queue_knows_them(monkeypatch):
    left = answer_in_turn(monkeypatch, "7_0\n7_1\n", None, "7_1\n9\n", None, "9\n")
    submission._wait_for_queue(["7_0", "7_1"])
    assert left == ["9\n"]


def test_a_queue_that_never_answers_is_not_waited_for(monkeypatch):
    answer_in_turn(monkeypatch, "7_0\n", None)
    monkeypatch.setattr(submission, "SECONDS_WITHOUT_ANSWER", 0.05)
    with pytest.raises(ChildProcessError) as error:
        submission._wait_for_queue(["7_0", "7_1"])
    assert "(Unable to contact it) and jobs 7_0, 7_1 are not waited for" in str(error.value)


def test_threads_are_the_cores_that_were_given(monkeypatch):
    monkeypatch.setattr(submission.os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert submission._threads() == {"OMP_NUM_THREADS": "4", "NUMBA_NUM_THREADS": "4"}
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert submission._threads() == {}
    # macOS tells no affinity.
    monkeypatch.delattr(submission.os, "sched_getaffinity")
    monkeypatch.setattr(submission.os, "cpu_count", lambda: 64)
    assert submission._threads() == {}


def test_what_resuming_needs_is_asked_for_beside_what_is_given():
    given = {"cpus_per_task": 3, "slurm_srun_args": ["--verbose"], "timeout_min": 7}
    options = submission._slurm_options(given | {"slurm_additional_parameters": {"nice": 5}})
    assert options["slurm_additional_parameters"] == {"requeue": True, "nice": 5}
    asked = ["--kill-on-bad-exit=1", "--cpus-per-task=3", "--verbose"]
    assert options["slurm_srun_args"] == asked and options["timeout_min"] == 7
    by_slurm = submission._slurm_options({"slurm_cpus_per_task": 3})
    assert "--cpus-per-task=3" in by_slurm["slurm_srun_args"]
    in_one = submission._slurm_options(given | {"slurm_srun_args": "--verbose --label"})
    assert in_one["slurm_srun_args"] == [*asked, "--label"]


@pytest.mark.parametrize(
    ("more", "options"),
    [("", {}), ("--devices 4", {}), ("--devices 4", {"tasks_per_node": 4}), ("--devices auto", {})],
)
def test_tasks_as_many_as_devices_or_one_are_submitted(more, options):
    settings = submission._checked([*FINETUNE.split(), *more.split()])
    submission._refuse_other_processes(settings, submission._tasks(options, "slurm"))


@pytest.fixture
def slurm_parameters(tmp_path, monkeypatch):
    """Return what submitit asks SLURM for, on a machine that has none."""
    from submitit.slurm.slurm import SlurmExecutor

    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda _: 1))
    return lambda options: submission._executor(tmp_path, "slurm", options).parameters


@pytest.mark.parametrize(
    "options",
    [
        {"slurm_nodes": 2, "slurm_ntasks_per_node": 4},
        {"nodes": 2, "tasks_per_node": 4},
        {"nodes": 1, "slurm_nodes": 2, "slurm_tasks_per_node": 4, "tasks_per_node": 3},
        {"nodes": 2, "slurm_tasks_per_node": 3, "slurm_ntasks_per_node": 4},
        {"slurm_nodes": 2, "tasks_per_node": 4},
    ],
)
def test_nodes_and_tasks_are_those_that_submitit_takes(slurm_parameters, options):
    taken = slurm_parameters(options)
    asked = [taken["nodes"], taken["ntasks_per_node"]]
    assert submission._tasks(options, "slurm") == asked == [2, 4]
    named = {name: count for name, count in options.items() if name.startswith("slurm")}
    assert submission._tasks(named, "local") == [1, 1]


def test_a_task_on_each_of_several_nodes_is_asked_for_in_words(slurm_parameters):
    """As Lightning has to know how tasks lie on nodes."""
    for options in ({"nodes": 2}, {"slurm_nodes": 2, "tasks_per_node": None}):
        assert slurm_parameters(options)["ntasks_per_node"] == 1
    assert "ntasks_per_node" not in slurm_parameters({"nodes": 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--command", "demo"], "one that begins with curate, sweep"),
        (["--command", "sweep --config 'a"], "quotes that close"),
        (["--command", " "], "one that begins with"),
        (["--command", "finetune", "--jobs", "2"], "only curate and sweep without --shard"),
        (["--command", "sweep --shard 0/2", "--jobs", "2"], "without --shard can be divided"),
        (["--command", "sweep", "--jobs", "0"], "jobs is 0"),
        (["--command", "sweep", "--options", "{tasks_per_node: 2}"], "would do the same"),
        (["--command", FINETUNE, "--options", "{tasks_per_node: 4}"], "give the command --num"),
        (["--command", f"{FINETUNE} --num_nodes 2", "--options", "{gpus_per_node: 1}"], "1 and 1,"),
        (["--command", WHOLE, "--options", "{colour: 3}"], "names and types of submitit"),
        (["--command", WHOLE, "--options", "{timeout_min: long}"], "names and types of submitit"),
        (["--command", WHOLE, "--cluster", "slurm"], "srun is not found"),
        (["--command", "sweep --colour 3"], "command is 'sweep --colour 3': "),
        (["--command", "reconstruct --config fdkk --case a --out b"], "fdkk"),
        (["--command", "curate --out a"], "volumes"),
    ],
)
def test_what_cannot_be_submitted(tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine with SLURM should not run this either
    assert submit(tmp_path, *options) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.strip().count("\n") == 0
    assert not (tmp_path / "jobs").exists()


def test_a_refused_submission_takes_its_own_files_away_alone(tmp_path, monkeypatch):
    from submitit.core.utils import FailedJobError
    from submitit.local.local import LocalExecutor

    folder = tmp_path / "jobs"

    def refuse(self, *_):
        (folder / f".submission_file_{32 * 'a'}.sh").write_text("ours")
        (folder / "7_0_log.out").write_text("of a job that runs")
        raise FailedJobError("no such partition")

    monkeypatch.setattr(LocalExecutor, "_submit_command", refuse)
    with pytest.raises(ValueError, match="the cluster refuses"):
        submission.submit(WHOLE, folder, cluster="local")
    assert [path.name for path in folder.iterdir()] == ["7_0_log.out"]


def test_without_submitit_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert submit(tmp_path, "--command", WHOLE) == 2
    assert "diffnr-lightning[cluster]" in capsys.readouterr().err
