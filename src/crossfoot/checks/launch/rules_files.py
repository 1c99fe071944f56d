"""CF455, CF468 to CF470, CF472, CF473, CF476 and CF498: launch files that their own readers
take otherwise than they were meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crossfoot.arithmetic.batch import GpusPerNode, counted_on_nodes, in_a_sum
from crossfoot.checks.launch.planned import commands, planned_gpus
from crossfoot.checks.launch.signals import unheard_signal
from crossfoot.checks.launch.told_once import told_once
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding, Place, Severity
from crossfoot.phrases import counted
from crossfoot.shell_words import quoted_path
from crossfoot.written.launch.hostfile import Resources, resources
from crossfoot.written.launch.options import LAUNCHERS, SBATCH, Grammar
from crossfoot.written.launch.read import DEEPSPEEDS_HOSTFILE, is_out_of_sight
from crossfoot.written.launch.sizes import Planned
from crossfoot.written.launch.statement import (
    Command,
    Defect,
    Host,
    LaunchFile,
    Layer,
    LayerKind,
    Statement,
    statements,
    with_named,
)
from crossfoot.written.launch.stating import named_by, training_commands
from crossfoot.written.near_paths import near_help

_GRAMMARS: dict[LayerKind, Grammar] = {**LAUNCHERS, "sbatch": SBATCH}
_EQUAL_SLOTS_ONLY = ("slurm", "mpich", "impi", "mvapich")
"""deepspeed 0.19.8, launcher/multinode_runner.py."""


@rule("CF455", "error", "warning", "note")
@told_once
def named_file_missing(facts: Facts) -> Iterator[Finding]:
    """CF455: a launch file names a file that is not there.

    deepspeed only warns about a missing hostfile, "will proceed with training with local resources only": a
    run that was meant for many nodes then runs on one. accelerate stops. A script that is started and is not
    there is a warning. An absolute path that is not on this machine is a note: it may well be on the cluster,
    and what is in it was not read. A file that the script itself writes first is not looked for. (lie U2)
    """
    for file in with_named(facts.launch):
        starts = bool(training_commands(file))
        for named in file.named:
            if not named.is_missing or (named.what == "script" and not starts):  # CF477 says it
                continue
            if is_out_of_sight(named.path):
                if named.path != DEEPSPEEDS_HOSTFILE:
                    yield out_of_sight(f"the {named.what} {named.path}", named.place)
                continue
            notes: tuple[str, ...] = ()
            if named.what == "hostfile":
                notes = ("DeepSpeed would only warn, and train on the machine that it is started on",)
            yield Finding(
                "CF455",
                f"the {named.what} {named.path} does not exist",
                severity="warning" if named.what == "script" else "error",
                place=named.place,
                notes=notes,
                helps=near_help(named.path)
                or ("give the path of one that exists, relative to the folder in which the command runs",),
            )


def out_of_sight(what: str, place: Place) -> Finding:
    """CF455 about a path that may be there on the cluster."""
    title = f"{what} is not on this machine, and was not read"
    return Finding("CF455", title, severity="note", place=place)


@rule("CF468", name="slots-not-alike")
def nodes_not_alike(facts: Facts) -> Iterator[Finding]:
    """CF468: the slots of the hosts are not the GPUs of the nodes, or this launcher needs nodes alike.

    Nodes need not be alike: `cluster.gpus_per_node: [2, 1]` is a plan for 2 GPUs on the first node and 1 on
    the second, and the hosts of a hostfile have these slots in this order. (With 1 + 2 slots the deepspeed
    launcher gives the ranks of the second node LOCAL_RANK 1 and 0, RANK modulo slots: each still has a device
    of its own. Programs that divide the world size by the ranks of one node get a wrong number of nodes.)
    `deepspeed --launcher` slurm, mpich, impi and mvapich stop at unequal slots, and accelerate divides its
    num_processes by num_machines. (lie U9)
    """
    planned = planned_gpus(facts)
    if planned is None:
        return
    for said in statements(facts.launch, "gpus_by_node"):
        hosts = said.gpus
        if isinstance(hosts, int) or said.dry_run or hosts == planned.value:
            continue
        if isinstance(planned.value, int) or len(hosts) == len(planned.value):  # else CF452 says it
            yield _other_slots(said, hosts, planned)
    if isinstance(planned.value, tuple):
        yield from _same_everywhere(facts, planned.value)


def _other_slots(said: Statement, hosts: Sequence[int], planned: Planned[GpusPerNode]) -> Finding:
    has = f"the hostfile has {in_a_sum(tuple(hosts))} slots"
    if said.witness != "hostfile":
        has = f"{said.words} starts {in_a_sum(tuple(hosts))} ranks"
    end = "the plan has" if planned.in_config else f"{planned.owner} says"
    notes: tuple[str, ...] = ()
    if isinstance(planned.value, int):
        plan, label = f"{planned.value} on each node", counted(planned.value, "GPU")
        helps = [f"use {planned.value} on every host: write slots={planned.value}"]
        if planned.value <= min(hosts):
            helps[0] += f", or start with deepspeed --num_gpus {planned.value}"
    else:
        plan, label = in_a_sum(planned.value), counted_on_nodes(planned.value)
        helps = [f"write the slots of each host: {', '.join(map(str, planned.value))}"]
        if sorted(hosts) == sorted(planned.value):
            notes = ("the first host of a hostfile is the first node of the plan",)
    if planned.in_config:
        helps.append(f"or plan for these hosts: cluster.gpus_per_node: {list(hosts)}")
    return Finding(
        "CF468",
        f"{has}, but {end} {plan}",
        place=said.place,
        others=((planned.place, label),) if planned.place else (),
        notes=notes,
        helps=tuple(helps),
    )


def _same_everywhere(facts: Facts, planned: tuple[int, ...]) -> Iterator[Finding]:
    """Launchers that know one number for all nodes."""
    needs = f"the plan has {in_a_sum(planned)} GPUs on its nodes"
    config = quoted_path(facts.run.path)
    instead = (
        f"start it with a launcher that can, deepspeed or torchrun: crossfoot launch {config} --to torchrun"
    )
    machines = {said.value for said in statements(facts.launch, "num_nodes")} or {len(planned)}
    for said in statements(facts.launch, "world_size"):
        is_accelerates = said.witness == "settings" or said.name.startswith("--num")
        is_as_planned = said.value == sum(planned) and machines == {len(planned)}  # else CF452, CF454 say it
        if is_accelerates and not said.dry_run and is_as_planned:
            share, _ = divmod(said.number, len(planned))
            yield Finding(
                "CF468",
                f"accelerate starts the same number of ranks on every machine, but {needs}",
                place=said.place,
                notes=(f"it divides: {said.number} on {len(planned)} machines are {share} on each",),
                helps=(instead,),
            )
    for _, command in commands(facts):
        option = command.launcher.get("--launcher")
        if option is not None and (option.value or "").lower() in _EQUAL_SLOTS_ONLY:
            yield Finding(
                "CF468",
                f"{option.words} needs the same number of slots on every host, but {needs}",
                place=option.place,
                notes=("DeepSpeed stops there with a ValueError",),
                helps=("leave out --launcher: pdsh then starts what the hostfile says", f"or {instead}"),
            )


def _hosts(command: Command, file: LaunchFile) -> Sequence[Host]:
    if command.launcher.kind != "deepspeed":
        return ()
    named = named_by(command, "hostfile", file)
    return named.file.hosts if named and named.file else ()


@rule("CF469")
@told_once
def hostfile_line(facts: Facts) -> Iterator[Finding]:
    """CF469: a hostfile that DeepSpeed refuses.

    Each line is `NAME slots=N`, without blanks around `=`; `#` begins a comment line; a host stands in one
    line only. DeepSpeed stops with a ValueError that prints the whole file and no line number. Host names
    without slots, `node:8` and `slots: 8` belong to other launchers.
    """
    for file in with_named(facts.launch):
        for defect in file.defects:
            if defect.kind == "host_line":
                yield Finding(
                    "CF469",
                    "DeepSpeed stops at this line of the hostfile: it is not NAME slots=N",
                    place=defect.place,
                    helps=(f"write {defect.near or 'NAME slots=N, or remove the line'}",),
                )
            elif defect.kind == "host_twice":
                yield Finding(
                    "CF469",
                    f"{defect.words} stands in the hostfile twice, and DeepSpeed stops",
                    place=defect.place,
                    label="again here",
                    others=((defect.first, "first here"),) if defect.first else (),
                    helps=("keep one line, with all slots of that host",),
                )
            elif defect.kind == "no_hosts":
                yield Finding(
                    "CF469",
                    "the hostfile names no host, and DeepSpeed stops",
                    place=defect.place,
                    helps=("write a line NAME slots=N for each node",),
                )
        for host in file.hosts:
            if host.slots == 0:
                yield Finding(
                    "CF469",
                    f"{host.name} has no slots, so no rank is started there",
                    place=host.slots_place,
                    helps=("write its number of GPUs, or remove the line",),
                )


@rule("CF498", name="host-is-no-name")
def host_name(facts: Facts) -> Iterator[Finding]:
    """CF498: a host of a hostfile is not called as machines are called.

    The word goes to ssh, pdsh and the deepspeed launcher as it stands, and one that begins with `-` would be
    an option to them: `-oProxyCommand=...` runs a command. So a host is letters, digits, `.`, `-` and `_`,
    with no `-` in front, and perhaps a user before an `@`.
    """
    for file in with_named(facts.launch):
        for defect in file.defects:
            if defect.kind == "host_name":
                yield Finding(
                    "CF498",
                    f"{defect.words} is no name of a machine, and would be handed to ssh",
                    place=defect.place,
                    helps=("write the name or the IPv4 address of the machine",),
                )


@rule("CF470")
def choice_of_hosts(facts: Facts) -> Iterator[Finding]:
    """CF470: deepspeed's options do not fit together, or do not fit its hostfile.

    `--include` and `--exclude` exclude each other, and both exclude `--num_nodes` and `--num_gpus`; hosts and
    slots must stand in the hostfile. `--num_gpus N` sets N slots on every host, it does not cap: with more
    than a host has, ranks are started for GPUs that are not there. `--num_nodes` beyond the hosts takes all
    of them, without a word. (lie U9)
    """
    for file, command in commands(facts):
        layer = command.launcher
        if layer.kind != "deepspeed":
            continue
        hosts = _hosts(command, file)
        if layer.get("--hostfile") is not None and not hosts:
            continue
        taken = resources(layer, hosts)
        if taken.problem:
            yield _problem(layer, taken)
            continue
        gpus, nodes = layer.get("--num_gpus"), layer.get("--num_nodes")
        small = next((host for host in hosts if gpus and gpus.number and 0 < host.slots < gpus.number), None)
        if gpus is not None and small is not None:
            yield Finding(
                "CF470",
                f"{gpus.words} starts {gpus.number} ranks on {small.name}, "
                f"which has {counted(small.slots, 'slot')}",
                place=gpus.place,
                others=((small.slots_place, f"{small.name} has {small.slots}"),),
                notes=("--num_gpus sets the slots of every host; it does not cap them",),
                helps=(f"write --num_gpus {small.slots}", "or correct the slots in the hostfile"),
            )
        if nodes is not None and nodes.number and hosts and nodes.number > len(hosts):
            yield Finding(
                "CF470",
                f"{nodes.words} asks for {nodes.number} nodes, "
                f"and the hostfile has {counted(len(hosts), 'host')}",
                place=nodes.place,
                others=((hosts[-1].place, "the last one"),),
                notes=("DeepSpeed takes those that there are, without a word",),
                helps=("add the missing hosts to the hostfile", f"or write --num_nodes {len(hosts)}"),
            )


def _problem(layer: Layer, taken: Resources) -> Finding:
    place = taken.at.place if taken.at else layer.place
    return Finding(
        "CF470",
        f"deepspeed would not start: {taken.problem}",
        place=place,
        helps=(
            "choose hosts and GPUs in one way only: --include, or --num_nodes and --num_gpus"
            if "exclude each other" in taken.problem
            else "name hosts of the hostfile, and slots that they have, counted from 0",
        ),
    )


@rule("CF472", "error", "warning", name="directive-without-effect")
@told_once
def directive_without_effect(facts: Facts) -> Iterator[Finding]:
    """CF472: an #SBATCH line does nothing, or not what its author meant.

    sbatch reads directives up to the first line that is neither blank nor a comment and says nothing about
    later ones: the job runs with SLURM's defaults. A directive begins with `#SBATCH`, in capitals and in the
    first column: `# SBATCH`, `#sbatch` and a full-width `#` make a comment or a command of it (so does
    `##SBATCH`, by which people switch a line off: nothing is said about that). An error when the line states
    nodes, tasks or GPUs, a warning otherwise.

    `--signal` is the warning before the time limit, upon which crossfoot saves a checkpoint and stops. It
    goes to the job steps, which srun starts, and not to the batch shell; with `B:` to the shell alone, which
    hands nothing on unless it has a trap, and runs that only once the command in front of it is done. KILL
    and STOP cannot be heard.
    """
    for file in with_named(facts.launch):
        for defect in file.defects:
            severity: Severity = "error" if defect.near else "warning"
            if defect.kind == "late":
                yield Finding(
                    "CF472",
                    f"sbatch ignores {defect.words or 'this directive'}: a command stands above it",
                    severity=severity,
                    place=defect.place,
                    helps=("move the line up to the other #SBATCH lines, before the first command",),
                )
            elif defect.kind == "no_directive":
                yield Finding(
                    "CF472",
                    f"sbatch ignores this line: {defect.name}",
                    severity=severity,
                    place=defect.place,
                    helps=(f"begin it with #SBATCH in the first column: {defect.words}",),
                )
        yield from unheard_signal(file)


@rule("CF473")
@told_once
def unknown_option(facts: Facts) -> Iterator[Finding]:
    """CF473: a launcher's option that does not exist, and is very near to one that states a fact of the run.

    Every launcher stops at an option that it does not know, some of them only after the wait in the queue.
    deepspeed, torchrun and SLURM take a unique beginning of a name (`--num_gpu`); accelerate does not.
    accelerate also refuses keys of its file that it does not know, and takes the last of two.
    """
    for file in with_named(facts.launch):
        layers = [layer for command in training_commands(file) for layer in command.layers]
        for layer in [*([file.batch] if file.batch else []), *layers]:
            for option in layer.unknown:
                name = option.name.partition("=")[0]
                near = _GRAMMARS[layer.kind].nearest(name) if layer.kind in _GRAMMARS else None
                if near is not None:
                    yield Finding(
                        "CF473",
                        f"{layer.kind} has no option {name}, and stops",
                        place=option.at,
                        helps=(f"write {near}",),
                    )
        yield from _keys(file.defects)


def _keys(defects: Sequence[Defect]) -> Iterator[Finding]:
    for defect in defects:
        if defect.kind == "unknown_key":
            yield Finding(
                "CF473",
                f"accelerate has no key {defect.words}, and stops",
                place=defect.place,
                helps=(f"the nearest key is {defect.near}",) if defect.near else (f"remove {defect.words}",),
            )
        elif defect.kind == "key_twice":
            yield Finding(
                "CF473",
                f"{defect.words} is written twice, and accelerate takes the last",
                place=defect.place,
                label="again here",
                others=((defect.first, "first here"),) if defect.first else (),
                helps=("remove one of the two",),
            )


@rule("CF476")
@told_once
def sbatch_refuses(facts: Facts) -> Iterator[Finding]:
    """CF476: sbatch would not take the batch script.

    It wants `#!` in the first line, line ends without a carriage return, only options in directives, and
    numbers where numbers belong. Variables are not expanded in a directive: `#SBATCH --nodes=$N` is refused.
    """
    said = {
        "no_shebang": (
            "the script: the first line does not begin with #!",
            "begin the file with #!/bin/bash",
        ),
        "dos": ("the script: it has Windows line ends", "save it with Unix line ends (dos2unix)"),
        "invalid": ("{}: it is no option", "write it as an option, or behind # as a comment"),
        "value": ("{}: it is no number", "write a number: variables are not expanded in a directive"),
    }
    for file in with_named(facts.launch):
        for defect in file.defects:
            if defect.kind in said and (defect.kind != "dos" or file.kind == "sbatch"):
                what, help_ = said[defect.kind]
                title = f"sbatch refuses {what.format(defect.words)}"
                yield Finding("CF476", title, place=defect.place, helps=(help_,))
