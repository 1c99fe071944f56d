"""What can be wrong with a file of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.data.findings import Problem
from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs

SHOWN = 3
_FORMS = 'read are {"prompt": TEXT}, {"instruction": TEXT}, {"messages": [...]}, and what training reads'


@rule_docs("CF803")
def not_a_prompt(file: str, problems: Sequence[Problem]) -> Finding:
    """CF803: records of a file of prompts ask nothing that can be read.

    A line of a .txt file is a prompt. Records of .jsonl, .json, .csv, .tsv and .parquet are read as in
    training: instruction (and input), messages, conversations, prompt. Their last answer, if they have one,
    is left out and kept as the reference. The first such records are shown.
    """
    (place, reason), *others = [(one.place(file), one.reason) for one in problems[:SHOWN]]
    is_one = len(problems) == 1
    more = len(problems) - SHOWN
    return Finding(
        "CF803",
        "a record asks nothing" if is_one else f"{len(problems):,} records ask nothing",
        place=place,
        label=reason,
        others=tuple(others),
        notes=(f"{more:,} more are not shown here",) if more > 0 else (),
        helps=(f"write each as a prompt; {_FORMS}",),
        unreadable=True,
    )


@rule_docs("CF804")
def no_prompts(file: str, why: str, *helps: str) -> Finding:
    """CF804: the file of prompts cannot be used.

    It is not there, of a kind that is not read, or empty. A line of a .txt file is a prompt; .jsonl, .json,
    .csv, .tsv and .parquet are read as in training. It is looked at before a model is loaded or a server is
    asked.
    """
    return Finding("CF804", f"no prompts: {file} {why}", helps=helps, unreadable=True)
