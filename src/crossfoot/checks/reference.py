"""The reference of all findings, made of their manual pages: `explain --all` prints it, docs/ holds it."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.registry import RULES, import_rule_docs
from crossfoot.findings.rule_docs import docs_function, docs_text, known_codes

FAMILIES = (
    ("CF0", "config and run folder"),
    ("CF1", "batch"),
    ("CF2", "learning rate and schedule"),
    ("CF3", "DeepSpeed file"),
    ("CF4", "launch and cluster"),
    ("CF5", "data and model"),
    ("CF6", "memory"),
    ("CF7", "run time"),
)
EXAMPLES = "../tests/findings"
WRITTEN_BY_PEOPLE = (
    "crossfoot.written.findings",
    "crossfoot.written.deepspeed_file",
    "crossfoot.written.launch.findings",
    "crossfoot.checks.impossible",
)
"""Modules whose findings have an example too, beside every rule."""


def has_example(code: str) -> bool:
    """Whether the manual has an example of this finding: a bad input, what is said about it, the repair."""
    module = getattr(docs_function(code), "__module__", None)
    return code in RULES or module in WRITTEN_BY_PEOPLE


def reference() -> str:
    """All pages as Markdown, by family; a newline at the end."""
    import_rule_docs()
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "# Findings"
    yield ""
    yield "Everything that crossfoot can say about a run, by code. Made by `crossfoot explain --all`;"
    yield "`crossfoot explain CODE` prints one page."
    for prefix, title in FAMILIES:
        codes = [code for code in known_codes() if code.startswith(prefix)]
        if not codes:
            continue
        yield ""
        yield f"## {prefix}: {title}"
        for code in codes:
            head, _, body = (docs_text(code) or "").partition("\n")
            yield ""
            yield f"### {head.rstrip('.')}"
            if body.strip():
                yield ""
                yield body.strip("\n")
            if has_example(code):
                yield ""
                yield f"[Example]({EXAMPLES}/{code}.md)"
    yield ""
