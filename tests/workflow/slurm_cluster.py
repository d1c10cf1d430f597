"""A real Slurm of three nodes on this machine, for tests: started in a second, gone without a trace.

No systemd, no cgroups, no accounting. Every node lives in a PID name space of its own, so killing the
name space's holder takes the node's daemon and all of its jobs at one stroke, like a power cut.

The configuration must lie in /etc/slurm, where Slurm's programs look when a job loses SLURM_CONF (the
executor plugin drops all variables SLURM_*). A configuration of somebody else's is never touched.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged", "unshare", "setpriv")
NODES = ("n1", "n2", "n3")
ETC = Path("/etc/slurm")
CONFIGURATION = ("slurm.conf", "gres.conf")
MARK = "# Written by AVION's tests (tests/workflow/slurm_cluster.py) and removed by them."
START_SECONDS = 60.0
END_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: it ends with this process, even when this process is killed."""

SLURM_CONF = """{mark}
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge/munge.sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/spool/%n.inner-pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.log
ReturnToService=2
JobRequeue=1
SlurmctldTimeout=10
SlurmdTimeout=6
MessageTimeout=5
KillWait=2
BatchStartTimeout=10
MinJobAge={min_job_age_seconds}
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL DefMemPerCPU=1500 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
NODE_LINE = (
    "NodeName={name} Gres=gpu:2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
    " CPUs=4 RealMemory=6000 State=UNKNOWN"
)
GRES_CONF = "{mark}\nNodeName=n[1-3] Name=gpu Flags=nvidia_gpu_env File={root}/run/gpu[0-1]\n"


class SlurmUnavailableError(RuntimeError):
    """This machine cannot have a test cluster; the message says why."""


class SlurmCluster:
    """Use as a context manager: three idle nodes inside, nothing left outside.

    `root` is an empty or new folder for state and logs, its path short enough for a socket's name.
    Finished jobs are forgotten after `min_job_age_seconds` seconds.
    Raises SlurmUnavailableError when not root, when Slurm can be neither found nor installed, or when a
    configuration of somebody else's lies in /etc/slurm.
    """

    def __init__(self, root: Path, *, min_job_age_seconds: int = 300) -> None:
        self.root, self.min_job_age_seconds = root.resolve(), min_job_age_seconds
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock: int | None = None

    def __enter__(self) -> SlurmCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Install Slurm if need be and start the three nodes; after an error nothing is left running."""
        _refuse_foreign_configuration()
        install()
        self._lock = _lock_machine()
        try:
            self._write_configuration()
            self._start_munge()
            self._start("slurmctld", ["slurmctld", "-D"])
            for node in NODES:
                self.power_on(node)
            self._wait(lambda: len(self.nodes("idle,mix,alloc")) == len(NODES), "three idle nodes")
        except BaseException:
            self.stop()
            raise

    def nodes(self, states: str) -> list[str]:
        """Names of the nodes in one of these comma-separated states."""
        reply = command(["sinfo", "-h", "-N", "-t", states, "-o", "%N"], check=False)
        return sorted(set(reply.split()))

    def jobs(self, format_: str, *options: str) -> list[str]:
        """Lines of `squeue`, finished jobs too, in this format."""
        reply = command(["squeue", "-h", "-t", "all", "-o", format_, *options])
        return reply.splitlines()

    def finished_jobs(self) -> dict[str, dict[str, str]]:
        """The controller's last record of every finished job, by job id."""
        lines = (self.root / "log/jobcomp.log").read_text().splitlines()
        records = [dict(pair.split("=", 1) for pair in line.split() if "=" in pair) for line in lines]
        return {record["JobId"]: record for record in records}

    def power_on(self, node: str) -> None:
        """Start a node in a PID name space of its own."""
        space = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        self._start(node, [*space, "slurmd", "-D", "-N", node])

    def cut_power(self, node: str) -> None:
        """Take a node and everything that runs on it away at once, without a word to the controller."""
        process = self._processes.pop(node)
        process.kill()
        process.wait()

    def logs(self) -> str:
        """The ends of all daemons' logs, for a failing test."""
        files = sorted((self.root / "log").glob("*"))
        return "\n".join(f"== {file.name}\n{_tail(file)}" for file in files)

    def stop(self) -> None:
        """End every process that this object started, by its id, and take the configuration away."""
        for name in [*NODES, "slurmctld", "munged"]:
            process = self._processes.pop(name, None)
            if process is not None:
                process.kill()
                process.wait()
        if self._lock is not None:
            for name in CONFIGURATION:
                if _is_ours(ETC / name):
                    (ETC / name).unlink()
            os.close(self._lock)
            self._lock = None

    def _write_configuration(self) -> None:
        _refuse_foreign_configuration()
        for folder in ("munge", "state", "spool", "run", "log"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for gpu in ("gpu0", "gpu1"):
            (self.root / "run" / gpu).touch()
        controller, *ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        lines = [NODE_LINE.format(name=n, host=host, port=p) for n, p in zip(NODES, ports, strict=True)]
        conf = SLURM_CONF.format(
            mark=MARK,
            host=host,
            root=self.root,
            controller_port=controller,
            min_job_age_seconds=self.min_job_age_seconds,
            nodes="\n".join(lines),
        )
        (ETC / "slurm.conf").write_text(conf)
        (ETC / "gres.conf").write_text(GRES_CONF.format(mark=MARK, root=self.root))

    def _start_munge(self) -> None:
        room = self.root / "munge"
        room.chmod(0o711)
        key = room / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{option}={room / name}" for option, name in names.items()]
        # --force: a folder below /tmp is writable for everybody, which munged would not have.
        options += [f"--log-file={self.root / 'log' / 'munged.log'}", "--num-threads=2", "--force"]
        self._start("munged", ["munged", "--foreground", *options])
        self._wait((room / "munge.sock").exists, "munged's socket")

    def _start(self, name: str, arguments: Sequence[str]) -> None:
        """Start a daemon."""
        with (self.root / "log" / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*END_WITH_US, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            dead = [name for name, process in self._processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                problem = f"{', '.join(dead)} ended" if dead else f"no {what} in {START_SECONDS:.0f} s"
                raise RuntimeError(f"the test cluster did not start: {problem}\n{self.logs()}")
            time.sleep(0.1)


def install() -> None:
    """Install Slurm with apt-get where it is missing; SlurmUnavailableError says why that cannot be."""
    if os.geteuid() != 0:
        raise SlurmUnavailableError("a test cluster needs root")
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if shutil.which("apt-get") is None:
        raise SlurmUnavailableError("Slurm is not installed and there is no apt-get to install it")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wanted = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
    for arguments in (["apt-get", "update", "-q"], wanted):
        reply = subprocess.run(arguments, capture_output=True, text=True, env=environment)
        if reply.returncode:
            raise SlurmUnavailableError(f"{' '.join(arguments)} failed: {reply.stderr.strip()[-500:]}")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise SlurmUnavailableError(f"apt-get installed Slurm, but {', '.join(missing)} is not there")


def command(arguments: Sequence[str], *, check: bool = True) -> str:
    """Standard output of a Slurm command."""
    return subprocess.run(arguments, capture_output=True, text=True, check=check, timeout=60).stdout


def _lock_machine() -> int:
    """One test cluster a machine at a time: wait for the other one's end."""
    ETC.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(ETC, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _refuse_foreign_configuration() -> None:
    for path in (ETC / name for name in CONFIGURATION):
        if path.exists() and not _is_ours(path):
            raise SlurmUnavailableError(f"{path} is there and is not ours: this machine has a Slurm already")


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_text(errors="replace").startswith(MARK)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for entry in sockets:
            entry.bind(("127.0.0.1", 0))
        return [entry.getsockname()[1] for entry in sockets]
    finally:
        for entry in sockets:
            entry.close()


def _tail(path: Path, characters: int = 3000) -> str:
    return path.read_text(errors="replace")[-characters:]


if __name__ == "__main__":
    install()
