"""The table of codes: what stands in a row, that a row is alone with its code and its name, that none lies
about its severities, and that none is there for nothing.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

import crossfoot
from crossfoot.checks.registry import RULES, explain, import_rule_docs
from crossfoot.data.findings import FINDINGS_BY_CODE
from crossfoot.findings.codes import FAMILIES, Code, add_code, all_codes, find_code
from crossfoot.findings.finding import Refused
from crossfoot.findings.rule_docs import rule_docs, table_docs
from crossfoot.ledger.entry import CAUSE_KINDS, Cause
from support.severities import SEVERITIES, SOURCE, written_severities

import_rule_docs()

DEMOTED = {
    "CF060": "a plan or a check, which start nothing",
    "CF763": "a run that may go on without that checkpoint",
    "CF776": "a run that saves and ends",
}
"""Made as errors, shown as warnings: code -> by what."""


def test_a_row_says_what_a_code_is() -> None:
    rows = all_codes()
    assert len({row.name for row in rows}) == len(rows) >= 260
    assert [row.code for row in rows] == sorted({row.code for row in rows})
    for row in rows:
        assert re.fullmatch(r"CF[0-8]\d\d", row.code) and row.family in FAMILIES
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.name), row
        assert row.severities and all(a < b for a, b in pairwise(map(SEVERITIES.index, row.severities))), row
        assert _numbers(row.since) <= _numbers(crossfoot.__version__)[:2], row
        assert row.page.startswith(f"{row.code}: "), row


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def test_every_row_declares_the_severities_that_are_made() -> None:
    causes = {code for code, _ in CAUSE_KINDS.values()}
    declared = {row.code: set(row.severities) for row in all_codes() if row.code not in causes}
    made = {
        code: found | ({"warning"} if code in DEMOTED else set())
        for code, found in written_severities().items()
    }
    assert made == declared


def test_the_first_line_of_a_page_is_a_whole_sentence() -> None:
    """It is the heading in docs/findings.md, and all that a list shows."""
    for row in all_codes():
        first, *rest = row.page.splitlines()
        assert first.endswith(".") and len(first) <= 108 and (not rest or not rest[0]), row.code


def test_a_finding_has_a_help_and_a_title_without_a_capital_but_of_a_name() -> None:
    for path in SOURCE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and getattr(call.func, "id", "") == "Finding"
                and len(call.args) > 1
            ):
                named = {keyword.arg: keyword.value for keyword in call.keywords}
                is_note = ast.unparse(named.get("severity", ast.Constant(""))) == "'note'"
                assert is_note or "helps" in named, f"{path.name}:{call.lineno}"
                title = call.args[1].values[0] if isinstance(call.args[1], ast.JoinedStr) else call.args[1]
                words = str(title.value) if isinstance(title, ast.Constant) else ""
                assert not re.match(r"[A-Z][a-z]+\b", words), f"{path.name}: {words}"


def test_no_row_is_there_for_nothing() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    quoted = Counter(word for text in texts.values() for word in re.findall(r'"(CF\d{3})"', text))
    used = Counter(name for text in texts.values() for name in _names_used(ast.parse(text)))
    tables = ("entry.py", "cause_pages.py")
    kinds_found = "\n".join(text for path, text in texts.items() if path.name not in tables)
    kinds = {code: kind for kind, (code, _) in CAUSE_KINDS.items()}
    for row in all_codes():
        name = row.constructor.__name__
        if row.code in kinds:
            assert f'"{kinds[row.code]}"' in kinds_found, f"nothing finds the cause {kinds[row.code]!r}"
        elif row.code in FINDINGS_BY_CODE:  # decorator, finding and table, and one more
            assert used[name] > 1 or quoted[row.code] > 3, f"nothing makes {row.code}"
        else:
            assert row.code in RULES or used[name], f"nothing calls {name} ({row.code})"


def _names_used(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr


def test_explain_takes_a_code_or_a_name() -> None:
    page = explain("CF101")
    assert page.startswith("CF101: `train_batch_size`")
    assert explain(" cf101 ") == explain("train-batch-size") == explain("Train_Batch_Size") == page
    assert explain("missing-sample").startswith("CF710: ")


@pytest.mark.parametrize(
    ("word", "near"), [("CF1011", "CF101"), ("train-batch-sise", "train-batch-size"), ("xyz", "--all")]
)
def test_explain_names_what_is_near(word: str, near: str) -> None:
    with pytest.raises(Refused) as caught:
        explain(word)
    (finding,) = caught.value.findings
    assert caught.value.exit_code == 2
    assert near in finding.helps[0]


def test_one_code_has_one_row() -> None:
    with pytest.raises(RuntimeError, match="CF101 has two manual pages"):

        @rule_docs("CF101")
        def other() -> None:
            """CF101: another."""

    with pytest.raises(RuntimeError, match="CF710 has two manual pages"):

        @rule_docs("CF710")
        def another() -> None:
            """CF710: another."""

    with pytest.raises(RuntimeError, match="CF101 has two manual pages"):
        table_docs("CF101", "another", "CF101: another.", Cause)


def test_one_name_has_one_code() -> None:
    with pytest.raises(RuntimeError, match="CF699 and CF002 are both called broken-yaml"):

        @rule_docs("CF699")
        def broken_yaml() -> None:
            """CF699: another."""

    assert find_code("CF699") is None


def test_a_row_needs_a_page_and_a_family() -> None:
    with pytest.raises(RuntimeError, match="CF698 has no manual page"):

        @rule_docs("CF698")
        def silent() -> None:
            pass

    with pytest.raises(RuntimeError, match="of no family"):
        add_code(Code("CF999", "foreign", ("error",), "0.1", Cause, "CF999: foreign."))
    assert find_code("silent") is find_code("foreign") is None
