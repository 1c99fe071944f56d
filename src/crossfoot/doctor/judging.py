"""What would fail on machines, judged from their facts. Errors: the run would not start, or not be right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from crossfoot.doctor import findings
from crossfoot.doctor.asking import Node
from crossfoot.doctor.comparing import differences
from crossfoot.doctor.judging_gpus import gpu_findings
from crossfoot.doctor.judging_network import network_findings
from crossfoot.doctor.naming import together
from crossfoot.doctor.needs import Needs, WantedPath
from crossfoot.doctor.starters import Starters
from crossfoot.findings.finding import Finding, Severity

LOWEST_PYTHON = (3, 10)
SMALL_SHM_BYTES = 512 << 20
"""DeepSpeed's own report (env_report.py) warns below it."""
FEW_OPEN_FILES = 1_024
LITTLE_LOCKED_BYTES = 64 << 20
LITTLE_DISK_BYTES = 5_000_000_000
_NEEDED = ("torch", "transformers", "peft", "accelerate", "safetensors")
_ORDER = {"error": 0, "warning": 1, "note": 2}


def judge(nodes: Sequence[Node], needs: Needs, starters: Starters, over_ssh: bool) -> tuple[Finding, ...]:
    """Every finding, errors first. over_ssh: the nodes are those of a hostfile."""
    seen = [node for node in nodes if node.facts]
    several = len(nodes) > 1 or (needs.num_nodes or 1) > 1
    found = [
        *needs.findings,
        *(
            findings.node_silent(where, why, next(n.name for n in nodes if n.problem == why))
            for where, why in together((n.name, n.problem or None) for n in nodes)
        ),
        *_starters(starters, over_ssh),
        *_libraries(seen, needs),
        *gpu_findings(seen, needs),
        *network_findings(seen, several, maybe_several=several or needs.num_nodes is None),
        *_paths(seen, needs),
        *_limits(seen),
        *differences(seen),
    ]
    return tuple(sorted(found, key=lambda finding: _ORDER[finding.severity]))


def _starters(starters: Starters, over_ssh: bool) -> Iterator[Finding]:
    slurm = starters.slurm
    if over_ssh and starters.pdsh is None:
        helps = ("install pdsh here", "or start one launcher on each node: crossfoot launch --no-ssh")
        yield findings.starter_unusable("deepspeed starts nodes through pdsh, which is not here", helps)
    if slurm is None:
        return
    if slurm.problem and (slurm.is_configured or slurm.job):
        ping = ("look whether slurmctld runs: scontrol ping",)
        title = f"SLURM does not answer: {slurm.problem}"
        yield findings.starter_unusable(title, ping, "error" if slurm.job else "warning")
    if slurm.partitions and all(state != "up" for _, state, _ in slurm.partitions):
        title = "no partition of SLURM is up: jobs would wait"
        yield findings.starter_unusable(title, ("ask those who run the cluster",), "warning")


def _libraries(nodes: Sequence[Node], needs: Needs) -> Iterator[Finding]:
    for where, (python, why, help_) in together((node.name, _python_problem(node)) for node in nodes):
        yield findings.library_unusable(f"python {python}", where, why, (help_,))
    wanted = (*_NEEDED, "deepspeed") if needs.uses_deepspeed else _NEEDED
    ranges = _tested_versions()
    for where, _ in together((node.name, None if node.facts["crossfoot"] else True) for node in nodes):
        yield findings.library_unusable("crossfoot", where, "cannot be found")
    for name in wanted:
        for where, why in together((node.name, _library_problem(node, name)) for node in nodes):
            yield findings.library_unusable(name, where, why)
        if name in ranges:
            answers = ((node.name, _outside(node, name, ranges[name])) for node in nodes)
            for where, version in together(answers):
                why = f"is not a version that crossfoot is written for ({ranges[name]})"
                yield findings.library_unusable(f"{name} {version}", where, why, severity="warning")


def _python_problem(node: Node) -> tuple[str, str, str] | None:
    told, asked = node.facts["python"], node.facts["asked"]["python"]
    if told["path"] != asked:
        return asked, "is not there", f"install it at the same path; {told['path']} was asked instead"
    if tuple(map(int, told["version"].split(".")[:2])) < LOWEST_PYTHON:
        lowest = ".".join(map(str, LOWEST_PYTHON))
        return told["version"], f"is older than {lowest}", f"install python {lowest} or newer"
    return None


def _library_problem(node: Node, name: str) -> str | None:
    if node.facts["versions"][name] is None:
        return "is not installed"
    said = node.facts.get(name, {}).get("problem")
    if not said or (name == "deepspeed" and node.facts["torch"].get("problem")):
        return None  # deepspeed needs torch: that is said of torch
    return f"cannot be imported ({said})"


def _outside(node: Node, name: str, tested: SpecifierSet) -> str | None:
    version = node.facts["versions"][name]
    return None if version is None or tested.contains(version, prereleases=True) else str(version)


def _tested_versions() -> dict[str, SpecifierSet]:
    """What crossfoot's own package asks for; nothing where crossfoot is not installed as a package."""
    try:
        return {one.name: one.specifier for one in map(Requirement, requires("crossfoot") or ())}
    except PackageNotFoundError:
        return {}


def _paths(nodes: Sequence[Node], needs: Needs) -> Iterator[Finding]:
    for where, folder in together((node.name, _lost_folder(node)) for node in nodes):
        helps = ("start from a folder that all nodes have, on shared storage",)
        yield findings.path_unusable(
            f"the folder {folder}, where this was started, is not there", where, None, helps
        )
    for wanted in needs.paths:
        for where, (title, help_, severity) in together((n.name, _path_problem(n, wanted)) for n in nodes):
            yield findings.path_unusable(title, where, wanted.place, (help_,), severity)


def _lost_folder(node: Node) -> str | None:
    asked = str(node.facts["asked"]["folder"])
    return None if node.facts["folder"] == asked else asked


def _path_problem(node: Node, wanted: WantedPath) -> tuple[str, str, Severity] | None:
    told, name = node.facts["paths"][wanted.path], f"{wanted.name} {wanted.path}"
    if wanted.use == "read" and not told["is_usable"]:
        state = "cannot be read" if told["is_there"] else "is not there"
        return f"{name} {state}", wanted.bringing, "error"
    if wanted.use == "write" and not told["is_usable"]:
        help_ = "set run.dir (data.index_dir for the index) to a folder that can be written"
        return f"{name} cannot be made: {told['nearest']} cannot be written", help_, "error"
    if wanted.use == "write" and told["free_bytes"] < LITTLE_DISK_BYTES:
        free = f"{told['free_bytes'] / 1e9:.1f} GB"
        return f"only {free} are free for {name}", "free space, or set run.dir to another disk", "warning"
    return None


def _limits(nodes: Sequence[Node]) -> Iterator[Finding]:
    for ask, help_ in (
        (_small_shm, "in a container: --shm-size=8g, or --ipc=host"),
        (_few_files, "raise it: ulimit -n 65536, or LimitNOFILE for sshd and slurmd"),
        (_little_locked, "raise it: ulimit -l unlimited, LimitMEMLOCK=infinity for sshd and slurmd"),
    ):
        for where, title in together((node.name, ask(node)) for node in nodes):
            yield findings.limit_low(title, where, (help_,))


def _small_shm(node: Node) -> str | None:
    size = node.facts["system"]["shm_bytes"]
    return None if size is None or size >= SMALL_SHM_BYTES else f"/dev/shm has only {size >> 20} MiB"


def _few_files(node: Node) -> str | None:
    limit = node.facts["system"]["open_files"]
    return None if limit is None or limit >= FEW_OPEN_FILES else f"only {limit:,} files may be open"


def _little_locked(node: Node) -> str | None:
    system = node.facts["system"]
    limit = system["locked_bytes"]
    if not system["has_infiniband"] or limit is None or limit >= LITTLE_LOCKED_BYTES:
        return None
    return f"InfiniBand is there, and only {limit >> 10:,} kiB of memory may be locked"
