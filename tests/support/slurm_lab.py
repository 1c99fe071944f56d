"""A real SLURM on the machines of a lab: munged and slurmctld on head, a slurmd on each node."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.lab import HEAD, HEAD_ADDRESS, Lab, lab_of, wait_for

PROGRAMS = ("/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/sbin/munged", "sbatch", "srun", "scontrol")
_READY_SECONDS = 30.0
_CONF = """ClusterName=lab
SlurmctldHost={head}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# what is requeued starts again once its old credential has expired: 120 s if nothing is said, 5 s at least
AuthInfo=socket={folder}/munge.sock,cred_expire=15
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout={node_timeout}
SlurmctldTimeout=30
InactiveLimit=0
KillWait=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=DEFAULT CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 RealMemory=8000 Gres=gpu:2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=10 GraceTime=0
PartitionName=low Nodes=ALL MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
"""
_GRES = "AutoDetect=off\nNodeName=node[1-{count}] Name=gpu File={folder}/nvidia[0-1] Flags=nvidia_gpu_env\n"
_CGROUP = "CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"


@contextmanager
def slurm_of(
    folder: Path, num_nodes: int = 2, environ: Mapping[str, str] | None = None, node_timeout: int = 30
) -> Iterator[Lab]:
    """A lab with SLURM that answers. Partitions: main, and low, whose jobs main may push out with a minute of
    grace. node_timeout: seconds until a node that does not answer is down.
    """
    slurm = folder / "slurm"
    conf = {"SLURM_CONF": str(slurm / "slurm.conf"), **(environ or {})}
    with lab_of(folder, num_nodes, conf) as lab:
        slurm.mkdir()
        (slurm / "state").mkdir()
        _write_files(slurm, lab, node_timeout)
        munge = [f"--{key}={slurm}/munge.{end}" for key, end in _MUNGE_FILES]
        _begin(lab, HEAD, "/usr/sbin/munged", "--force", *munge)  # else no folder above may be private
        _begin(lab, HEAD, "/usr/sbin/slurmctld", "-c")
        for node in lab.nodes:
            (slurm / f"spool-{node}").mkdir()
            _begin(lab, node, "/usr/sbin/slurmd", "-N", node)
        wait_for(lambda: _idle(lab) == num_nodes, _READY_SECONDS, lambda: _logs(slurm))
        yield lab


def job_field(lab: Lab, job_id: str, name: str) -> str | None:
    """What the controller says of a job: JobState, Restarts, Reason. None when it no longer knows."""
    said = lab.run(HEAD, "scontrol", "--oneliner", "show", "job", job_id, timeout=60).stdout
    found = re.search(rf"\b{name}=(\S+)", said)
    return found[1] if found else None


_MUNGE_FILES = (
    ("key-file", "key"),
    ("socket", "sock"),
    ("pid-file", "pid"),
    ("log-file", "log"),
    ("seed-file", "seed"),
)


def _write_files(slurm: Path, lab: Lab, node_timeout: int) -> None:
    nodes = "\n".join(
        f"NodeName={node} NodeAddr=10.77.0.{number} NodeHostname={node} State=UNKNOWN"
        for number, node in enumerate(lab.nodes, 1)
    )
    settings = {"head": HEAD, "address": HEAD_ADDRESS, "folder": slurm, "nodes": nodes}
    (slurm / "slurm.conf").write_text(_CONF.format(**settings, node_timeout=node_timeout))
    (slurm / "gres.conf").write_text(_GRES.format(folder=slurm, count=lab.num_nodes))
    (slurm / "cgroup.conf").write_text(_CGROUP)
    key = slurm / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    for number in (0, 1):  # GPUs to count and to hand out: they must be character devices
        os.mknod(slurm / f"nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def _begin(lab: Lab, machine: str, *command: str) -> None:
    """Start a daemon; it goes into the background by itself."""
    done = lab.run(machine, *command, timeout=60)
    assert done.returncode == 0, (command, done.stdout)


def _idle(lab: Lab) -> int:
    said = lab.run(HEAD, "sinfo", "-h", "-t", "idle", "-p", "main", "-o", "%D", timeout=60).stdout
    return int(said) if said.strip().isdigit() else 0


def _logs(slurm: Path) -> str:
    return "\n".join(f"{log.name}\n{log.read_text()[-2000:]}" for log in sorted(slurm.glob("*.log")))
