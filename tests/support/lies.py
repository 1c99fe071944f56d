"""The silent batch lies of today's frameworks, and crossfoot's answer to each: docs/lies.md is made of this.

A rule names the lies that it finds at the end of its page: (lies J1, J2). A test names those that it shows to
be impossible, or caught at run time, by `@pytest.mark.lie("B1", answer="impossible")` or `answer="CF430"`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from crossfoot.checks.reference import has_example
from crossfoot.checks.registry import import_rule_docs
from crossfoot.findings.codes import all_codes, find_code
from support.launching import ROOT

LIES = {
    "B1": "a data set without a length: an unfinished accumulation window leaks into the next epoch",
    "B2": "`split_batches`: the log says one batch, another is trained",
    "B3": "the last batch of an epoch is filled up with repeated samples, at full weight",
    "B4": "an out-of-memory search shrinks the micro batch; rate and accumulation stay",
    "B5": "the scheduler is stepped once per process: the rate ends too early",
    "B6": "continuing on half the ranks trains samples twice, and the rate jumps",
    "B7": "the loss is a mean of means over ranks or forwards",
    "B8": "the short last window is divided by the full accumulation",
    "B9": "windows straddle epochs, forwards at the end are never applied, the order repeats every epoch",
    "B10": "accumulation is set in the JSON and not in the loop, or the other way round",
    "B11": "a JSON without `gradient_clipping` clips at 1.0, whatever was asked",
    "B12": "an incomplete `optimizer.params` trains with DeepSpeed's defaults",
    "B13": "a `scheduler` block beats the chosen schedule",
    "B14/15": 'only some of the batch keys are "auto": the engine counts another accumulation',
    "B16": "updates skipped on overflow are counted as steps, and the rate moves on",
    "B17": "srun without rendezvous variables: every task trains the whole run alone",
    "J1": "unknown top-level keys of the JSON pass in silence",
    "J2": "misspelt keys inside blocks pass in silence too",
    "J3": 'wrong types pass: 2.5 forwards, "1.0", "auto" that nobody fills',
    "J4": "of a key that is written twice the last value is taken",
    "J5": "comments and trailing commas: one reader takes the file, another refuses it",
    "J6": '`gradient_allreduce_op: "sum"` multiplies the update by the number of ranks',
    "J7": "optimizer, ZeRO stage or offload in the JSON contradict the run",
    "U1": "`use_cpu` drops DeepSpeed without a word: plain DDP runs",
    "U2": "no accelerator on the node: one library believes in 1 process, the other in 2",
    "U3": "a DataParallel over the visible GPUs multiplies the micro batch",
    "U4": "packing: nobody can say how many samples a step holds",
    "U5": "sequence or tensor parallelism: the batch follows dp_degree, the JSON is held against world_size",
    "U6": "a batch that does not divide is rounded down",
    "U7": "`warmup_steps` below 1 means a ratio, and `warmup_ratio` is gone",
    "U8": "`--cpu --num_machines 2` runs one process per machine, without ranks",
    "U9": "a hostfile with unequal slots: ranks of the second node get each other's device",
    "U10": "float16 with trained embeddings and without DeepSpeed fails at the first step",
    "U11": "long samples are cut, and nobody counts the targets that are lost",
}
KINDS = ("impossible", "check", "run")
_IDS = re.compile(r"\(lies? ([^)]+)\)")


@dataclass(frozen=True)
class Answer:
    """kind: `impossible`, `check` (before launch) or `run` (at start-up or in the ledger)."""

    lie: str
    kind: str
    code: str
    fixture: str


def lies_of_page(code: str) -> list[str]:
    """The ids that a page of the manual names."""
    row = find_code(code)
    found = _IDS.findall(" ".join(row.page.split())) if row is not None else []
    return [_row_of(word.strip()) for group in found for word in group.split(",")]


@cache
def answers() -> tuple[Answer, ...]:
    """Every answer there is, sorted. KeyError for an id that does not exist."""
    import_rule_docs()
    found = [
        Answer(lie, "check", row.code, f"tests/findings/{row.code}.md")
        for row in all_codes()
        if has_example(row.code)
        for lie in lies_of_page(row.code)
    ]
    found += list(_marked())
    for answer in found:
        LIES[answer.lie]
    return tuple(sorted(set(found), key=lambda a: (KINDS.index(a.kind), a.code, a.fixture)))


def table() -> str:
    """docs/lies.md."""
    cells: dict[str, dict[str, list[str]]] = {lie: {kind: [] for kind in KINDS} for lie in LIES}
    for answer in answers():
        name = _link(answer.fixture)
        cells[answer.lie][answer.kind].append(f"{answer.code} {name}" if answer.kind == "run" else name)
    lines = [
        "# The lies about a batch, and the answers",
        "",
        "Each is a way in which the batch, the rate or the number of steps that a user believes in is not",
        "what trains. `make lies` runs every fixture below and writes this table when all of them pass.",
        "",
        "| lie | what happens elsewhere | impossible, shown by | found by `check` | caught at run time |",
        "|---|---|---|---|---|",
    ]
    for lie, what in LIES.items():
        row = " | ".join("<br>".join(shown) for shown in cells[lie].values())
        lines.append(f"| {lie} | {what} | {row} |")
    return "\n".join([*lines, ""])


def _link(fixture: str) -> str:
    file, _, test = fixture.partition("::")
    words = test.removeprefix("test_").replace("_", " ")
    return f"[{words or file.rsplit('/', 1)[-1].removesuffix('.md')}](../{file})"


def _row_of(lie: str) -> str:
    return "B14/15" if lie in ("B14", "B15") else lie


def _marked() -> Iterator[Answer]:
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.lie":
                    told = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
                    code = "" if told["answer"] == "impossible" else told["answer"]
                    fixture = f"{file.relative_to(ROOT)}::{node.name}"
                    for lie in mark.args:
                        row = _row_of(ast.literal_eval(lie))
                        yield Answer(row, "run" if code else "impossible", code, fixture)
