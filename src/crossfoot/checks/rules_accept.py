"""CF036, CF037: what `checks.accept` names; CF039: what it names in vain."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from crossfoot.checks.registry import Facts, import_rule_docs, near_codes, rule
from crossfoot.findings.codes import Code, find_code
from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import listed
from crossfoot.written.accepting import accepted_codes
from crossfoot.written.known_keys import ACCEPT
from crossfoot.written.run_file import RunFile

_ONLY_OF_LAUNCH_FILES = "crossfoot.checks.launch."
_WHEN_RANKS_MEET = "crossfoot.rendezvous."


@rule("CF036")
def accepted_unknown(facts: Facts) -> Iterator[Finding]:
    """CF036: `checks.accept` names something that is no finding.

    Each is named by its code, such as CF514, or its name, such as samples-truncated. `crossfoot explain
    --all` begins with the table of both.
    """
    for word in _named(facts):
        if find_code(word) is None:
            near = near_codes(word)
            yield Finding(
                "CF036",
                f"checks.accept names {word}, and no finding has that code or name",
                place=facts.run.place_of_key(*ACCEPT, word),
                helps=(f"the nearest is {listed(near, 'or')}",)
                if near
                else ("crossfoot explain --all has all codes and names",),
            )


@rule("CF037")
def not_acceptable(facts: Facts) -> Iterator[Finding]:
    """CF037: `checks.accept` names a finding that nobody can accept.

    Warnings and notes can be accepted, and the few errors whose page says so. Any other error means that the
    start would fail, or that something else would train than was planned. What is found in a run (CF7), in
    its machines or beside its dry run is not about the config, and stays said.
    """
    for word in _named(facts):
        row = find_code(word)
        if row is not None and not row.acceptable:
            yield Finding(
                "CF037",
                f"{row.code} ({row.name}) cannot be accepted: {_why_not(row)}",
                place=facts.run.place_of_key(*ACCEPT, word),
                helps=(f"remove {word} from checks.accept",),
            )


def _named(facts: Facts) -> Iterator[str]:
    if facts.run.config.checks.accept:
        import_rule_docs()
        yield from facts.run.config.checks.accept


def _why_not(row: Code) -> str:
    if row.severities[-1] != "error":
        return "it is said of a run or of machines, not of what is checked"
    if row.family == "CF7":
        return "it is an error of a run, and its receipt says so"
    return "with it a run would not start, or would train something else than planned"


@rule_docs("CF039", "note")
def accepted_in_vain(run: RunFile, row: Code) -> Finding:
    """CF039: `checks.accept` accepts a finding that is not there.

    It was mended, or it was never there. Remove it, so that it is said when it comes again. Of data without
    an index only some records are looked at, so a finding that is near its limit may come and go.
    """
    acceptance = accepted_codes(run)[row.code]
    return Finding(
        "CF039",
        f"{row.code} ({row.name}) is accepted and was not found",
        severity="note",
        place=acceptance.place,
        helps=(f"remove {row.code} from checks.accept, so that it is said when it comes again",),
    )


def accepted_for_nothing(facts: Facts, found: Collection[Finding]) -> Iterator[Finding]:
    """CF039 for each code that nothing was found of. found: by a look at everything. What only launch files
    can have is passed over without one, and what is only seen when ranks meet.
    """
    codes = {finding.code for finding in found}
    for code in accepted_codes(facts.run):
        row = find_code(code)
        if row is None or code in codes or not row.acceptable:
            continue
        room = row.constructor.__module__
        if room.startswith(_WHEN_RANKS_MEET) or (room.startswith(_ONLY_OF_LAUNCH_FILES) and not facts.launch):
            continue
        yield accepted_in_vain(facts.run, row)
