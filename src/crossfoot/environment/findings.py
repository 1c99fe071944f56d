"""What can be wrong with the way a run was started: one function, one code, and its docstring is the manual
page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crossfoot.arithmetic.batch import Topology, counted_on_nodes
from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted
from crossfoot.shell_words import quoted

ONE_LAUNCHER = (
    "start with one launcher: deepspeed --num_gpus N train.py CONFIG, "
    "torchrun --nproc-per-node N train.py CONFIG, or srun python train.py CONFIG"
)
DRY_RUN = (
    "for a dry run on one GPU, which folds the plan: accelerate launch --num_processes 1 train.py CONFIG"
)


@rule_docs("CF410")
def number_unreadable(name: str, value: str) -> Finding:
    """CF410: a launcher's variable holds something that is not a whole number, 0 or more.

    Ranks and world sizes are read from the environment. A script that exports one of them, or a template
    whose placeholder was not filled in, leaves text there.
    """
    return Finding(
        "CF410",
        f"{name} is {value!r}, not a whole number",
        helps=(f"remove {name} from the environment", ONE_LAUNCHER),
    )


@rule_docs("CF411")
def ranks_half_told(present: Mapping[str, int], missing: Sequence[str]) -> Finding:
    """CF411: some of the rank variables are set, and others that belong to them are not.

    RANK and WORLD_SIZE come together from every launcher. One alone is left over from another shell, or was
    exported by hand; guessing the other would train on the wrong share of the data.
    """
    told = " and ".join(f"{name}={value}" for name, value in present.items())
    return Finding(
        "CF411",
        f"{told} without {' and '.join(missing)}",
        notes=("a process that knows only half of its place would train on the wrong share of each batch",),
        helps=(f"unset {' '.join(present)}", ONE_LAUNCHER),
    )


@rule_docs("CF412")
def numbers_impossible(what: str, names: Sequence[str]) -> Finding:
    """CF412: the rank variables contradict one another.

    A rank must be below its world size, a local rank below the ranks of its machine, and the machines
    together must hold the world. Something that breaks this was not written by one launcher.
    """
    return Finding("CF412", what, notes=(f"read from {', '.join(names)}",), helps=(ONE_LAUNCHER,))


@rule_docs("CF413")
def witnesses_disagree(first: tuple[str, int], second: tuple[str, int]) -> Finding:
    """CF413: two variables that say the same thing say different numbers.

    For example WORLD_SIZE, exported in a batch script, against the tasks that srun really started; or the
    variables of the deepspeed launcher against those of torchrun, when one was started inside the other.
    """
    return Finding(
        "CF413",
        f"{first[0]} says {first[1]}, but {second[0]} says {second[1]}",
        helps=(f"unset {first[0]} if it is left over", ONE_LAUNCHER),
    )


@rule_docs("CF414")
def tasks_without_ranks(tasks: int, witness: str, why: str) -> Finding:
    """CF414: SLURM has several tasks for this job, but this process has no rank.

    The shell of a batch script, salloc and `srun --pty` run one process beside the tasks that were asked for.
    Training there would use one GPU out of many, and in a step of several tasks it would wait for peers that
    never come.
    """
    return Finding(
        "CF414",
        f"SLURM counts {tasks} tasks, but this process is none of them",
        notes=(f"{witness} says {tasks}; {why}",),
        helps=(
            "start the ranks: srun python train.py CONFIG",
            "or start a launcher: deepspeed --num_gpus N train.py CONFIG",
            "for a dry run in one process ask for one task: srun --ntasks=1 python train.py CONFIG",
        ),
    )


@rule_docs("CF415")
def launchers_apart(launcher: str, tasks: int, num_nodes: int, world_size: int) -> Finding:
    """CF415: srun started several launchers that do not know of each other.

    Each of them starts a whole world of its own: the same run several times, all writing to one folder. Under
    srun a launcher must be told of the other nodes, or started once.
    """
    return Finding(
        "CF415",
        f"srun started {tasks} copies of the {launcher} launcher, "
        f"each with a world of {world_size} on {counted(num_nodes, 'node')}",
        notes=("every copy would run the whole plan, and all of them in one folder",),
        helps=(
            "start the ranks directly: srun python train.py CONFIG",
            "or tell them of each other: srun torchrun --nnodes $SLURM_NNODES --rdzv-backend c10d "
            "--rdzv-endpoint HOST:PORT ..., or deepspeed --no_ssh --node_rank $SLURM_NODEID "
            "--master_addr HOST --hostfile FILE ...",
            "or start one launcher: srun --ntasks=1",
        ),
    )


@rule_docs("CF416")
def machine_unknown(rank: int, world_size: int, missing: Sequence[str]) -> Finding:
    """CF416: a rank is known, but not how many ranks share its machine.

    The local rank chooses the GPU. Without it two ranks would meet on one GPU.
    """
    return Finding(
        "CF416",
        f"this is rank {rank} of {world_size}, but nothing says how the ranks are spread over machines",
        notes=(f"not set: {', '.join(missing)}",),
        helps=(ONE_LAUNCHER, "or export LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK and GROUP_WORLD_SIZE too"),
    )


@rule_docs("CF417", name="no-master-address")
def no_meeting_point(missing: Sequence[str], why: str) -> Finding:
    """CF417: the ranks do not know where to meet.

    torch.distributed needs the address and a port of rank 0. Launchers export MASTER_ADDR and MASTER_PORT;
    under srun they are made from the step's node list and the job id, so that its tasks are one world, and
    not a world each. (lie B17)
    """
    names = " and ".join(missing)
    return Finding(
        "CF417",
        f"{names} {'are' if len(missing) > 1 else 'is'} not known",
        notes=(why,),
        helps=(f"export {names}, the same on every node", ONE_LAUNCHER),
    )


@rule_docs("CF433")
def address_unknown(address: str, rank: int, host: str, why: str) -> Finding:
    """CF433: the name in MASTER_ADDR is unknown on a machine.

    Every rank connects to rank 0 by that name. A name from a hostfile that is only in one machine's
    /etc/hosts, or a typing error, would be found by torch only after minutes of trying.
    """
    return Finding(
        "CF433",
        f"rank {rank} on {host} cannot look up MASTER_ADDR {address}",
        notes=(f"the system says: {why}",),
        helps=(
            "give the launcher rank 0's address: deepspeed --master_addr, torchrun --master-addr, "
            "or export MASTER_ADDR before srun",
            f"or make {address} known on every node: `getent hosts {quoted(address)}` must answer there",
        ),
    )


@rule_docs("CF434")
def port_taken(port: int, host: str, why: str) -> Finding:
    """CF434: rank 0 cannot listen on MASTER_PORT.

    Another run on the same machine, or one that is not quite over, has the port: launchers use 29500 unless
    they are told another. Two runs that met on one port would mix their ranks.
    """
    return Finding(
        "CF434",
        f"port {port} on {host}, where the ranks are to meet, cannot be had",
        notes=(f"the system says: {why}", f"who holds it: ss -ltnp 'sport = :{port}'"),
        helps=(
            "take another port: deepspeed --master_port N, torchrun --master-port N, "
            "or export MASTER_PORT before srun",
            "or end the run that holds it",
        ),
    )


@rule_docs("CF435")
def other_nodes(launcher: str, real: Topology, planned: Topology) -> Finding:
    """CF435: the ranks are spread over the nodes otherwise than planned.

    There are as many as planned, but a node has more of them, or fewer, than any node of the plan, and
    nodes are not all alike. A hostfile with other slots looks like this, or a node that came up with fewer
    GPUs, or a job whose tasks SLURM has placed as it liked. Nodes that differ are planned with a list,
    `cluster.gpus_per_node: [2, 1]`; in which order the launcher numbers them does not matter. What counts
    is where the ranks really are, which all of them tell at the preflight check: other programs divide the
    world size by the ranks of one node, and are wrong then. (lie U9)
    """
    gpus = real.gpus_per_node
    said = f"{gpus}" if isinstance(gpus, int) else f"[{', '.join(map(str, gpus))}]"
    is_other = real.is_even or real.num_nodes != planned.num_nodes
    nodes = f" and cluster.num_nodes to {real.num_nodes}" if is_other else ""
    return Finding(
        "CF435",
        f"the plan is for {planned.in_words()}, but {launcher} started {_ranks_on(real)}",
        helps=(
            f"start {_ranks_on(planned)}: slots in the hostfile, --nproc-per-node of each node, "
            "srun --ntasks-per-node",
            f"or plan for what there is: set cluster.gpus_per_node to {said}{nodes}",
        ),
    )


def _ranks_on(topology: Topology) -> str:
    """`3 ranks on 1 node`, `2 ranks on each of 2 nodes`, `2 + 1 ranks on 2 nodes`."""
    each = "each of " if topology.is_even and topology.num_nodes > 1 else ""
    ranks = counted_on_nodes(topology.gpus_per_node, "rank")
    return f"{ranks} on {each}{counted(topology.num_nodes, 'node')}"


@rule_docs("CF440")
def world_differs(world_size: int, started_by: str, plan_world_size: int) -> Finding:
    """CF440: the launcher started another number of ranks than the plan has.

    One rank drives one GPU, and the plan has `cluster.num_nodes` x `cluster.gpus_per_node` of them. DeepSpeed
    counts its batch as micro batch x accumulation x ranks, so on another number of ranks another batch would
    be trained, and nothing is. Either the launcher is told the plan's number, or the plan is made for the
    number that is there; with the same `batch.global_batch_size` its steps are then the same.
    """
    return Finding(
        "CF440",
        f"{started_by} started {counted(world_size, 'rank')}, and the plan has {plan_world_size:,}",
        helps=(
            f"start {plan_world_size} ranks in all, with --num_gpus, --nproc-per-node or --ntasks-per-node",
            f"or plan for {world_size}: set cluster.num_nodes and cluster.gpus_per_node, whose product "
            "is the number of ranks, or list the GPUs of each node: cluster.gpus_per_node: [2, 1]",
            DRY_RUN,
        ),
    )


@rule_docs("CF441")
def ranks_without_deepspeed_file(world_size: int, started_by: str) -> Finding:
    """CF441: several processes were started, and the config names no DeepSpeed file.

    The accelerate engine folds a plan into one process. Several ranks are DeepSpeed's work, and it needs its
    file.
    """
    return Finding(
        "CF441",
        f"{started_by} started {world_size} processes, but the config names no DeepSpeed file",
        helps=(
            "name one in the config: deepspeed: ds_configs/zero1.json",
            "or start one process, which folds the plan: accelerate launch --num_processes 1 train.py CONFIG",
        ),
    )


@rule_docs("CF442")
def not_alone(tasks: int, witness: str) -> Finding:
    """CF442: this process is the only rank that it knows of, and a variable says that there are several.

    A process without RANK and WORLD_SIZE does the work of all ranks of the plan by itself, one after the
    other (the plan is folded). If several processes were started like that, each would train the whole run,
    all of them into one folder; so it is refused as soon as one variable speaks of more than one.
    `accelerate launch --num_processes 2` on a machine without GPUs is such a case, and so is
    `--num_machines 2`: it starts one process, and gives it no rank. (lie U8)
    """
    return Finding(
        "CF442",
        f"this process has no rank, and by {witness} there are {counted(tasks, 'process', 'processes')}",
        notes=("without a rank, each of them would train the whole run, all into one folder",),
        helps=(
            "start one task only: accelerate launch --num_processes 1 train.py CONFIG, or srun --ntasks=1",
            f"or, if there is only this one, take the variable away: unset {witness}",
            "for several ranks: deepspeed --num_gpus N train.py CONFIG, and a DeepSpeed file in the config",
        ),
    )


@rule_docs("CF443")
def foreign_engine(name: str, value: str) -> Finding:
    """CF443: accelerate was told to bring an engine of its own (DeepSpeed, FSDP or Megatron-LM).

    crossfoot drives DeepSpeed directly. With accelerate in between, two layers would each believe in a batch
    size.
    """
    return Finding(
        "CF443",
        f"accelerate is set to drive an engine of its own ({name}={value})",
        notes=("crossfoot drives DeepSpeed directly, so that nobody else decides on the batch",),
        helps=(
            "start with the deepspeed launcher: deepspeed --num_gpus N train.py CONFIG",
            "or, for one process: accelerate launch --num_processes 1 --num_machines 1 train.py CONFIG, "
            "with use_deepspeed and use_fsdp off in accelerate's config",
        ),
    )


@rule_docs("CF444")
def launchers_nested(launchers: Sequence[str], marks: Mapping[str, str]) -> Finding:
    """CF444: a launcher was started by another launcher.

    Every process that the outer one starts then starts a whole world of its own: the same run several times,
    in one folder, or ranks that believe the numbers of the outer one and meet on the port of the inner one.
    It shows in the parents of the process, or in variables that belong to different launchers.
    """
    told = ", ".join(f"{name}={value}" for name, value in marks.items())
    return Finding(
        "CF444",
        f"{' was started inside '.join(reversed(launchers))}",
        notes=(
            f"launchers above this process: {' > '.join(launchers)}",
            *((f"their variables: {told}",) if told else ()),
            "every process of the outer launcher would start the inner one again",
        ),
        helps=(ONE_LAUNCHER,),
    )


def marks_of_two(marks: Mapping[str, str]) -> Finding:
    """CF444 again, seen in variables only: some belong to the deepspeed launcher, others to torchrun."""
    deepspeeds = [name for name in marks if not name.startswith(("GROUP_", "TORCHELASTIC_"))]
    torchruns = [name for name in marks if name not in deepspeeds]
    says = [" ".join(f"{name}={marks[name]}" for name in names) for names in (deepspeeds, torchruns)]
    return Finding(
        "CF444",
        "both the deepspeed launcher and torchrun say who this process is",
        notes=(
            f"the deepspeed launcher: {says[0]}",
            f"torchrun: {says[1]}",
            "one was started inside the other, or a shell still exports the variables of one",
        ),
        helps=(ONE_LAUNCHER, f"or unset what is left over: unset {' '.join(torchruns)}"),
    )


@rule_docs("CF423")
def rank_lost(rank: int, said: str, run_dir: str, seen: Sequence[str] = ()) -> Finding:
    """CF423: a connection between ranks broke, and no rank is known to be lost.

    Ranks wait for one another in every step. When one ends by an error, by a lack of memory or with its node,
    the connection to it breaks on the others at once, and it is named a little later (CF773): its process is
    gone, or its heartbeat is silent. Here all hearts still beat, or there are none to look at. Then the
    network between two nodes is the first suspect; or the cause is in the output of the rank that ended
    first. The ledger keeps every step that was booked.
    """
    return Finding(
        "CF423",
        f"the connection to another rank broke, so rank {rank} ends",
        notes=(
            f"torch.distributed says: {said}",
            *seen,
            f"the steps that were booked before are in {run_dir}/ledger.jsonl",
        ),
        helps=("look for the output of the rank that ended first: it says why",),
    )
