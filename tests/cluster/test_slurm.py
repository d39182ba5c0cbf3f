"""Under a real SLURM: arrays, pre-emption, time limits, killed processes, and what a cluster refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from one_node_slurm import CORES
from run_contents import contents

from diffnr_lightning import cli
from diffnr_lightning.workflows import submission

pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(1800),  # a busy machine
]

TINY = Path(__file__).resolve().parents[2] / "configs" / "tiny"
NODE = f"timeout_min: 30, cpus_per_task: {CORES}"
"""Options of a job that takes the whole node."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A case, pairs, and a reconstruction of the case."""
    folder = tmp_path_factory.mktemp("inputs")
    run_here(f"simulate --volume phantom:3 --size 16 --num_views 12 --out {folder}/case", folder)
    run_here(f"curate --config {TINY}/curate.yaml --out {folder}/pairs", folder)
    scene = {"class_path": "diffnr_lightning.workflows.Scene", "init_args": {"iterations": 400}}
    (folder / "longer.yaml").write_text(yaml.safe_dump({"method": scene, "checkpoint_every": 20}))
    run_here(reconstruction(folder), folder)
    return folder


def reconstruction(inputs):
    configs = (TINY / "reconstruct_gaussians.yaml", inputs / "longer.yaml")
    overlays = " ".join(f"--config {config}" for config in configs)
    return f"reconstruct --case {inputs}/case {overlays} --out run"


def run_here(command, folder):
    """Run a command in a process of its own, with as many threads as jobs have."""
    folder.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "diffnr_lightning.cli", *command.split()]
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    package = str(Path(cli.__file__).resolve().parents[1])
    environment = {**os.environ, **threads, "PYTHONPATH": package}
    subprocess.run(words, cwd=folder, env=environment, check=True)


def submit(command, *more, options=NODE):
    words = ["submit", "--command", command, "--options", f"{{{options}}}", *more]
    return cli.main(words)


def submitted(capsys):
    """Return the numbers of the jobs that `submit` has printed."""
    return re.findall(r"^(\d+(?:_\d+)?)  diffnr", capsys.readouterr().out, flags=re.MULTILINE)


def logs(number):
    """Return what the tasks of a job have said."""
    found = sorted(Path("jobs").glob(f"{number}_*_log.*"))
    return "\n".join(log.read_text() for log in found)


def process_with_checkpoint(number, task):
    """Return the process of the `diffnr` command of a task, as soon as the run has a checkpoint."""
    end = time.monotonic() + 600
    while not Path("run/checkpoint.ckpt").exists():
        assert time.monotonic() < end, logs(number)
        time.sleep(0.02)
    wanted = {f"SLURM_JOB_ID={number}".encode(), f"SLURM_PROCID={task}".encode()}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"diffnr_lightning.cli" in words and wanted <= set(environment):
            return int(folder.name)
    raise AssertionError(f"job {number} has no task {task}: {logs(number)}")


def test_an_array_makes_what_one_process_makes(slurm, tmp_path, capsys):
    table = (
        f"sweep --volumes phantom:1-3 --views 8 --scans {TINY}/simulate.yaml "
        f"--methods fdk {TINY}/reconstruct_gaussians.yaml --out runs"
    )
    submission = ["submit", "--config", "cluster/slurm_cpu", "--command", table]
    assert cli.main([*submission, "--jobs", "3", "--wait", "true"]) == 0
    jobs = submitted(capsys)
    assert len(jobs) == 3 and len({job.split("_")[0] for job in jobs}) == 1
    run_here(table, tmp_path / "here")
    here = contents(tmp_path / "here" / "runs")
    assert contents(tmp_path / "runs") == here and len(here) > 30


def test_a_preempted_job_goes_on_to_the_same_bits(slurm, inputs, tmp_path, capsys):
    assert submit(reconstruction(inputs)) == 0
    (job,) = submitted(capsys)
    # It waits there for what comes.
    os.kill(process_with_checkpoint(job, 0), signal.SIGSTOP)
    slurm.output("sbatch", "--partition=high", f"--cpus-per-task={CORES}", "--wrap", "sleep 1")
    slurm.wait_for(job, "COMPLETED", restarts=1)
    assert "DUE TO PREEMPTION" in logs(job)
    assert contents(tmp_path / "run") == contents(inputs / "run")


def test_a_job_out_of_time_goes_on_to_the_same_bits(slurm, inputs, tmp_path, capsys):
    # SLURM looks every 30 s whose time would be nearly over at the next look: that is 25 to 55 s after the start.
    options = f"timeout_min: 1, cpus_per_task: {CORES}, slurm_signal_delay_s: 5"
    assert submit(reconstruction(inputs), options=options) == 0
    (job,) = submitted(capsys)
    os.kill(process_with_checkpoint(job, 0), signal.SIGSTOP)
    restarts = int(slurm.job(job)["Restarts"]) + 1
    slurm.wait_for(job, "PENDING", restarts=restarts)
    slurm.output("scontrol", "update", f"JobId={job}", "TimeLimit=10")  # enough on a busy machine
    slurm.wait_for(job, "COMPLETED", restarts=restarts)
    assert "this job is timed-out" in logs(job)
    assert contents(tmp_path / "run") == contents(inputs / "run")


def test_a_training_of_two_tasks_goes_on_after_one_was_killed(slurm, inputs, tmp_path, capsys):
    training = (
        f"finetune --config {TINY}/finetune.yaml --data.folders {inputs}/pairs --checkpoint_every 1 --out run "
        "--accelerator cpu --devices 2 --strategy ddp_find_unused_parameters_true"
    )
    options = "timeout_min: 30, tasks_per_node: 2"
    assert submit(training, "--wait", "true", options=options) == 0
    (tmp_path / "run").rename(tmp_path / "whole")
    assert submit(training, options=options) == 0
    _, job = submitted(capsys)
    second = process_with_checkpoint(job, 1)
    killed = time.monotonic()
    os.kill(second, signal.SIGKILL)
    slurm.wait_for(job, "FAILED", seconds=60)
    with capsys.disabled():
        print(f"\na job ended {time.monotonic() - killed:.1f} s after one of its tasks")
    assert re.search(r"\(task 1 of 2\) was ended by SIGKILL", logs(job))
    slurm.output("scontrol", "requeue", job)
    slurm.wait_for(job, "COMPLETED", restarts=1)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["iterations"] == 12
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_job_without_a_result_has_failed(slurm, inputs, capsys, monkeypatch):
    monkeypatch.setattr(submission, "SECONDS_FOR_RESULTS", 2.0)  # no file system is shared here
    # This cluster keeps no accounts: only its queue tells that a job is gone.
    subprocess.Popen(["sh", "-c", "sleep 3; scancel --me"])
    assert submit(reconstruction(inputs), "--wait", "true") == 2
    assert "1 of 1 jobs failed" in capsys.readouterr().err


def test_a_cluster_without_gpus_refuses_a_job_for_one(slurm, inputs, capsys):
    submission = ["submit", "--config", "cluster/slurm_gpu", "--command", reconstruction(inputs)]
    assert cli.main(submission) == 2
    told = capsys.readouterr().err
    assert "gpus_per_node" in told and "Invalid generic resource (gres) specification" in told
    assert told.strip().count("\n") == 0
    assert not Path("jobs").exists()


@pytest.mark.parametrize(
    ("config", "gpus", "answer"),
    [
        ("slurm_cpu", None, "to start at"),
        ("slurm_gpu", "1", "Invalid generic resource (gres) specification"),
        ("slurm_4gpus", "4", "Invalid generic resource (gres) specification"),
    ],
)
def test_sbatch_reads_what_configs_say(slurm, config, gpus, answer):
    options = yaml.safe_load((TINY.parent / "cluster" / f"{config}.yaml").read_text())["options"]
    executor = submission._executor(Path("jobs"), "slurm", options)._executor
    Path("job.sh").write_text(executor._make_submission_file_text("true", "0"))
    said = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", Path("job.sh").read_text(), re.MULTILINE))
    assert said["time"] == str(options["timeout_min"]) and said.get("gpus-per-node") == gpus
    assert said["mem"] == f"{options['mem_gb']}GB"
    assert said["cpus-per-task"] == str(options["cpus_per_task"])
    assert answer in slurm.output("sbatch", "--test-only", "job.sh")
