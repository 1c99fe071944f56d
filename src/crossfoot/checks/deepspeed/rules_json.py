"""CF313: what the DeepSpeed file has that JSON has not, and that only some readers allow."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.written import edits

MOST_PLACES = 3


@rule("CF313", "warning")
def not_strict_json(facts: Facts) -> Iterator[Finding]:
    """CF313: the DeepSpeed file has comments, or a comma before a closing bracket.

    JSON has neither. DeepSpeed's own reader (hjson) and crossfoot read over them; transformers and
    accelerate, which use Python's json, refuse the same file. `check --fix` removes the commas and leaves the
    comments, which only their author can move elsewhere. (lie J5)
    """
    deepspeed = facts.deepspeed
    if deepspeed is None:
        return
    tree = deepspeed.tree
    commas = tuple(edits.replacing(deepspeed.source, place, "") for place in tree.extra_commas)
    for places, what, repair, fix in (
        (tree.comments, "a comment", "remove the comment", ()),
        (tree.extra_commas, "a comma with nothing after it", "remove the comma", commas),
    ):
        if not places:
            continue
        first, *rest = places
        more = len(rest[MOST_PLACES:])
        yield Finding(
            "CF313",
            f"{what} stands here, which JSON does not have",
            severity="warning",
            place=first,
            others=tuple((place, "here too") for place in rest[:MOST_PLACES]),
            notes=(
                *((f"and in {more} more places",) if more else ()),
                "DeepSpeed's own reader and crossfoot allow it; transformers and accelerate refuse the file",
            ),
            helps=(repair if not rest else f"{repair}, everywhere",),
            fix=fix,
        )
