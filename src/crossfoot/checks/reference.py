"""The reference of all findings, the table of codes and their manual pages: `explain --all` prints it, docs/
holds it.
"""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.registry import RULES, import_rule_docs
from crossfoot.findings.codes import FAMILIES, Code, all_codes, find_code

EXAMPLES = "../tests/findings"
WRITTEN_BY_PEOPLE = (
    "crossfoot.written.findings",
    "crossfoot.written.batch_findings",
    "crossfoot.written.slip_findings",
    "crossfoot.written.key_findings",
    "crossfoot.written.deepspeed_file",
    "crossfoot.written.launch.findings",
    "crossfoot.data.source_findings",
    "crossfoot.checks.impossible",
)
"""Modules whose findings have an example too, beside every rule."""


def has_example(code: str) -> bool:
    """Whether the manual has an example of this finding: a bad input, what is said about it, the repair."""
    row = find_code(code)
    return code in RULES or (row is not None and row.constructor.__module__ in WRITTEN_BY_PEOPLE)


def reference() -> str:
    """The table and all pages as Markdown, by family; a newline at the end."""
    import_rule_docs()
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "# Findings"
    yield ""
    yield "Everything that crossfoot can say about a run, by code. Made by `crossfoot explain --all`;"
    yield "`crossfoot explain CODE` and `crossfoot explain NAME` print one page."
    yield ""
    yield "| code | name | severity | `checks.accept` takes | since |"
    yield "|---|---|---|---|---|"
    for row in all_codes():
        severity, accepted = " or ".join(row.severities), " or ".join(row.acceptable) or "-"
        yield f"| {row.code} | {row.name} | {severity} | {accepted} | {row.since} |"
    for family, title in FAMILIES.items():
        rows = [row for row in all_codes() if row.family == family]
        if not rows:
            continue
        yield ""
        yield f"## {family}: {title}"
        for row in rows:
            yield from _page(row)
    yield ""


def _page(row: Code) -> Iterator[str]:
    head, _, body = row.page.partition("\n")
    yield ""
    yield f"### {head.rstrip('.')}"
    if body.strip():
        yield ""
        yield body.strip("\n")
    if has_example(row.code):
        yield ""
        yield f"[Example]({EXAMPLES}/{row.code}.md)"
