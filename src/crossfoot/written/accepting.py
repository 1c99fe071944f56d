"""Findings that a run config accepts on purpose: `checks.accept`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from crossfoot.findings.codes import find_code
from crossfoot.findings.finding import Acceptance, Finding
from crossfoot.written.known_keys import ACCEPT
from crossfoot.written.run_file import RunFile
from crossfoot.written.section import Unsure


def accept_known(run: RunFile, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same findings, each that the config accepts marked so. One that is graver than may be accepted
    stands, with a note; so does everything when `checks.accept` itself is wrong.
    """
    accepted = accepted_codes(run)
    return tuple(_judged(finding, accepted.get(finding.code)) for finding in findings)


def accepted_codes(run: RunFile) -> dict[str, Acceptance]:
    """Code -> how it is accepted. Words that are no code or name of an imported module are passed over."""
    try:
        accept = run.config.checks.accept
    except Unsure:
        return {}
    rows = ((find_code(word), word, reason) for word, reason in accept.items())
    return {
        row.code: Acceptance(reason, run.place(*ACCEPT, word))
        for row, word, reason in rows
        if row is not None
    }


def _judged(finding: Finding, acceptance: Acceptance | None) -> Finding:
    row = find_code(finding.code)
    if acceptance is None or row is None:
        return finding
    if finding.severity in row.acceptable:
        return replace(finding, accepted=acceptance, fix=())
    note = f"accepted in {acceptance.place}, where it is a warning; this is an error, which nobody can accept"
    is_said = note in finding.notes or not row.acceptable  # then the acceptance itself is a finding (CF037)
    return finding if is_said else replace(finding, notes=(*finding.notes, note))
