"""A real Slurm on this host's loopback: munged, mariadbd, slurmdbd, slurmctld and six slurmd, all started by us.

Everything lies in one folder, with ports and sockets of its own, so that a Slurm that is already here is left alone.
The nodes' GPUs are device files of /dev/null's kind: Slurm counts, binds and refuses them as it would real ones.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.waiting import LIMIT, all_gone

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sbatch", "srun", "sacct", "mariadbd", "mariadb-install-db")
PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
NODES, GPUS, CPUS = 6, 8, 8
LIMITED = 3  # the node on which the kernel holds jobs to their memory, as clusters do
MEMORY = Path("/sys/fs/cgroup/memory")

SLURM_CONF = """\
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
FirstJobId={first}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5,socket={root}/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=5
GresTypes=gpu
KillWait=20
MinJobAge=300
DefMemPerNode=1000
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={root}/munge.socket
AccountingStorageEnforce=associations
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PropagatePrioProcess=1
PartitionName=batch Nodes=n[1-2] Default=YES State=UP PreemptMode=OFF
PartitionName=closed Nodes=n1 AllowAccounts=others State=UP PreemptMode=OFF
PartitionName=lossy Nodes=n3 State=UP PreemptMode=OFF
PartitionName=spare Nodes=n4 State=UP PreemptMode=OFF
PartitionName=low Nodes=n[5-6] State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=n[5-6] State=UP PriorityTier=9 PreemptMode=OFF
"""
NODE = (
    "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Sockets=1 CoresPerSocket={cpus}"
    " ThreadsPerCore=1 RealMemory=20000 Gres=gpu:{gpus} State=UNKNOWN\n"
)
CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile={root}/slurmdbd.log
PidFile={root}/slurmdbd.pid
"""


def missing() -> str | None:
    """Why Slurm can't be started here, or None."""
    if os.name != "posix" or not Path("/proc").is_dir():
        return "Slurm's daemons need Linux"
    if os.geteuid() != 0:
        return "Slurm's daemons and mknod need root"
    lacking = [name for name in PROGRAMS if not _which(name)]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: apt-get install --no-install-recommends {PACKAGES})"
    return None


def no_memory_limits() -> str | None:
    """Why the kernel can't hold jobs to their memory here, or None."""
    if (MEMORY / "memory.limit_in_bytes").is_file() and os.access(MEMORY, os.W_OK):
        return None
    return "the kernel's memory limits (cgroups, version 1) can't be set here"


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Daemons:
    """The daemons and their folder; `start()` them all, `stop()` them by their pids."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path has at most 108 bytes
        self.conf = self.root / "slurm.conf"
        self.environment = dict(os.environ, SLURM_CONF=str(self.conf), MYSQL_UNIX_PORT=str(self.root / "my.sock"))
        self.pids: dict[str, int] = {}

    def start(self) -> None:
        self.root.chmod(0o755)
        self._write_configuration()
        self._start_munged()
        self._start_mariadb()
        self.start_accounting()
        for entry in (["cluster", "ci"], ["account", "a1", "cluster=ci"], ["user", "root", "account=a1"]):
            self.run("sacctmgr", "-i", "add", *entry)
        self._daemon("slurmctld", [_which("slurmctld"), "-c"], "slurmctld.pid")
        for number in range(1, NODES + 1):
            self.start_node(number)
        self._until(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(NODES), "idle nodes")

    def stop(self) -> None:
        if "slurmctld" in self.pids:
            with contextlib.suppress(RuntimeError):
                self.run("scancel", "--user=root")
        for number in range(1, NODES + 1):
            self._end_steps(f"n{number}")
        left = [psutil.Process(pid) for pid in self.pids.values() if psutil.pid_exists(pid)]
        for process in left:
            process.kill()  # nothing of them is kept
        all_gone(process.pid for process in left)
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *words: str) -> str:
        """Run one of Slurm's commands; returns what it printed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=LIMIT, check=False)
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stdout}{done.stderr}")
        return done.stdout

    def start_accounting(self) -> None:
        self._daemon("slurmdbd", [_which("slurmdbd")], "slurmdbd.pid")
        self._until(lambda: "Cluster" in self.run("sacctmgr", "list", "cluster"), "slurmdbd's answer")

    def start_node(self, number: int) -> None:
        own = ["-f", str(self.root / "limited" / "slurm.conf")] if number == LIMITED and not no_memory_limits() else []
        self._daemon(f"slurmd.n{number}", [_which("slurmd"), "-N", f"n{number}", *own], f"slurmd.n{number}.pid")

    def lose_node(self, number: int) -> None:
        """Kill a node's daemon and everything that it had started, as a power cut would."""
        os.kill(self.pids.pop(f"slurmd.n{number}"), signal.SIGKILL)
        self._end_steps(f"n{number}")

    def _end_steps(self, node: str) -> None:
        """Kill the processes of our jobs on a node, and the slurmstepd above each."""
        doomed = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                variables = process.environ()
                if variables.get("SLURMD_NODENAME") == node and Path(variables.get("SLURM_CONF", "/")).is_relative_to(
                    self.root
                ):
                    doomed |= {process, *(p for p in process.parents() if p.name().startswith("slurmstepd"))}
        # at once: none may tell Slurm of another's death; and the youngest first: a job script whose parent dies while it is
        # suspended is woken by the kernel (SIGHUP, SIGCONT), and would write down that it has ended well
        youngest_first = sorted(doomed, key=psutil.Process.create_time, reverse=True)
        for end in (psutil.Process.suspend, psutil.Process.kill):
            for process in youngest_first:
                with contextlib.suppress(psutil.Error):
                    end(process)

    def end(self, name: str) -> None:
        """End one of our daemons by its pid."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pids.pop(name))
            process.terminate()
            all_gone([process.pid])

    # -- starting -----------------------------------------------------------------------------------------------------

    def _write_configuration(self) -> None:
        host = socket.gethostname().partition(".")[0]
        ports = free_ports(2 + NODES)
        # a job's ranks meet at a port that follows from its number: those of suites beside this one have others
        first = 100 * random.randrange(200) + 1
        values = {"host": host, "root": self.root, "ctld": ports[0], "dbd": ports[1], "first": first}
        for folder in ("state", "my", "my_tmp", *(f"spool/n{n}" for n in range(1, NODES + 1))):
            (self.root / folder).mkdir(parents=True)
        nodes = "".join(
            NODE.format(number=n, host=host, port=ports[1 + n], cpus=CPUS, gpus=GPUS) for n in range(1, NODES + 1)
        )
        text = SLURM_CONF.format(**values)
        self.conf.write_text(text.replace("PartitionName=batch", nodes + "PartitionName=batch"))
        dbd = self.root / "slurmdbd.conf"
        dbd.write_text(SLURMDBD_CONF.format(**values))
        dbd.chmod(0o600)
        for number in range(GPUS):
            os.mknod(self.root / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
        (self.root / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={self.root}/gpu[0-{GPUS - 1}]\n")
        (self.root / "plugstack.conf").touch()
        limited = self.root / "limited"
        limited.mkdir()
        for name in ("gres.conf", "plugstack.conf"):
            (limited / name).symlink_to(self.root / name)
        (limited / "slurm.conf").write_text(self.conf.read_text().replace("task/none", "task/cgroup"))
        (limited / "cgroup.conf").write_text(CGROUP_CONF)

    def _start_munged(self) -> None:
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log",
                 "seed-file": "munge.seed"}  # fmt: skip
        options = [f"--{option}={self.root / name}" for option, name in names.items()]
        self._daemon("munged", [_which("munged"), "--force", *options], "munged.pid")

    def _start_mariadb(self) -> None:
        data, scratch = self.root / "my", self.root / "my_tmp"
        for folder in (data, scratch):
            shutil.chown(folder, "mysql", "mysql")
        # its own: whichever starts removes the temporary tables of all that share a folder
        own = self.environment | {"TMPDIR": str(scratch)}
        log = (self.root / "mariadb.log").open("w")
        install = [_which("mariadb-install-db"), "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db"]
        subprocess.run(install, stdout=log, stderr=log, check=True, env=own)
        process = subprocess.Popen(
            [_which("mariadbd"), "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-networking",
             f"--socket={self.root}/my/my.sock", f"--pid-file={self.root}/my/my.pid", "--innodb-buffer-pool-size=64M",
             "--innodb-lock-wait-timeout=900"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=own,
        )  # fmt: skip
        self.pids["mariadbd"] = process.pid
        self.environment["MYSQL_UNIX_PORT"] = str(self.root / "my" / "my.sock")
        client = ["mariadb", "--no-defaults", "-S", self.environment["MYSQL_UNIX_PORT"], "-e"]
        self._until(lambda: self.run(*client, "select 1"), "mariadbd's answer")
        self.run(*client, "create database slurm_acct_db; create user if not exists 'root'@'localhost';")

    def _daemon(self, name: str, command: list[str | None], pid_file: str) -> None:
        """Run a command that puts itself into the background, and take the pid that it writes."""
        path = self.root / pid_file
        path.unlink(missing_ok=True)
        self.run(*map(str, command))
        self._until(lambda: path.is_file() and path.read_text().strip(), f"{name}'s pid file")
        self.pids[name] = int(path.read_text())

    def _until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + LIMIT
        error = ""
        while time.monotonic() < end:
            try:
                if condition():
                    return
            except RuntimeError as problem:
                error = str(problem)
            time.sleep(0.1)
        logs = "".join(f"\n== {log}\n{log.read_text(errors='replace')[-1500:]}" for log in self.root.glob("*.log"))
        raise RuntimeError(f"waited {LIMIT:.0f} s for {what}: {error}{logs}")


def free_ports(count: int) -> list[int]:
    """Neither of those that the kernel gives to whoever asks for any, nor of those at which a job's ranks meet."""
    found: list[int] = []
    for port in random.sample(range(30_000, 32_768), 200):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")
