"""Every page of this folder: the bad input gives exactly that text, and the repaired input gives nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.checks.reference import has_example
from crossfoot.checks.registry import RULES
from crossfoot.findings.codes import all_codes
from crossfoot.findings.render import render
from finding_cases import FindingCase, check_case, read_case, write_files

PAGES = sorted(Path(__file__).parent.glob("CF*.md"))
CASES = [read_case(page) for page in PAGES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_the_bad_input_gives_exactly_this_text(
    case: FindingCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    findings = check_case(write_files(tmp_path, case.bad))
    assert case.code in {finding.code for finding in findings}
    assert render(findings) == case.expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_the_repaired_input_gives_nothing(
    case: FindingCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    findings = check_case(write_files(tmp_path, case.repaired))
    assert render([finding for finding in findings if finding.accepted is None]) == "nothing found"


def test_every_rule_and_every_config_mistake_has_a_page_here() -> None:
    documented = {page.stem for page in PAGES}
    wanted = {row.code for row in all_codes() if has_example(row.code)}
    assert len(RULES) >= 10 and len(wanted) >= 23
    assert wanted == documented
