"""The manual pages of the causes that a ledger line names (CF710 to CF739, CF777, CF780, CF787)."""

from __future__ import annotations

from textwrap import fill

from crossfoot.findings.rule_docs import table_docs
from crossfoot.ledger.cause_pages import CAUSE_PAGES
from crossfoot.ledger.entry import CAUSE_KINDS, Cause

_WIDTH = 108

_WHERE = """\
The line of the step in ledger.jsonl, and receipt.json, say the step, the rank, the forward and, where one
sample is concerned, its file and line in the data. A run with this cause does not foot: exit code 3."""

_WHERE_OF_RUN = "The receipt says it of the whole run. A run with this cause does not foot: exit code 3."


def _manual(kind: str) -> str:
    code, meaning = CAUSE_KINDS[kind]
    page = CAUSE_PAGES[kind]
    weights = f"The trained weights: {page.weights}."
    if page.weights_many:
        weights += f" From 1 % of the {page.counts}s on: {page.weights_many}."
    to_do = "\n".join(fill(f"- {text}", _WIDTH, subsequent_indent="  ") for text in page.helps)
    where = _WHERE_OF_RUN if page.counts == "run" else _WHERE
    return (
        f"{code}: {meaning}.\n\n{page.origin}\n\n{fill(weights, _WIDTH)}\n\nWhat to do:\n\n{to_do}\n\n{where}"
    )


for _kind, (_code, _) in CAUSE_KINDS.items():
    table_docs(_code, _kind, _manual(_kind), Cause)
