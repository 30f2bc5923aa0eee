"""A Slurm of one node on this machine, for the tests: a context manager, or `python tests/one_node.py FOLDER`.

It needs the programs of Debian's packages slurmctld, slurmd, slurm-client and munge, and root. Two partitions share the
node: `urgent` takes it from `main`, whose jobs are then requeued. There is no accounting.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
SECONDS = 60
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=30
SlurmdTimeout=5
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=1 MaxTime=1-0
PartitionName=urgent Nodes={host} PriorityTier=2
"""


def missing() -> list[str]:
    """What has to be installed first."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class OneNode:
    """Starts on entering, ends on leaving; between these `SLURM_CONF` names it to every Slurm command."""

    def __init__(self, folder: str | Path, cpus: int = 2) -> None:
        self.folder, self.cpus, self.host = Path(folder).absolute(), cpus, socket.gethostname().partition(".")[0]
        self.config = self.folder / "slurm.conf"

    def __enter__(self) -> OneNode:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(256))
        key.chmod(0o600)
        ports = {"control_port": _free_port(), "node_port": _free_port()}
        self.config.write_text(
            CONFIG.format(host=self.host, user=getpass.getuser(), folder=self.folder, cpus=self.cpus, **ports)
        )
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        os.environ["SLURM_CONF"] = str(self.config)
        # A shared /tmp is no place for a socket to munge, unless it is told so.
        named = {name: f"{self.folder}/munge.{name}" for name in ("socket", "seed")}
        self._run(
            "munged", "--force", f"--key-file={key}", f"--socket={named['socket']}", f"--seed-file={named['seed']}",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
        )  # fmt: skip
        try:
            self._run("slurmctld", "-f", self.config)
            self.start_node()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], check=False, capture_output=True)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and self.jobs():
            time.sleep(0.5)
        for name in ("slurmctld", "slurmd", "munged"):
            self.end(name)
        os.environ.pop("SLURM_CONF", None)

    def start_node(self) -> None:
        """Start the node's daemon and wait until it takes jobs."""
        self._run("slurmd", "-f", self.config, "-N", self.host)
        until = time.monotonic() + SECONDS
        while self.ask("sinfo", "-h", "-p", "main", "-o", "%T") not in ("idle", "mixed", "allocated"):
            if time.monotonic() > until:
                logs = "\n".join((self.folder / f"{name}.log").read_text()[-1000:] for name in ("slurmctld", "slurmd"))
                raise RuntimeError(f"the node takes no jobs:\n{logs}")
            time.sleep(0.2)

    def end(self, name: str, signum: int = signal.SIGTERM) -> None:
        """End one of the daemons, and wait for that."""
        path = self.folder / f"{name}.pid"
        try:
            pid = int(path.read_text())
            os.kill(pid, signum)
        except (OSError, ValueError):
            return
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and Path(f"/proc/{pid}").exists():
            time.sleep(0.1)
        path.unlink(missing_ok=True)

    def die(self) -> None:
        """What a power cut does to a node: its daemon ends at once, and so does all that it had begun."""
        self.end("slurmd", signal.SIGKILL)
        for pid, words, variables in self._processes():
            if words[0].startswith("slurmstepd") or "SLURM_JOB_ID" in variables:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def tasks(self, job: str) -> list[int]:
        """Processes of a job that submitit began."""
        return [
            pid
            for pid, words, variables in self._processes()
            if variables.get("SLURM_JOB_ID") == job and words[1:4] == ["-u", "-m", "submitit.core._submit"]
        ]

    def _processes(self) -> Iterator[tuple[int, list[str], dict[str, str]]]:
        """Of this Slurm alone: number, words of the command, environment."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_text(errors="replace").split("\0")
                if f"SLURM_CONF={self.config}" in environment:
                    words = (process / "cmdline").read_text(errors="replace").split("\0")
                    yield int(process.name), words, dict(line.split("=", 1) for line in environment if "=" in line)

    def jobs(self) -> list[tuple[str, str]]:
        """Id and state of what waits or runs."""
        return [tuple(line.split()) for line in self.ask("squeue", "-h", "-o", "%i %T").splitlines()]

    def ask(self, *command: str) -> str:
        """What a command of Slurm's prints."""
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def _run(self, *command: object) -> None:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} does not start: {done.stderr.strip() or done.stdout.strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    if needed := missing():
        sys.exit(f"missing: {', '.join(needed)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), OneNode(sys.argv[1]) as node:
        print(f"export SLURM_CONF={node.config}; Ctrl-C ends it", flush=True)
        signal.pause()
