"""The verb doctor: ask the machines, judge, show. Nothing is repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from crossfoot.doctor.asking import (
    Node,
    Question,
    ask_here,
    ask_in_allocation,
    ask_over_ssh,
    is_in_allocation,
)
from crossfoot.doctor.judging import judge
from crossfoot.doctor.needs import Needs, read_hosts, read_needs
from crossfoot.doctor.page import render_page
from crossfoot.doctor.starters import Starters, look_at_starters
from crossfoot.environment.slurm import first_host
from crossfoot.findings.finding import Finding
from crossfoot.findings.formats import as_json, show
from crossfoot.output import json_text, say
from crossfoot.written.launch.statement import Host


@dataclass(frozen=True)
class Examined:
    """What was seen. how: the machines were reached. findings: errors first."""

    how: str
    nodes: tuple[Node, ...]
    needs: Needs
    starters: Starters
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What would fail."""
        return tuple(finding for finding in self.findings if finding.counts_as == "error")


def examine(
    config: str | None,
    overrides: Sequence[str],
    hostfile: str | None,
    environ: Mapping[str, str],
    is_json: bool = False,
) -> int:
    """Print the page, or JSON. 0 when nothing would fail, 1 with errors. Raises Refused when a file cannot be
    read.
    """
    seen = look(config, overrides, hostfile, environ)
    if is_json:
        say(json_text(_document(seen)))
    else:
        say(render_page(seen.nodes, seen.needs, seen.starters, seen.how), end="\n\n")
        if seen.findings:
            show(seen.findings)
        else:
            say("nothing would fail")
    return int(bool(seen.errors))


def look(
    config: str | None, overrides: Sequence[str], hostfile: str | None, environ: Mapping[str, str]
) -> Examined:
    """Ask the machines that matter, all at once, and judge what they say. Raises Refused when a file cannot
    be read.
    """
    hosts = read_hosts(hostfile) if hostfile else ()
    return look_at(read_needs(config, overrides, hostfile, environ), hosts, environ)


def look_at(needs: Needs, hosts: Sequence[Host], environ: Mapping[str, str]) -> Examined:
    """The same for needs that are known; without hosts this machine, or the nodes of the job it is in."""
    is_in_job = not hosts and is_in_allocation(environ)
    point = environ.get("MASTER_ADDR")
    if hosts:
        point = hosts[0].name
    elif is_in_job:
        point = first_host(environ["SLURM_JOB_NODELIST"])
    question = Question(tuple((wanted.path, wanted.use) for wanted in needs.paths), point)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(look_at_starters, environ)
        how, nodes = _ask(question, hosts, is_in_job, environ)
        starters = asked.result()
    return Examined(how, nodes, needs, starters, judge(nodes, needs, starters, over_ssh=bool(hosts)))


def _ask(
    question: Question, hosts: Sequence[Host], is_in_job: bool, environ: Mapping[str, str]
) -> tuple[str, tuple[Node, ...]]:
    """The machines that matter here, and how they were reached."""
    if hosts:
        return "over ssh", ask_over_ssh(hosts, question, environ)
    if is_in_job:
        return f"in job {environ['SLURM_JOB_ID']}", ask_in_allocation(question, environ)
    return "", (ask_here(question),)


def _document(seen: Examined) -> dict[str, Any]:
    """The JSON document: what was asked for, what there is, and what would fail."""
    asked = {name: getattr(seen.needs, name) for name in ("config", "num_nodes", "gpus_per_node")}
    return {
        "would_fail": bool(seen.errors),
        "asked_for": asked,
        "starters": seen.starters.to_json(),
        "nodes": [asdict(node) for node in seen.nodes],
        "findings": [as_json(finding) for finding in seen.findings],
    }
