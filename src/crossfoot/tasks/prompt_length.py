"""Prompts that are longer than the model's positions: what is said of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted
from crossfoot.tasks.items import Request
from crossfoot.tasks.questions import Asked

_SHOWN = 3
_WRITTEN = re.compile(r"(.*):(\d+)(?:, (.*))?")
"""A place as a text."""


def too_long(
    asked: Asked, positions: int | None, *, drops: bool = True, shots: str = "--shots"
) -> Iterator[Finding]:
    """CF879, where there is something to say. positions: of the model; None: not known. drops: worked
    examples are left out. shots: how their number is set.
    """
    if positions is not None and asked.over_long:
        yield prompts_too_long(asked.over_long, positions, drops=drops, shots=shots)
    elif positions is not None and asked.dropped:
        shortened = [(one.request, one.positions) for one in asked.dropped]
        dropped = sum(one.dropped for one in asked.dropped)
        yield prompts_too_long(shortened, positions, dropped, shots=shots)


@rule_docs("CF879", "error", "warning", name="prompt-beyond-positions")
def prompts_too_long(
    found: Sequence[tuple[Request, int]],
    positions: int,
    dropped: int = 0,
    *,
    drops: bool = True,
    shots: str = "--shots",
) -> Finding:
    """CF879: prompts are longer than the model's positions.

    Worked examples are left out one by one, the last first, until a prompt fits; how many items have lost
    some is said, and each line of the scores has its own number. `--too-long refuse` stops instead. A
    question that does not fit without any example is always refused: cut, it would be another question.
    """
    places = [(_place(request), counted(tokens, "token")) for request, tokens in found[:_SHOWN]]
    (place, label), *others = places
    more = len(found) - len(places)
    if dropped:
        title = f"{counted(len(found), 'prompt has', 'prompts have')} lost {counted(dropped, 'shot')}"
        helps: tuple[str, ...] = (f"write fewer {shots}, so that all items have as many",)
    else:
        are = "prompt is" if len(found) == 1 else "prompts are"
        title = f"{len(found):,} {are} too long"
        helps = ("leave --too-long out, so that shots are left out",) if not drops else ()
        helps = (*helps, f"write fewer {shots}, or take the items out")
    return Finding(
        "CF879",
        f"{title}: the model has {positions:,} positions",
        severity="warning" if dropped else "error",
        place=place,
        label=label,
        others=tuple(others),
        notes=(f"{more:,} more are not shown here",) if more > 0 else (),
        helps=helps,
    )


def _place(request: Request) -> Place:
    found = _WRITTEN.fullmatch(request.item.place)
    return Place(found[1], int(found[2]), part=found[3] or "") if found else Place(request.item.place)
