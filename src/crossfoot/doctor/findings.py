"""What doctor can find wrong with machines: one function, one code, and its docstring is the manual page."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.extras import install_command
from crossfoot.findings.finding import Finding, Place, Severity
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted
from crossfoot.shell_words import quoted

_INSTALL = f"{install_command('train')}, into the python of the run"


@rule_docs("CF400")
def node_silent(where: str, why: str, host: str) -> Finding:
    """CF400: a node could not be looked at.

    The nodes of a hostfile are reached as the deepspeed launcher reaches them: by ssh, with a key, without a
    question. What stops doctor there would stop the launcher too. The nodes of a SLURM job are reached by
    srun.
    """
    host = quoted(host)
    low = why.lower()
    helps: tuple[str, ...] = (f"try it by hand: ssh -o BatchMode=yes {host} true",)
    if "permission denied" in low:
        helps = (f"give that node your public key: ssh-copy-id {host}",)
    elif "host key" in low:
        helps = (f"log in once by hand, to know its host key: ssh {host}",)
    elif "resolve" in low or "not known" in low:
        helps = ("write the name as DNS or /etc/hosts knows it, or the address, into the hostfile",)
    elif "refused" in low:
        helps = ("start sshd there, or say its port in ~/.ssh/config",)
    elif "timed out" in low or "no route" in low:
        helps = (f"look whether {where} is up, and at the network and firewall in between",)
    elif "python3" in low or "exec:" in low:
        helps = ("install python3 there, at the same path as here",)
    elif low.startswith("srun"):
        helps = ("look at the job's nodes: scontrol show node NODE, and sinfo -R",)
    return Finding("CF400", f"{where} cannot be looked at: {why.rstrip('.')}", helps=helps)


@rule_docs("CF401", "error", "warning")
def library_unusable(
    name: str, where: str, why: str, helps: Sequence[str] = (_INSTALL,), severity: Severity = "error"
) -> Finding:
    """CF401: python, or a library that a run needs, is missing, broken or of another version.

    torch and deepspeed are really imported, in a process of their own: a wheel for another CUDA, a missing
    shared library or a broken mount shows there and nowhere else. A version outside the tested range is a
    warning.
    """
    return Finding("CF401", f"{name} {why} on {where}", severity=severity, helps=tuple(helps))


@rule_docs("CF402", "error", "warning")
def nodes_differ(what: str, notes: Sequence[str], severity: Severity, help_: str = "") -> Finding:
    """CF402: the nodes are not alike.

    torch, deepspeed, transformers, peft and crossfoot's own source files must be the same everywhere; the run
    would refuse others when its ranks meet (CF427, CF428). Other libraries, python, the GPUs and their driver
    should be: a warning. So should the clocks: files on shared storage get their times from them, and SLURM's
    authentication stops working at five minutes.
    """
    helps = (help_ or "install from one constraints.txt on every node, or use one shared environment",)
    return Finding(
        "CF402", f"the nodes have different {what}", severity=severity, notes=tuple(notes), helps=helps
    )


@rule_docs("CF403", "error", "warning")
def gpus_short(
    where: str,
    asked: int,
    there: int,
    origin: str,
    note: str = "",
    severity: Severity = "error",
    is_alike: bool = True,
) -> Finding:
    """CF403: a node has fewer GPUs than the run wants ranks on it.

    One rank drives one GPU. What counts is what torch sees there: CUDA_VISIBLE_DEVICES and a job's own share
    hide the others. Where no node has a GPU the ranks would compute on the CPUs: right, but for small runs
    only, so that is a warning (an error for float16 under DeepSpeed, which refuses it on most CPUs).
    `DS_ACCELERATOR=cpu` says that it is on purpose.
    """
    has = f"only {counted(there, 'GPU')}" if there else "no GPU"
    helps = ["to train on CPUs say so: export DS_ACCELERATOR=cpu"]
    if severity == "error":
        helps = (
            [f"set cluster.gpus_per_node to {there}, or use other nodes"]
            if there
            else ["use nodes with GPUs"]
        )
    if note:
        helps.insert(0, "unset CUDA_VISIBLE_DEVICES")
    return Finding(
        "CF403",
        f"{has} on {where}, and the run asks for {asked} {'on each node' if is_alike else 'there'}",
        severity=severity,
        notes=tuple(filter(None, (f"asked for by {origin}" if origin else "", note))),
        helps=tuple(helps),
    )


@rule_docs("CF404")
def gpus_unusable(where: str, there: str, why: str, helps: Sequence[str]) -> Finding:
    """CF404: there are GPUs, and torch cannot use them.

    A torch without CUDA was installed, the driver is older than the CUDA that torch was built with, driver
    and kernel module differ after an update, or torch has no kernels for a GPU as old or as new as this one.
    Ranks would quietly compute on the CPU, or fail in the first forward.
    """
    return Finding("CF404", f"torch cannot use {there} on {where}: {why}", helps=tuple(helps))


@rule_docs("CF405", "error", "warning")
def own_name_wrong(where: str, meaning: str, severity: Severity) -> Finding:
    """CF405: a machine's own name means its loopback address, or nothing.

    gloo, which carries crossfoot's counts between ranks, listens at the address that the own host name
    resolves to, and tells it to the other nodes. At 127.0.0.1 or 127.0.1.1 they find only themselves. Debian
    and Ubuntu write such a line into /etc/hosts when they are installed. Ranks of one machine do not mind, so
    without several nodes in sight it is a warning.
    """
    return Finding(
        "CF405",
        f"the own host name of {where} {meaning}",
        severity=severity,
        notes=("gloo would listen there, and ranks on other nodes cannot reach that",),
        helps=(
            "write its address in the cluster's network beside that name in /etc/hosts there",
            "or name the interface where the run is started: export GLOO_SOCKET_IFNAME=eth0",
        ),
    )


@rule_docs("CF406", "error", "warning")
def network_trap(
    title: str, helps: Sequence[str], notes: Sequence[str] = (), severity: Severity = "error"
) -> Finding:
    """CF406: ranks would talk over a network interface that does not reach the others.

    NCCL takes an interface whose name begins with `ib`, else the first that is neither docker's, nor
    libvirt's, nor the loopback; a bridge of containers under another name (br-..., cni0) is taken like any
    other. gloo takes the one of the own host name. NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name another; a
    name that a node does not have stops it.
    """
    return Finding("CF406", title, severity=severity, notes=tuple(notes), helps=tuple(helps))


@rule_docs("CF407", "error", "warning")
def starter_unusable(title: str, helps: Sequence[str], severity: Severity = "error") -> Finding:
    """CF407: a program that starts runs is missing here, or does not work.

    The deepspeed launcher reaches the nodes of a hostfile through pdsh and ssh. SLURM's commands need its
    controller.
    """
    return Finding("CF407", title, severity=severity, helps=tuple(helps))


@rule_docs("CF408", "error", "warning")
def path_unusable(
    title: str, where: str, place: Place | None, helps: Sequence[str], severity: Severity = "error"
) -> Finding:
    """CF408: a file or folder of the run cannot be used on a node, or its disk is nearly full.

    Every node reads the model, the data and the DeepSpeed file, and works in the folder where the run is
    started. The run folder must be on storage that all nodes share; that it is the same folder everywhere
    is proved when the run starts.
    """
    return Finding("CF408", f"{title} on {where}", severity=severity, place=place, helps=tuple(helps))


@rule_docs("CF409", "warning")
def limit_low(title: str, where: str, helps: Sequence[str]) -> Finding:
    """CF409: a limit of the system is so low that a run may fail on it.

    NCCL and torch's loaders of data exchange through /dev/shm: containers often give it 64 MB. Every rank
    keeps files and connections open to all the others. InfiniBand pins memory, and needs a limit of locked
    memory that allows it.
    """
    return Finding("CF409", f"{title} on {where}", severity="warning", helps=tuple(helps))
