"""For the tests of the DeepSpeed rules: what they say about one file, and what a fix makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossfoot.arithmetic.batch import Topology, solve_batch
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.checks.rules import Facts, run_static_rules
from crossfoot.findings.finding import Finding
from crossfoot.planning.plan import run_rate
from crossfoot.written.deepspeed_file import load_deepspeed_file
from crossfoot.written.run_file import load_run

STEPS = 100
Look = Callable[..., tuple[Finding, ...]]
CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny}
data: {train: [a.json]}
batch: {micro_batch_size: 4, grad_accum_steps: 2}
cluster: {num_nodes: 1, gpus_per_node: 4}
lr: {reference: 1e-4}
train: {epochs: 1}
deepspeed: ds.json
"""


def deepspeed_findings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """A function of (a DeepSpeed file as text or values, overrides) that gives the findings CF1nn and CF3nn:
    4 GPUs, 100 steps.
    """
    monkeypatch.chdir(folder)
    Path("run.yaml").write_text(CONFIG)

    def look(deepspeed: str | dict[str, Any], *overrides: str) -> tuple[Finding, ...]:
        text = deepspeed if isinstance(deepspeed, str) else json.dumps(deepspeed, indent=2)
        Path("ds.json").write_text(text)
        run = load_run("run.yaml", overrides)
        batch = solve_batch(Topology(4, 1), **run.config.batch_numbers)
        size = batch.global_batch_size
        rate = run_rate(run, Schedule(STEPS * size, size, 0, "short", epochs=1))
        facts = Facts(run, load_deepspeed_file("ds.json"), batch, rate=rate)
        found = run_static_rules(facts)
        return tuple(finding for finding in found if finding.code.startswith(("CF1", "CF3")))

    return look


def fixed(finding: Finding) -> str:
    """The text of ds.json after the finding's own edits."""
    text = Path("ds.json").read_text()
    assert finding.fix, f"{finding.title} has no fix"
    for edit in sorted(finding.fix, key=lambda edit: -edit.start):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
