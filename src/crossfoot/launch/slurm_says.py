"""What SLURM's programs say, in plain words: why a job is refused, and why one waits.

The texts are those of SLURM's src/common/slurm_errno.c and of `man squeue` (job reason codes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from crossfoot.arithmetic.batch import in_a_sum
from crossfoot.findings.finding import Finding
from crossfoot.launch import findings
from crossfoot.launch.job import Job

_UNREACHABLE = re.compile(
    r"unable to contact slurm controller|socket timed out|munge|authentication|zero bytes were transmitted"
    r"|slurm_load|unable to establish|configuration source|fetch config", re.IGNORECASE,
)  # fmt: skip
_PREFIX = re.compile(r"^(?:sbatch: )?(?:error: )?(?:Batch job submission failed: |allocation failure: )?")

ENDED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("BOOT_FAIL", "DEADLINE", "REVOKED"),
)
"""States of a job that has ended."""

REASONS = {
    "Resources": "waits for nodes to become free",
    "Priority": "jobs of a higher priority come first",
    "BeginTime": "queued again; SLURM lets about two minutes pass before it starts",
    "Dependency": "waits for another job",
    "JobHeldUser": "held by you; free it with: scontrol release JOB",
    "JobHeldAdmin": "held by an administrator",
    "JobArrayTaskLimit": "too many tasks of its array run",
    "Licenses": "waits for a licence",
    "Reservation": "waits for its reservation",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition starts no jobs at the moment",
    "PartitionNodeLimit": "asks for more nodes than the partition has or allows; as it is, it never starts",
    "PartitionTimeLimit": "asks for more time than the partition allows; as it is, it never starts: --time",
    "BadConstraints": "asks for something that no node has; as it is, it never starts",
    "InvalidAccount": "its account is not valid: --account",
    "Cleaning": "is being cleaned up before it starts again",
    "launch failed requeued held": "could not be started, and is held; free it with: scontrol release JOB",
}


@dataclass(frozen=True)
class QueueState:
    """What squeue says of a job."""

    state: str
    reason: str = ""

    @property
    def is_pending(self) -> bool:
        """It has not begun, or waits to begin again."""
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "STOPPED")

    def in_words(self, job_id: str) -> str:
        """`job 12 is pending: Resources, waits for nodes to become free`."""
        line = f"job {job_id} is {self.state.lower().replace('_', ' ')}"
        reason = self.reason if self.reason not in ("None", "(null)", "") else ""
        meaning = _meaning(reason).replace("JOB", job_id)
        return ", ".join(part for part in (f"{line}: {reason}" if reason else line, meaning) if part)


def _meaning(reason: str) -> str:
    name = reason.partition(",")[0]
    if name.startswith(("QOS", "Assoc", "MaxJobs", "MaxCpu", "MaxNode")):
        return "a limit of your account or QOS is reached"
    return REASONS.get(name, "")


def refusal_of(said: str, job: Job) -> Finding:
    """The finding for what sbatch has said: which words of the command line, or of the config, to change."""
    lines = [_PREFIX.sub("", line.strip()) for line in said.splitlines() if line.strip()]
    fact = lines[-1] if lines else ""
    if _UNREACHABLE.search(said):
        return findings.slurm_silent("sbatch", fact)
    title, helps = _explained(said.lower(), job)
    return findings.slurm_refuses(fact, title, helps)


def _explained(said: str, job: Job) -> tuple[str, tuple[str, ...]]:
    options = job.options
    another_partition = "name one that exists: --partition NAME (sinfo -s lists them)"
    less = "ask for less: cluster.num_nodes and cluster.gpus_per_node in the config"
    if "partition" in said and "account/partition" not in said and "invalid partition" in said:
        named = (
            f"SLURM has no partition {options.partition}"
            if options.partition
            else "SLURM has no such partition"
        )
        return named, (another_partition,)
    if "account" in said and "invalid" in said:
        named = f"account {options.account}" if options.account else "your account"
        return (
            f"SLURM does not let {named} run here",
            ("name one of yours: --account NAME (sacctmgr show associations user=$USER lists them)",),
        )
    if "invalid --time" in said:
        return (
            f"SLURM cannot read the time {options.time}",
            ("write minutes, HH:MM:SS or D-HH:MM:SS: --time 24:00:00",),
        )
    if "time limit" in said:
        return (
            f"SLURM does not give a job the time {options.time}"
            if options.time
            else "SLURM wants a time limit",
            ("set another: --time HH:MM:SS (sinfo -o '%P %l' shows what each partition allows)",),
        )
    if "generic resource" in said or "gres" in said:
        return (
            f"SLURM has no GPUs to give, and {in_a_sum(job.cluster.gpus_per_node)} "
            f"{'on each node' if job.cluster.is_even else f'on {job.num_nodes} nodes'} are asked for",
            (
                "start in a partition that has GPUs: --partition NAME (sinfo -o '%P %G' shows them)",
                "to train on CPUs: DS_ACCELERATOR=cpu crossfoot launch ...",
            ),
        )
    if "not available" in said or "node count" in said or "more processors" in said or "cpu count" in said:
        return (
            f"SLURM has no nodes for this job: {job.topology}"
            + (f", {options.cpus_per_task} CPUs for each" if options.cpus_per_task else ""),
            ("look what there is: sinfo -o '%P %D %c %G %l'", less, "or choose another --partition"),
        )
    return "SLURM refuses this job", (less, another_partition)
