"""The verb check: everything that is wrong with a run, at once, from its files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crossfoot.findings.finding import Finding, Refused
from crossfoot.planning.prepare import existing_index, read_and_check, survey
from crossfoot.written.overriding import told_apart


def find_all(
    path: str, words: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[Finding, ...]:
    """All findings about a run, in file order. words: overrides and launch files. environ: of the job that
    this is in, if any. Raises only what is a defect of ours.
    """
    overrides, launch_files = told_apart(words)
    try:
        checked = read_and_check(path, overrides, launch_files=launch_files, environ=environ)
        return survey(checked, existing_index(checked), look=True).findings
    except Refused as refused:
        return refused.findings
