"""A SLURM of one node in a folder of its own, as long as it is needed.

Daemons, keys, ports, states and logs are its own: it neither needs nor touches a SLURM of the machine, and runs as any
user, in a container without systemd or cgroups.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
CORES = 8
SECONDS_TO_START = 30.0
SECONDS_TO_END = 20.0

# A queue that gives way (`low`) to another (`high`); a job goes back into the queue only if it asks for that; a
# requeued job starts again after `cred_expire` seconds, which are 120 elsewhere; the cores are what is said here,
# whatever the machine has.
CONFIG = """\
ClusterName=diffnr
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/ended_jobs.txt
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1024
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=0
OverTimeLimit=0
KillWait=5
MaxArraySize=9
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=65536 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 MaxTime=60 State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF MaxTime=60 State=UP
"""


def missing_programs() -> list[str]:
    """Return the programs of SLURM and munge that this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]


class OneNodeSlurm:
    """The cluster that `one_node_slurm` has started.

    Args:
        folder: of its configuration, states and logs.
        environment: in which the commands of SLURM find it.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)

    def output(self, *command: str) -> str:
        """Run a command of SLURM and return what it prints; an error is part of it."""
        done = subprocess.run(
            command,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return what the controller knows of a job, by its names of things; nothing where it knows no such job."""
        words = self.output("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, number: str, *states: str, restarts: int = 0, seconds: float = 600) -> None:
        """Wait until a job is in one of some states, after having been started again so many times.

        Raises:
            TimeoutError: it was not in that time.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            known = self.job(number)
            if known.get("JobState") in states and int(known.get("Restarts", 0)) >= restarts:
                return
            time.sleep(0.2)
        raise TimeoutError(
            f"job {number} was not {' or '.join(states)} within {seconds} s: {known}"
        )

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait a while until they are gone."""
        self.output("scancel", "--me", "--full")
        until = time.monotonic() + SECONDS_TO_END
        while self.output("squeue", "--noheader").strip() and time.monotonic() < until:
            time.sleep(0.2)


@contextlib.contextmanager
def one_node_slurm(folder: Path) -> Iterator[OneNodeSlurm]:
    """Start a SLURM in an empty folder; its jobs and daemons are gone at the end.

    Args:
        folder: with a path short enough for a socket.

    Raises:
        RuntimeError: a daemon did not start; what it said is part of the message.
    """
    config = folder / "slurm.conf"
    controller_port, node_port = _free_ports(2)
    config.write_text(
        CONFIG.format(
            host=socket.gethostname().split(".")[0],
            user=pwd.getpwuid(os.getuid()).pw_name,
            folder=folder,
            controller_port=controller_port,
            node_port=node_port,
            cores=CORES,
        )
    )
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {**os.environ, "PATH": _search_path(), "SLURM_CONF": str(config)}
    for name in list(environment):
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_")) and name != "SLURM_CONF":
            del environment[name]  # of a job that this may run in
    cluster = OneNodeSlurm(folder, environment)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = {
        # Its checks of who may write to the folders above are waived: they are temporary.
        "munged": ["--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        "slurmctld": ["-D", "-c", "-f", str(config)],
        "slurmd": ["-D", "-f", str(config)],
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, options in daemons.items():
            started.append(_daemon(name, options, cluster))
            if name == "munged":
                _until(lambda: (folder / "munge.socket").exists(), cluster, started)
        _until(lambda: "idle" in cluster.output("sinfo", "-h", "-o", "%T"), cluster, started)
        yield cluster
    finally:
        _end(cluster, started)


def _search_path() -> str:
    """Daemons lie where the path of a user may not lead."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _daemon(name: str, options: list[str], cluster: OneNodeSlurm) -> subprocess.Popen[bytes]:
    with (cluster.folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [shutil.which(name, path=_search_path()), *options],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _until(holds, cluster: OneNodeSlurm, started: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while not holds():
        if time.monotonic() > until or any(process.poll() is not None for process in started):
            logs = [
                f"{log.name}:\n{log.read_text(errors='replace')[-1500:]}"
                for log in sorted(cluster.folder.glob("*.log"))
            ]
            raise RuntimeError("\n".join(["SLURM did not start.", *logs]))
        time.sleep(0.1)


def _end(cluster: OneNodeSlurm, started: list[subprocess.Popen[bytes]]) -> None:
    """Cancel all jobs, wait until they are gone, and end the daemons, the one first that was started last."""
    if len(started) == 3 and started[1].poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            cluster.cancel_all()
    for process in reversed(started):
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
