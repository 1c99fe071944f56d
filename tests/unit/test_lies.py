"""Every lie of the catalogue has an answer and a fixture, and docs/ says so."""

from __future__ import annotations

import pytest

from crossfoot.findings.codes import all_codes, find_code
from support.launching import ROOT
from support.lies import LIES, answers, lies_of_page, table


@pytest.mark.parametrize("lie", LIES)
def test_no_lie_is_without_an_answer(lie: str) -> None:
    assert [answer for answer in answers() if answer.lie == lie]


def test_every_lie_in_the_manual_has_a_fixture() -> None:
    answered = {(answer.lie, answer.code) for answer in answers()}
    claimed = {(lie, row.code) for row in all_codes() for lie in lies_of_page(row.code)}
    assert claimed - answered == set(), "a page claims a lie, and no test shows it"


def test_every_code_that_a_test_claims_exists() -> None:
    assert all(find_code(answer.code) for answer in answers() if answer.code)


def test_the_table_in_docs_is_current() -> None:
    assert (ROOT / "docs" / "lies.md").read_text(encoding="utf-8") == table(), "run make lies"
