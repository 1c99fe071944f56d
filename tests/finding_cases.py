"""Reads tests/findings/CFnnn.md: a bad input, the exact text that crossfoot says about it, and the repaired
input.

A case is a Markdown page of fenced blocks; the word after the language is the file's name. `config.yaml` is
the run config, `arguments` (optional) the words after it; the block `text` is what is expected; files below
the heading "Repaired" replace those above.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossfoot.arithmetic.batch import BatchImpossible, BatchPlan, Topology, solve_batch
from crossfoot.checks.impossible import impossible_finding
from crossfoot.checks.rules import Facts, check_static
from crossfoot.finding import Finding, Refused
from crossfoot.written.deepspeed_file import load_deepspeed_file
from crossfoot.written.run_file import load_run

FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class FindingCase:
    """One page. `bad` and `repaired`: file name to content; `expected`: the rendered text."""

    code: str
    bad: dict[str, str]
    repaired: dict[str, str]
    expected: str


def read_case(page: Path) -> FindingCase:
    """A case out of its Markdown page. `\\xNN` in a block named *.raw is a byte."""
    above, _, below = page.read_text(encoding="utf-8").partition("\n## Repaired\n")
    blocks = [(language, name, text) for language, name, text in FENCE.findall(above)]
    bad = {name: text for language, name, text in blocks if language != "text"}
    (expected,) = [text for language, _, text in blocks if language == "text"]
    repaired = {name: text for _, name, text in FENCE.findall(below)}
    return FindingCase(page.stem, bad, {**bad, **repaired}, expected.rstrip("\n"))


def write_files(folder: Path, files: dict[str, str]) -> list[str]:
    """Write the files of a case; returns the words after the config."""
    for name, text in files.items():
        if name.endswith(".raw"):
            raw = text.rstrip("\n").encode().decode("unicode_escape").encode("latin-1")
            (folder / name.removesuffix(".raw")).write_bytes(raw)
        elif name != "arguments":
            (folder / name).write_text(text, encoding="utf-8")
    return shlex.split(files.get("arguments", ""))


def find_all(config: str, arguments: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Everything that is wrong with a run config and the DeepSpeed file that it names."""
    findings: list[Finding] = []
    deepspeed = None
    batch: BatchPlan | None = None
    try:
        run = load_run(config, arguments)
    except Refused as refused:
        return refused.findings
    written = run.config
    topology = Topology(written.cluster.gpus_per_node or 1, written.cluster.num_nodes or 1)
    try:
        batch = solve_batch(topology, **written.batch.model_dump())
    except BatchImpossible as error:
        findings.append(impossible_finding(error, run))
    try:
        if written.deepspeed:
            deepspeed = load_deepspeed_file(written.deepspeed, run.place("deepspeed"))
    except Refused as refused:
        findings.extend(refused.findings)
    return (*findings, *check_static(Facts(run, deepspeed, batch)))
