"""Who this process is: rank, world and machine, read from what the launcher left in the environment. Nothing
is guessed.

| launcher | ranks on this machine | machine and number of machines |
|---|---|---|
| deepspeed | LOCAL_SIZE | CROSS_RANK, CROSS_SIZE |
| torchrun, accelerate with several processes | LOCAL_WORLD_SIZE | GROUP_RANK, GROUP_WORLD_SIZE |
| srun (deepspeed too) | SLURM_STEP_TASKS_PER_NODE at SLURM_NODEID | SLURM_NODEID, SLURM_STEP_NUM_NODES |
| accelerate with one process, python | nothing | nothing |

srun is also what `deepspeed --launcher slurm` becomes. A launcher's own variables come first: under `srun
torchrun` SLURM counts launchers, not ranks. The deepspeed launcher also adds `--local_rank=N` to the
arguments; LOCAL_RANK says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from crossfoot.arithmetic.batch import Topology
from crossfoot.environment import slurm
from crossfoot.environment.findings import (
    foreign_engine,
    launchers_apart,
    launchers_nested,
    machine_unknown,
    marks_of_two,
    no_meeting_point,
    not_alone,
    number_unreadable,
    numbers_impossible,
    other_nodes,
    ranks_half_told,
    ranks_without_deepspeed_file,
    tasks_without_ranks,
    witnesses_disagree,
    world_differs,
)
from crossfoot.findings.finding import Finding, Refused

Launcher = Literal["deepspeed", "torchrun", "srun", "accelerate", "plain"]
Engine = Literal["deepspeed", "accelerate"]

SLURM_JOB_SIZES = ("SLURM_NTASKS", "SLURM_JOB_NUM_NODES")
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")
NUMBERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"),
    *("LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"),
    *SLURM_JOB_SIZES,
    *MPI_SIZES,
)
WORDS = (
    *("SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PTY_PORT"),
    *("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"),
)
DEEPSPEED_MARKS = ("LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
TORCHRUN_MARKS = ("GROUP_RANK", "GROUP_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
"""Variables that only the one launcher sets. Both kinds together: one was started inside the other."""
FOREIGN_ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")


@dataclass(frozen=True)
class World:
    """This process's place. Differs per rank; `world_size`, `num_nodes` and `launcher` are the same on all
    ranks.

    witnesses: the variables that were read, in a fixed order. ranks_per_node: ranks on each machine, in
    machine order, and the same on all ranks; None where the launcher tells of this machine only, which
    leaves more than one other open (the preflight check then says). local_rank: each of 0 to
    local_world_size - 1 once on a machine, in any order: deepspeed makes it of RANK modulo slots.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    num_nodes: int
    launcher: Launcher
    witnesses: tuple[tuple[str, str], ...] = ()
    ranks_per_node: tuple[int, ...] | None = None

    @property
    def tasks_claimed(self) -> int:
        """The largest number of tasks that any witness claims; the world size at least."""
        return self.largest_claim[0]

    @property
    def largest_claim(self) -> tuple[int, str]:
        """The largest number of tasks that is claimed (a job's nodes hold a task each, at least), and the
        variables that claim it."""
        told = dict(self.witnesses)
        in_step = "SLURM_STEP_NUM_TASKS" in told
        names = (*(("SLURM_STEP_NUM_TASKS",) if in_step else SLURM_JOB_SIZES), *MPI_SIZES)
        claims = [
            (self.world_size, "WORLD_SIZE"),
            *((int(told[name]), name) for name in names if name in told),
        ]
        if (
            self.launcher == "accelerate"
            and "RANK" not in told
            and {"MASTER_ADDR", "MASTER_PORT"} <= told.keys()
        ):
            # its one-process launcher sets these two only when it was asked for more processes than it starts
            claims.append((2, "MASTER_ADDR MASTER_PORT"))
        return max(claims, key=lambda claim: claim[0])


def read_world(environ: Mapping[str, str]) -> World:
    """The place of this process. Refused (CF41x, CF444) when variables contradict one another or tell only
    half.
    """
    told = _read_numbers(environ)
    refuse_nested((), environ)
    witnesses = tuple((name, environ[name]) for name in (*NUMBERS, *WORDS) if environ.get(name))
    through_accelerate = "ACCELERATE_MIXED_PRECISION" in environ
    step_tasks = told.get("SLURM_STEP_NUM_TASKS", 0)
    by_slurm = "SLURM_PROCID" in told and step_tasks > 0
    if "LOCAL_SIZE" in told or "LOCAL_WORLD_SIZE" in told:
        _refuse_half(told)
        launcher: Launcher = "torchrun"
        if "LOCAL_SIZE" in told:
            launcher = "deepspeed"
        elif through_accelerate:
            launcher = "accelerate"
        world = _from_launcher(told, launcher, witnesses)
        if step_tasks not in (0, 1, world.num_nodes) and "SLURM_PTY_PORT" not in environ:
            raise Refused(launchers_apart(launcher, step_tasks, world.num_nodes, world.world_size))
        return world
    if by_slurm and not through_accelerate:
        return _from_slurm(told, environ, witnesses)
    _refuse_half(told)
    if "RANK" in told and told["WORLD_SIZE"] != 1:
        missing = ["LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"]
        raise Refused(machine_unknown(told["RANK"], told["WORLD_SIZE"], missing))
    world = World(0, 1, 0, 1, 0, 1, "accelerate" if through_accelerate else "plain", witnesses, (1,))
    if not through_accelerate and world.tasks_claimed > 1 and any(name in told for name in SLURM_JOB_SIZES):
        why = "the shell of a batch script or of salloc is not one of them"
        raise Refused(tasks_without_ranks(*world.largest_claim, why))
    if told.get("RANK") or told.get("LOCAL_RANK"):
        raise Refused(numbers_impossible("one process in all, but its rank is not 0", ["RANK", "LOCAL_RANK"]))
    return world


def refuse_nested(launchers: Sequence[str], environ: Mapping[str, str]) -> None:
    """Refused (CF444) when a launcher started a launcher: seen in the parents, or in the marks of both.

    launchers: those above this process, the outermost first (`ancestry.launchers_above`).
    """
    marks = {name: environ[name] for name in (*DEEPSPEED_MARKS, *TORCHRUN_MARKS) if environ.get(name)}
    if len(launchers) > 1:
        raise Refused(launchers_nested(launchers, marks))
    if all(any(name in marks for name in both) for both in (DEEPSPEED_MARKS, TORCHRUN_MARKS)):
        raise Refused(marks_of_two(marks))


def rendezvous(world: World, environ: Mapping[str, str]) -> dict[str, str]:
    """What to export for torch.distributed: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.

    Under srun the address is the first host of the step's nodes (rank 0 runs there unless tasks were placed
    by `--distribution=arbitrary`) and the port comes from the job id, both unless they are exported. Alone:
    this machine, and port 0, which lets the store choose. Refused (CF417) when there is no way to know.
    """
    address, port, why = environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", ""), "no launcher set it"
    if world.world_size == 1 and world.launcher in ("plain", "accelerate"):
        address, port = address or "127.0.0.1", port or "0"
    if world.launcher == "srun":
        try:
            address = address or slurm.first_host(
                environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
            )
            job, step = int(environ["SLURM_JOB_ID"]), int(environ.get("SLURM_STEP_ID") or 0)
            port = port or str(slurm.port_of_job(job, step))
        except KeyError as missing:
            why = f"{missing.args[0]} is not set"
        except ValueError as unreadable:
            why = str(unreadable)
    absent = [name for name, value in (("MASTER_ADDR", address), ("MASTER_PORT", port)) if not value]
    if absent:
        raise Refused(no_meeting_point(absent, why))
    if not port.isdecimal() or int(port) > 65_535:
        raise Refused(number_unreadable("MASTER_PORT", port))
    return {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.world_size),
        "LOCAL_RANK": str(world.local_rank),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }


def unplanned_nodes(world: World, planned: Topology) -> tuple[Finding, ...]:
    """CF435 when as many ranks as planned are spread over nodes otherwise, and one of the two is uneven; in
    which order the nodes come is the launcher's choice. Nothing while the ranks of each node are not known.
    """
    if world.ranks_per_node is None or world.world_size != planned.world_size:
        return ()
    real = Topology(world.ranks_per_node, world.num_nodes)
    if real.has_nodes_of(planned) or (real.is_even and planned.is_even):
        return ()
    return (other_nodes(world.launcher, real, planned),)


def engine_for(
    world: World, plan_world_size: int, has_deepspeed_file: bool, environ: Mapping[str, str]
) -> Engine:
    """Which engine drives the run: the launcher decides. Refused (CF44x) when it cannot be the plan's run.

    Ranks from a launcher and a DeepSpeed file: deepspeed, and the world must be the plan's. Exactly one
    process: accelerate, the plan folded into it, unless a witness claims more tasks.
    """
    findings: list[Finding] = []
    for name in FOREIGN_ENGINES:
        if environ.get(name, "").lower() in ("true", "1"):
            findings.append(foreign_engine(name, environ[name]))
    started_by = world.launcher if world.launcher != "plain" else "this shell"
    alone = world.world_size == 1
    tasks, witness = world.largest_claim
    by_deepspeed = has_deepspeed_file and (world.launcher in ("deepspeed", "torchrun", "srun") or not alone)
    if alone and tasks > 1:
        findings.append(not_alone(tasks, witness))
    elif by_deepspeed and world.world_size != plan_world_size:
        findings.append(world_differs(world.world_size, started_by, plan_world_size))
    elif not alone and not has_deepspeed_file:
        findings.append(ranks_without_deepspeed_file(world.world_size, started_by))
    if findings:
        raise Refused(findings)
    return "deepspeed" if by_deepspeed else "accelerate"


def _read_numbers(environ: Mapping[str, str]) -> dict[str, int]:
    """The launchers' numbers that are set; an empty variable counts as not set. Refused with every unreadable
    one."""
    told, findings = {}, []
    for name in NUMBERS:
        text = environ.get(name, "").strip()
        if text and text.isdecimal():
            told[name] = int(text)
        elif text:
            findings.append(number_unreadable(name, text))
    if findings:
        raise Refused(findings)
    return told


def _refuse_half(told: Mapping[str, int]) -> None:
    trio = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    present = {name: told[name] for name in (*trio, "LOCAL_SIZE", "LOCAL_WORLD_SIZE") if name in told}
    missing = [name for name in ("RANK", "WORLD_SIZE") if name not in told]
    if present and missing:
        raise Refused(ranks_half_told(present, missing))


def _from_launcher(
    told: Mapping[str, int], launcher: Launcher, witnesses: tuple[tuple[str, str], ...]
) -> World:
    """A world that the deepspeed launcher, torchrun or accelerate told. Refused when its numbers cannot all
    be true."""
    findings = []
    for ours, theirs in (
        ("LOCAL_SIZE", "LOCAL_WORLD_SIZE"), ("CROSS_SIZE", "GROUP_WORLD_SIZE"), ("CROSS_RANK", "GROUP_RANK"),
    ):  # fmt: skip
        if ours in told and theirs in told and told[ours] != told[theirs]:
            findings.append(witnesses_disagree((ours, told[ours]), (theirs, told[theirs])))
    if findings:
        raise Refused(findings)
    rank, world_size = told["RANK"], told["WORLD_SIZE"]
    local_size = told["LOCAL_SIZE"] if "LOCAL_SIZE" in told else told["LOCAL_WORLD_SIZE"]
    node_names = ("GROUP_WORLD_SIZE", "GROUP_RANK")
    if "CROSS_SIZE" in told:
        node_names = ("CROSS_SIZE", "CROSS_RANK")
    if world_size == local_size:
        num_nodes, node_rank = told.get(node_names[0], 1), told.get(node_names[1], 0)
    else:
        missing = [name for name in node_names if name not in told]
        if missing:
            raise Refused(machine_unknown(rank, world_size, missing))
        num_nodes, node_rank = told[node_names[0]], told[node_names[1]]
    if "LOCAL_RANK" not in told:
        raise Refused(machine_unknown(rank, world_size, ["LOCAL_RANK"]))
    others = world_size - local_size
    layout = {1: (local_size,), 2: (local_size, others) if node_rank == 0 else (others, local_size)}
    world = World(
        rank=rank,
        world_size=world_size,
        local_rank=told["LOCAL_RANK"],
        local_world_size=local_size,
        node_rank=node_rank,
        num_nodes=num_nodes,
        launcher=launcher,
        witnesses=witnesses,
        ranks_per_node=layout.get(num_nodes),
    )
    _refuse_impossible(world)
    return world


def _from_slurm(
    told: Mapping[str, int], environ: Mapping[str, str], witnesses: tuple[tuple[str, str], ...]
) -> World:
    """A world that srun told. RANK, WORLD_SIZE and LOCAL_RANK, if exported as well, must say the same."""
    tasks = told["SLURM_STEP_NUM_TASKS"]
    if tasks > 1 and "SLURM_PTY_PORT" in environ and "RANK" not in told:
        why = "the shell of srun --pty runs beside them"
        raise Refused(tasks_without_ranks(tasks, "SLURM_STEP_NUM_TASKS", why))
    findings = []
    for name, twin in (
        ("RANK", "SLURM_PROCID"),
        ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"),
        ("LOCAL_RANK", "SLURM_LOCALID"),
    ):
        if name in told and told[name] != told.get(twin, told[name]):
            findings.append(witnesses_disagree((name, told[name]), (twin, told[twin])))
    if findings:
        raise Refused(findings)
    layout = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    names = ("SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_NODES")
    missing = [name for name in names if name not in told] + ([] if layout else ["SLURM_STEP_TASKS_PER_NODE"])
    if missing:
        raise Refused(machine_unknown(told["SLURM_PROCID"], tasks, missing))
    try:
        per_node = slurm.tasks_per_node(layout)
    except ValueError:
        raise Refused(number_unreadable("SLURM_STEP_TASKS_PER_NODE", layout)) from None
    node_rank, num_nodes = told["SLURM_NODEID"], told["SLURM_STEP_NUM_NODES"]
    if sum(per_node) != tasks or len(per_node) != num_nodes or node_rank >= num_nodes:
        what = (
            f"{layout} tasks per node are not {tasks} tasks on {num_nodes} nodes, seen from node {node_rank}"
        )
        seen = ["SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_NODEID"]
        raise Refused(numbers_impossible(what, seen))
    world = World(
        rank=told["SLURM_PROCID"],
        world_size=tasks,
        local_rank=told["SLURM_LOCALID"],
        local_world_size=per_node[node_rank],
        node_rank=node_rank,
        num_nodes=num_nodes,
        launcher="srun",
        witnesses=witnesses,
        ranks_per_node=per_node,
    )
    _refuse_impossible(world)
    return world


def _refuse_impossible(world: World) -> None:
    """Refused with every relation between the numbers that does not hold."""
    others = world.world_size - world.local_world_size
    wrong = []
    if world.rank >= world.world_size:
        wrong.append(f"rank {world.rank} in a world of {world.world_size}")
    if world.local_rank >= world.local_world_size:
        wrong.append(f"local rank {world.local_rank} on a machine of {world.local_world_size} ranks")
    if world.node_rank >= world.num_nodes:
        wrong.append(f"machine {world.node_rank} of {world.num_nodes}")
    if others < world.num_nodes - 1 or (others > 0 and world.num_nodes == 1):
        wrong.append(
            f"{world.local_world_size} of {world.world_size} ranks on one of {world.num_nodes} machines"
        )
    names = [name for name, _ in world.witnesses if name in NUMBERS]
    if wrong:
        raise Refused([numbers_impossible(what, names) for what in wrong])
