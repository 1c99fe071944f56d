"""Which severities a finding's code has: declared in the table, made while tests run, and written in src. And
that whatever is found while tests run says what to do.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import crossfoot
from crossfoot.findings.codes import find_code
from crossfoot.findings.finding import Finding

SOURCE = Path(crossfoot.__file__).parent
SEVERITIES = ("error", "warning", "note")

undeclared: list[str] = []
"""Findings that crossfoot made in this process with a severity that their code does not declare."""
helpless: list[str] = []
"""Findings that crossfoot made in this process without a help (a note needs none), or with a title that is a
sentence.
"""


def watch_findings() -> None:
    """Look at every finding that is made from now on, in any thread."""
    make = Finding.__init__

    def looked_at(finding: Finding, *arguments: object, **named: object) -> None:
        make(finding, *arguments, **named)
        row = find_code(finding.code)
        if row is not None and finding.severity not in row.severities and _is_ours():
            undeclared.append(f"{finding.code}: {finding.severity} ({finding.title})")
        lacks_help = not finding.helps and finding.severity != "note"
        if (lacks_help or re.search(r"(?<!\.)\.$|\?$", finding.title)) and _is_ours():
            helpless.append(f"{finding.code}: {finding.title}")

    Finding.__init__ = looked_at


def _is_ours() -> bool:
    """Whether crossfoot makes it, and not a test that needs any finding."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.endswith("dataclasses.py"):  # replace
        frame = frame.f_back
    return Path(frame.f_code.co_filename).is_relative_to(SOURCE)


def written_severities() -> Mapping[str, set[str]]:
    """Code -> the severities that its `Finding(...)` calls in src can have, as far as the text says. One that
    a function is handed may be any that the functions of the calling modules name.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))]
    found: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        if "Finding(" not in text:
            continue
        tree = ast.parse(text)
        for function in _functions(tree):
            for call in _calls(function, "Finding"):
                if call.args:  # else it is one that another rank made
                    made = _severities_of(call, function, texts)
                    for code in _codes_of(call, function, tree):
                        found[code] |= made
    return found


def _codes_of(call: ast.Call, function: ast.FunctionDef, tree: ast.Module) -> set[str]:
    if isinstance(call.args[0], ast.Constant):
        return {call.args[0].value}
    places = (function, *_calls(tree, function.name))  # chosen here, or by who calls
    words = {node.value for place in places for node in ast.walk(place) if isinstance(node, ast.Constant)}
    return {word for word in words if isinstance(word, str) and re.fullmatch(r"CF\d{3}", word)}


def _severities_of(call: ast.Call, function: ast.FunctionDef, texts: Sequence[str]) -> set[str]:
    asked = [keyword.value for keyword in call.keywords if keyword.arg == "severity"]
    if not asked:
        return {"error"}
    if not isinstance(asked[0], ast.Name):
        return set(_words(asked[0]))
    made = {word for node in ast.walk(function) if _assigns(node) for word in _words(node)}
    if "severity" in {argument.arg for argument in function.args.args}:
        made |= {word for default in function.args.defaults for word in _words(default)}
        for text in texts:
            if re.search(rf"(?<!def )\b{function.name}\(", text):
                callers = (each for each in _functions(ast.parse(text)) if each.name != function.name)
                made |= {word for each in callers for word in _words(each)}
    return made


def _assigns(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(
        isinstance(name, ast.Name) and name.id == "severity"
        for target in targets
        if target is not None
        for name in ast.walk(target)
    )


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name in (
            getattr(node.func, "id", None),
            getattr(node.func, "attr", None),
        ):
            yield node


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in SEVERITIES:
            yield node.value
