"""What can be wrong when the ranks of a run meet, before a weight is loaded: one function, one code, one
manual page. Torch-free, so that `crossfoot explain` can read the pages.
"""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted
from crossfoot.rendezvous.devices import Device

SAME_CHECKOUT = "start every node from the same checkout, with the same words on the command line"


@rule_docs("CF424")
def configs_differ(where: str, notes: Sequence[str]) -> Finding:
    """CF424: ranks read different run configs, or were given different words on the command line.

    Every rank makes the plan itself. The values of the config, after its overrides, are compared on all ranks
    before anything is tokenised; every key that differs is named with both values.
    """
    return Finding("CF424", f"different config {where}", notes=tuple(notes), helps=(SAME_CHECKOUT,))


@rule_docs("CF425")
def deepspeed_files_differ(where: str, notes: Sequence[str]) -> Finding:
    """CF425: the DeepSpeed file has the same name on every node, and not the same settings.

    What crossfoot owns is written into the settings on every rank alike; the rest is each node's own. Ranks
    of different ZeRO stages or bucket sizes wait for one another in different places, or add up wrong
    numbers.
    """
    return Finding("CF425", f"different DeepSpeed file {where}", notes=tuple(notes), helps=(SAME_CHECKOUT,))


@rule_docs("CF426")
def data_differs(where: str, notes: Sequence[str]) -> Finding:
    """CF426: the data files have the same names on every node, and not the same content.

    The sha256 of each file is compared, not its time. Sample 17 would be another sample on the other node:
    some would be trained twice and others never.
    """
    return Finding(
        "CF426",
        f"different data {where}: same names, other content",
        notes=tuple(notes),
        helps=(
            "put the data on storage that every node mounts, and name it in data.train",
            "or copy it again to the nodes that differ",
        ),
    )


@rule_docs("CF427")
def code_differs(where: str, notes: Sequence[str]) -> Finding:
    """CF427: another crossfoot runs on one of the nodes.

    The sha256 of every source file of the installed package is compared, whatever its version number says.
    With other code the same plan can be carried out differently, so this is an error even when the plans are
    equal.
    """
    return Finding(
        "CF427",
        f"different code {where}",
        notes=tuple(notes),
        helps=("install the same crossfoot on every node, or run it from one shared checkout",),
    )


@rule_docs("CF428")
def libraries_differ(where: str, notes: Sequence[str]) -> Finding:
    """CF428: a library that decides what is computed has another version on one of the nodes.

    torch: kernels and the way in which ranks talk. deepspeed: which rank owns which part of a tensor, and in
    what order parts are exchanged. transformers: the model's forward. peft: which tensors an adapter has, and
    their order. Ranks that differ in one of them hang, or train a mixture that nobody can repeat. Other
    libraries only bring a warning (CF445).
    """
    return Finding(
        "CF428",
        f"different {where}",
        notes=tuple(notes),
        helps=("install from one constraints.txt on every node: pip install -c constraints.txt ...",),
    )


@rule_docs("CF429")
def models_differ(where: str, notes: Sequence[str]) -> Finding:
    """CF429: the model's or the tokenizer's folder is not the same on every node.

    Compared are config.json, the tokenizer's files, and of the weight files their names, their sizes and 64
    parts of each. Weights that differ between those parts alone are not seen here.
    """
    return Finding(
        "CF429",
        f"different model or tokenizer {where}",
        notes=tuple(notes),
        helps=("put the model on storage that every node mounts, or copy it again to the nodes that differ",),
    )


@rule_docs("CF445", "warning", name="minor-libraries-differ")
def others_differ(where: str, notes: Sequence[str]) -> Finding:
    """CF445: python, or a library that decides nothing between ranks, has another version on a node.

    The sha256 of the plan, which is compared too, would show if it mattered. The run goes on.
    """
    return Finding(
        "CF445",
        f"different versions of libraries {where}",
        severity="warning",
        notes=tuple(notes),
        helps=("install from one constraints.txt on every node",),
    )


@rule_docs("CF432")
def ranks_missing(
    missing: Sequence[int],
    world_size: int,
    here: Sequence[str],
    point: str,
    seconds: float,
    strange: Sequence[int] = (),
) -> Finding:
    """CF432: some ranks never came to the preflight check.

    All ranks meet before anything is tokenised or loaded. One that was refused by a check of its own, that
    was never started, or that cannot reach the meeting point is missing there; without this preflight
    check the others would wait for it for half an hour. Words that are not sealed with the word of this start
    are a stranger's, or of a rank with another version of crossfoot, and count for nothing.
    """
    shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    strangers = [f"somebody else wrote there as rank {', '.join(map(str, strange[:8]))}"] if strange else []
    return Finding(
        "CF432",
        f"{len(missing)} of {world_size} ranks did not come within {seconds:.0f} s: {shown}",
        notes=(f"they were expected at {point}", f"here are {', '.join(here[:8])}", *strangers),
        helps=(
            "look for the output of a missing rank: its own check may have refused it",
            "look whether all were started, and whether MASTER_ADDR and MASTER_PORT are the same everywhere",
            "open that port between the nodes (a firewall drops it silently)",
            "under srun add --kill-on-bad-exit=1: then no rank waits for one that was refused",
        ),
    )


@rule_docs("CF499", name="rank-not-understood")
def rank_not_understood(why: str) -> Finding:
    """CF499: a rank of this start said something that the others cannot read.

    Ranks tell each other in JSON who they are and what they hold, and every key has its type. Ranks of the
    same crossfoot always understand each other.
    """
    return Finding(
        "CF499",
        f"a rank said what the others cannot read: {why}",
        helps=("install the same crossfoot on every node, or run it from one shared checkout",),
    )


@rule_docs("CF448", name="first-rank-unreachable")
def first_unreachable(
    who: str, point: str, world_size: int, why: str, seconds: float, notes: Sequence[str]
) -> Finding:
    """CF448: a rank cannot reach the place where all ranks meet.

    Rank 0 listens at MASTER_ADDR, MASTER_PORT (torchrun's agent does it for its ranks). It is not running, it
    was refused by a check of its own, the address is another machine's, or a firewall is in between.
    """
    return Finding(
        "CF448",
        f"{who} found nobody at {point} within {seconds:.0f} s",
        notes=(f"{world_size} ranks are to meet there; the system says: {why}", *notes),
        helps=(
            "look at the output of rank 0: its own check may have refused it",
            "look whether MASTER_ADDR is the machine of rank 0, and the same on every node",
            f"open the port between the nodes: `nc -vz {point.replace(':', ' ')}` must answer",
        ),
    )


@rule_docs("CF449", name="first-rank-left")
def first_left(who: str, point: str, said: str) -> Finding:
    """CF449: the place where the ranks meet was closed while a rank was still waiting there.

    Rank 0 (torchrun's agent) holds it open. It was refused, was ended, or crashed: why is in its own output.
    """
    return Finding(
        "CF449",
        f"{who} was waiting for the others when {point} was closed",
        notes=(f"torch.distributed says: {said}",),
        helps=("look at the output of rank 0, which held it open: it says why it left",),
    )


@rule_docs("CF446", name="rank-claimed-twice")
def rank_twice(ranks: Sequence[int], notes: Sequence[str]) -> Finding:
    """CF446: two processes claim to be the same rank.

    Ranks that were set by hand, one node started twice with the same --node_rank, or two runs that meet on
    one port. Both processes would train the same share of each batch.
    """
    which = ", ".join(map(str, ranks))
    return Finding(
        "CF446",
        f"more than one process is rank {which}",
        notes=tuple(notes),
        helps=(
            "give every node a --node_rank of its own, and start each once",
            "give two runs on one machine different ports: --master_port N",
        ),
    )


@rule_docs("CF447")
def ranks_apart(who: str, said: str) -> Finding:
    """CF447: the ranks meet, but cannot talk to each other.

    Each rank opens a port of its own for the others, beside the one where they meet. A firewall between the
    nodes, or an interface that the other nodes cannot reach, stops them there.
    """
    return Finding(
        "CF447",
        f"{who} was at the preflight check, but cannot talk to the other ranks",
        notes=(f"torch.distributed says: {said}",),
        helps=(
            "name the interface between the nodes: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, such as eth0",
            "open all ports between the nodes of the run: each rank takes one at random",
        ),
    )


@rule_docs("CF439")
def worlds_differ(notes: Sequence[str]) -> Finding:
    """CF439: ranks were told different numbers of ranks or nodes, or others than those that came.

    A launcher tells every rank, in variables, how many ranks and nodes there are and which of them it is. All
    ranks compare what they were told when they meet: it must be the same for all, and fit the machines that
    they run on. Variables that were left over on one node, or two starts that meet at one address and port,
    look like this. The notes say who was told what. (lies U2, U9)
    """
    return Finding(
        "CF439",
        "the ranks were told different numbers of ranks or nodes, or others than came",
        notes=tuple(notes),
        helps=(
            "start all ranks with one launcher, the same command on every node",
            "unset rank variables that a shell exports: env | grep -E 'RANK|WORLD|SIZE'",
        ),
    )


@rule_docs("CF436")
def device_shared(ranks: Sequence[int], host: str, identity: str, devices: Sequence[Device]) -> Finding:
    """CF436: two ranks are on the same device.

    The uuid of the device (of the MIG slice, where a card is divided) is compared on all ranks. A rank takes
    device 0 when it sees one only, else the one of its LOCAL_RANK: with one visible device for two ranks, or
    the same LOCAL_RANK twice, they meet. NCCL refuses that late, and without saying who; gloo does not.
    """
    index = ", ".join(f"index {device.index} of {device.visible} visible" for device in devices)
    numbers = " and ".join(map(str, ranks))
    return Finding(
        "CF436",
        f"ranks {numbers} on {host} are on the same device",
        notes=(f"it is {devices[0].name} {identity}", f"taken as: {index}"),
        helps=(
            f"let each rank see a device for every rank of its node: unset CUDA_VISIBLE_DEVICES on {host}",
            "or start fewer ranks on that node",
            "under srun ask for a GPU a task: --gpus-per-task=1, or --gres=gpu:N for N tasks",
        ),
    )


@rule_docs("CF437")
def device_beyond(rank: int, host: str, local_rank: int, local_world_size: int, visible: int) -> Finding:
    """CF437: there is no device for a rank: its LOCAL_RANK is beyond the devices that it sees.

    A rank takes the device of its LOCAL_RANK, or device 0 when it sees only one. CUDA itself would say
    "invalid device ordinal", later, and not on which rank.
    """
    return Finding(
        "CF437",
        f"rank {rank} on {host} has LOCAL_RANK {local_rank}, but sees {counted(visible, 'GPU')}",
        notes=(f"{local_world_size} ranks run on {host}",),
        helps=(
            f"start as many ranks on {host} as it has GPUs: --num_gpus {max(visible, 1)}, "
            f"--nproc-per-node {max(visible, 1)}",
            "or let them see more: CUDA_VISIBLE_DEVICES, srun --gres=gpu:N",
        ),
    )


@rule_docs("CF438")
def devices_mixed(notes: Sequence[str]) -> Finding:
    """CF438: some ranks have a GPU, and others none.

    Those without would compute on the CPU, hundreds of times slower, or not at all: the ranks do not even
    choose the same way to talk. A node whose driver is down, or a job that got no GPU there, looks like this.
    (lie U2)
    """
    return Finding(
        "CF438",
        "some ranks have a GPU, others have none",
        notes=tuple(notes),
        helps=(
            "look at nvidia-smi on the nodes without: the driver, CUDA_VISIBLE_DEVICES, the job's --gres",
            "to train on CPUs everywhere set DS_ACCELERATOR=cpu for all ranks",
        ),
    )


@rule_docs("CF420")
def plans_differ(who: str, theirs: str, first: str, ours: str) -> Finding:
    """CF420: two ranks hold different plans.

    Every rank makes the plan itself, from the config, the overrides and the data that it sees; the sha256 of
    plan.lock.json is then compared on all ranks. Nodes with different checkouts, data or command lines differ
    here, before a weight is loaded.
    """
    return Finding(
        "CF420",
        f"{who} holds plan {theirs[:7]}, {first} holds plan {ours[:7]}",
        notes=("the config, the data or the overrides differ between nodes",),
        helps=("start every node from the same checkout, with the same words on the command line",),
    )


@rule_docs("CF421")
def folder_not_shared(who: str, first: str, run_dir: str) -> Finding:
    """CF421: a rank does not see what rank 0 writes into the run folder.

    Rank 0 writes a random word into `run.dir` and every rank reads it there. A folder on a node's own disk
    has the same name on every node and another content.
    """
    return Finding(
        "CF421",
        f"{who} does not see the run folder {run_dir} that {first} writes",
        helps=("set run.dir to a folder on storage that every node mounts",),
    )


@rule_docs("CF422")
def ranks_contradict(who: str, claimed: tuple[int, int], actual: tuple[int, int]) -> Finding:
    """CF422: a launcher's variables and torch.distributed disagree about a rank or the number of ranks.

    The plan's share of this process comes from those variables, the gradients are averaged over
    torch.distributed's ranks: when the two differ, samples would be trained twice or not at all.
    """
    return Finding(
        "CF422",
        f"{who} was started as rank {claimed[0]} of {claimed[1]}, "
        f"torch.distributed says {actual[0]} of {actual[1]}",
        helps=("start all ranks with one launcher, and unset RANK and WORLD_SIZE before it",),
    )
