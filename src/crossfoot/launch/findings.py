"""What can be wrong with a start that `crossfoot launch` makes: one function, one code, and its docstring is
the manual page.
"""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.arithmetic.batch import Topology
from crossfoot.extras import install_command
from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.runs.resume_command import resume_command
from crossfoot.shell_words import quoted_path, unused_path
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.overriding import another_run_dir
from crossfoot.written.run_file import RunFile


@rule_docs("CF480")
def cluster_unknown(run: RunFile, missing: Sequence[str], target: str) -> Finding:
    """CF480: `crossfoot launch` does not know how many nodes, or GPUs on each, to start on.

    `train` can take them from the running world, and `plan` from a launch file. `launch` makes that file and
    that world, so the config must say: `cluster.num_nodes` and `cluster.gpus_per_node`. A hostfile says both
    in their place.
    """
    return Finding(
        "CF480",
        f"the config does not say {' and '.join(missing)}, so there is nothing to start on",
        place=run.place("cluster"),
        helps=(
            "write it into the config: cluster: {num_nodes: 2, gpus_per_node: 8}",
            f"or say it here: crossfoot launch {quoted_path(run.path)} --to {target} "
            + " ".join(f"{key}=1" if key.endswith("num_nodes") else f"{key}=8" for key in missing),
        ),
    )


@rule_docs("CF481")
def hostfile_needed(target: str) -> Finding:
    """CF481: the deepspeed launcher is to reach other machines, and no hostfile names them.

    DeepSpeed knows other machines from its hostfile only, `HOST slots=GPUS`, a line for each. Where it looks
    by itself (/job/hostfile) it is silent when there is none, and starts on this machine alone.
    """
    return Finding(
        "CF481",
        f"--to {target} needs a hostfile",
        place=Place(COMMAND_LINE),
        helps=(
            "give it: --hostfile FILE, with a line `HOST slots=N` for each node",
            "for this machine alone: --to local",
        ),
    )


@rule_docs("CF482")
def program_missing(program: str, target: str) -> Finding:
    """CF482: a program that the start needs is not on this machine.

    deepspeed, torchrun and accelerate come with crossfoot's own packages and lie beside its python; sbatch,
    srun, squeue and scontrol are SLURM's; pdsh and ssh are the system's. `--print` and `--write` need none of
    them: what is rendered can be started elsewhere.
    """
    where = {
        "sbatch": "start from a login node of the cluster",
        "srun": "start from a login node of the cluster",
        "squeue": "start from a login node of the cluster",
        "scontrol": "start from a login node of the cluster",
        "pdsh": "install pdsh, or start each node by itself: --no-ssh",
        "ssh": "install the ssh client, or start each node by itself: --no-ssh",
    }
    name = program.rpartition("/")[2]
    return Finding(
        "CF482",
        f"{program} is not here, and --to {target} starts with it",
        helps=(
            where.get(name, f"install what trains: {install_command('train')}"),
            "or render it here and start it there: --write PATH",
        ),
    )


@rule_docs("CF483")
def option_elsewhere(option: str, belongs: str) -> Finding:
    """CF483: an option of `crossfoot launch` does not belong to this way of starting.

    Each option speaks to one or a few targets: `--partition` to SLURM, `--hostfile` to launchers that are
    told of machines. One that would be ignored is refused, because it was meant to change something.
    """
    return Finding(
        "CF483",
        f"{option} means nothing here: it belongs to {belongs}",
        place=Place(COMMAND_LINE),
        helps=(f"leave out {option}", f"or start with {belongs}"),
        unreadable=True,
    )


@rule_docs("CF484")
def one_machine_only(run: RunFile, num_nodes: int) -> Finding:
    """CF484: `--to local` starts on this machine, and the plan has several nodes.

    The other targets reach other machines. To try the plan of a cluster on one machine there is the dry run,
    which folds all ranks into one process and trains the same first steps.
    """
    return Finding(
        "CF484",
        f"--to local starts on one machine, and the plan has {num_nodes} nodes",
        place=run.place("cluster", "num_nodes"),
        helps=(
            "start on all of them: --to slurm, or --to deepspeed --hostfile FILE",
            "or try its first steps here: "
            f"crossfoot launch {quoted_path(run.path)} --to accelerate --dry-run",
        ),
    )


@rule_docs("CF485", name="master-address-unknown")
def meeting_point_unknown(target: str, num_nodes: int) -> Finding:
    """CF485: launchers on several machines are to be started, and nothing says where they meet.

    Each machine starts its own launcher, and all of them go to one address: the first machine's name, the
    same on every machine. A hostfile names it too: its first host. SLURM knows it by itself.
    """
    return Finding(
        "CF485",
        f"--to {target} starts a launcher on each of {num_nodes} machines, and nothing says where they meet",
        place=Place(COMMAND_LINE),
        helps=(
            "name the first machine, the same on all of them: --address HOST",
            "or list them in order: --hostfile FILE",
        ),
    )


@rule_docs("CF486")
def node_unknown(host: str, hosts: Sequence[str]) -> Finding:
    """CF486: this machine is to start its share of the ranks, and nothing says which share.

    The first host of the hostfile is node 0, the next one node 1. A machine that does not find its own name
    there, or has no hostfile, must be told: two machines that both believe to be node 0 would wait for ever.
    """
    listed = ", ".join(hosts[:8]) + (", ..." if len(hosts) > 8 else "")
    return Finding(
        "CF486",
        f"this machine is {host}, and it is not known which node of the run it is",
        place=Place(COMMAND_LINE),
        notes=(f"the hostfile names {listed}",) if hosts else (),
        helps=(
            "say it: --node-rank 0 on the first machine, 1 on the second",
            "or write the name of each machine into the hostfile, as `hostname` prints it",
        ),
    )


@rule_docs("CF487")
def slurm_refuses(said: str, title: str, helps: Sequence[str]) -> Finding:
    """CF487: SLURM would not take this job: `sbatch --test-only` says no.

    Asked before anything is submitted, so nothing waits in a queue for something that cannot come: a
    partition or an account that does not exist, more nodes or GPUs than there are, a longer time than the
    partition allows. The numbers of nodes and GPUs are the config's; all else is said on the command line.
    """
    return Finding(
        "CF487",
        title,
        notes=(f"sbatch says: {said}",) if said else (),
        helps=tuple(helps),
    )


@rule_docs("CF488")
def job_still_queued(job_id: str, state: str, run_dir: str) -> Finding:
    """CF488: a job for this very run is still in the queue.

    It was submitted from here before and has not ended. A second one would find the run folder in use, after
    its wait in the queue, or would continue the run while the first one still trains.
    """
    return Finding(
        "CF488",
        f"job {job_id} for {run_dir} is still in the queue ({state})",
        helps=(
            f"let it run, and look at it: crossfoot watch {quoted_path(run_dir)}",
            f"or cancel it first: scancel {job_id}",
            f"or train into another folder: {another_run_dir(run_dir)}",
        ),
    )


@rule_docs("CF489", name="run-ended-unsaid")
def ended_unsaid(how: str, run_dir: str, seen: Sequence[str] = ()) -> Finding:
    """CF489: the run ended, and no rank has written how.

    Rank 0 writes ending.json and the receipt when it ends by itself. Without them it was killed, or the
    machine was. The launcher's own exit code is no witness: torchrun and accelerate make 1 of every code,
    and deepspeed says 0 when the part of it that starts the ranks was killed. So this ends with 1.
    """
    return Finding(
        "CF489",
        f"{how}, and the run has not written how it ended",
        notes=(*seen, f"what was booked until then: crossfoot receipt {quoted_path(run_dir)}"),
        helps=(f"go on from its last checkpoint: {resume_command(run_dir)}",),
    )


@rule_docs("CF491")
def not_a_dry_run(folder: str, foreign: Sequence[str] = ()) -> Finding:
    """CF491: the folder of the dry run holds something else.

    A dry run lives beside its run, in RUN_DIR-dryrun, and a new one takes the place of an old one. A folder
    of that name that no dry run has made, in which there is anything else, or a dry run that was continued,
    is left alone.
    """
    what = f"{', '.join(foreign[:3])}, which no dry run wrote" if foreign else "a run that is no dry run"
    return Finding(
        "CF491",
        f"{folder} holds {what}",
        place=Place(folder),
        helps=(f"move it aside: mv {quoted_path(folder)} {quoted_path(unused_path(folder))}",),
    )


@rule_docs("CF758", name="launch-file-taken")
def launch_file_taken(path: str) -> Finding:
    """CF758: the file that a launch would write is somebody else's.

    `crossfoot launch` writes its scripts into RUN_DIR/launch, or where --write says, and replaces those that
    it wrote before: they say so in their first lines. Any other file of that name is left alone, and so is
    what lies behind a link.
    """
    return Finding(
        "CF758",
        f"{path} is there, and crossfoot launch did not write it",
        place=Place(path),
        helps=(
            f"move it aside: mv {quoted_path(path)} {quoted_path(unused_path(path))}",
            "or write to another name: --write PATH",
        ),
    )


@rule_docs("CF492")
def job_ended(job_id: str, state: str, reason: str, log: str, began: bool) -> Finding:
    """CF492: a SLURM job ended, and the run has not written how.

    The job was cancelled, ran out of time or memory, lost a node, or its script failed before a rank could
    speak. What SLURM says of it stands here, and all that was printed is in the log.
    """
    return Finding(
        "CF492",
        f"job {job_id} ended ({state}), and the run has not {'written how it ended' if began else 'begun'}",
        notes=tuple(
            text for text in (f"SLURM's reason: {reason}" if reason else "", f"its log: {log}") if text
        ),
        helps=("look at the end of the log: it says what failed",),
    )


@rule_docs("CF493")
def slurm_silent(program: str, said: str) -> Finding:
    """CF493: SLURM's programs are here, and its controller does not answer.

    slurmctld is down, cannot be reached from here, or the authentication between the two (munge) does not
    work; or no slurm.conf tells this machine of a cluster. Nothing was submitted.
    """
    return Finding(
        "CF493",
        f"{program} gets no answer from SLURM",
        notes=(f"it says: {said}",) if said else (),
        helps=(
            "look whether the controller answers: scontrol ping; or start from a login node of the cluster",
            "or start without SLURM: --to deepspeed",
        ),
    )


@rule_docs("CF494")
def dry_run_failed(folder: str, exit_code: int) -> Finding:
    """CF494: the dry run did not come to its end, so it says nothing about the cluster's run.

    What stopped it stands above. The run itself would meet the same on every rank.
    """
    return Finding(
        "CF494",
        f"the dry run ended with exit code {exit_code}",
        notes=(f"what it left is in {folder}",),
        helps=("repair what stands above, and make it again",),
    )


@rule_docs("CF495", name="visible-devices-here")
def visible_devices(why: str) -> Finding:
    """CF495: CUDA_VISIBLE_DEVICES does not fit what is to be started here.

    The deepspeed launcher ignores the variable as soon as it is told a number of GPUs, and would take GPUs 0,
    1, ... So the GPUs that it shows are handed on as `--include localhost:2,3`, which takes numbers only, and
    one for each rank.
    """
    return Finding(
        "CF495",
        why,
        helps=(
            "list as many numbers as cluster.gpus_per_node says, or unset it",
            "or start with torchrun, which takes it as it is: --to torchrun",
        ),
    )


@rule_docs("CF496", name="launcher-needs-nodes-alike")
def nodes_not_alike(run: RunFile, topology: Topology, asked: str, why: str) -> Finding:
    """CF496: this launcher starts as many ranks on every node, and the nodes of the plan are not alike.

    accelerate is told processes and machines in all, and divides: 3 processes on 2 machines would be 1 on
    each. `--tasks node` has srun start one torchrun on every node, with the same words on all of them. The
    deepspeed launcher takes the slots of its hostfile, `--to torchrun` starts each node with its own number,
    and SLURM's tasks are ranks.
    """
    return Finding(
        "CF496",
        f"{asked} cannot start {topology.in_words()}",
        place=run.place("cluster", "gpus_per_node"),
        notes=(why,),
        helps=(
            "start with --to deepspeed --hostfile FILE, --to torchrun, or --to slurm with one task a rank",
            "or give every node the same number: cluster.gpus_per_node",
        ),
    )


@rule_docs("CF497", name="job-warned-at-once")
def warned_at_once(time: str, signal_seconds: int) -> Finding:
    """CF497: SLURM would warn the job before it has begun.

    `--signal-seconds` before the time limit SLURM sends SIGUSR1; the ranks then save, end with 75, and the
    job is queued again. With a limit that is no longer than that, every start would be stopped at once, and
    the job would be queued again and again without a step. SLURM looks twice a minute, so the warning may
    come up to a minute early.
    """
    return Finding(
        "CF497",
        f"--time {time} is no longer than the {signal_seconds} s before its end in which the run is to save",
        place=Place(COMMAND_LINE),
        helps=(
            "ask for more time: --time HH:MM:SS",
            "or for a later warning, if a checkpoint is written faster: --signal-seconds N",
        ),
    )
