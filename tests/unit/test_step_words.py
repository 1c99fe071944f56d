"""One module words the numbers of steps."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import crossfoot
from crossfoot import phrases

SOURCE = Path(crossfoot.__file__).parent
BEFORE_A_NUMBER = re.compile(r"(?<!-)(?<!\ba )\b(step|steps|epoch) $")


def test_steps_are_counted_from_one() -> None:
    assert phrases.step_name(0) == "step 1" and phrases.step_name(999) == "step 1,000"
    assert phrases.step_names([4]) == "step 5"
    assert phrases.step_names([4, 1, 4]) == "steps 2 and 5"
    assert phrases.step_names(range(15)) == "steps 1, 2, 3 and 12 more"
    assert phrases.step_span(1, 1) == "step 2" and phrases.step_span(1, 4) == "steps 2 to 5"
    assert phrases.step_of(4, 1000) == "step    5/1000" and phrases.step_of(4, None) == "step 5/?"
    assert phrases.after_steps(1) == "after 1 step" and phrases.after_steps(4) == "after 4 steps"


def test_no_other_module_puts_a_number_behind_the_word() -> None:
    """`step {n}` elsewhere is a number that nobody has counted from 1. An index is called one, and an epoch
    counts from 1 too.
    """
    found = []
    for path in SOURCE.rglob("*.py"):
        if path.name == "phrases.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for text, value in pairwise(parts):
                if isinstance(text, ast.Constant) and isinstance(value, ast.FormattedValue):
                    words, number = str(text.value), ast.unparse(value.value)
                    if BEFORE_A_NUMBER.search(words) and not number.endswith(("+ 1", ")")):
                        found.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {words!r} {number}")
    assert not found
