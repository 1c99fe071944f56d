"""The one table of codes: what each finding is called, how grave it is, since when there is one, and what
makes it. A decorator fills it (findings/rule_docs.py), so it holds those of the modules that are imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crossfoot.findings.finding import Severity

FAMILIES: Mapping[str, str] = {
    "CF0": "config and run folder",
    "CF1": "batch",
    "CF2": "learning rate and schedule",
    "CF3": "DeepSpeed file",
    "CF4": "launch and cluster",
    "CF5": "data and model",
    "CF6": "memory",
    "CF7": "run time",
    "CF8": "use of a trained model",
}
"""How a code begins -> what its family is about."""

FIRST_VERSION = "0.1"


@dataclass(frozen=True)
class Code:
    """A row. code: `CF` + family digit + two digits. name: kebab-case, as stable as the code. severities:
    every one that a finding of this code may have, the gravest first. since: the version that brought it.
    constructor: what makes its findings. text: its manual page, when that is not the constructor's docstring.
    error_is_opinion: with an error of it training would still be what was planned; it may be accepted.
    """

    code: str
    name: str
    severities: tuple[Severity, ...]
    since: str
    constructor: Callable[..., object]
    text: str = ""
    error_is_opinion: bool = False

    @property
    def acceptable(self) -> tuple[Severity, ...]:
        """The severities with which `checks.accept` may accept it; none of what is found on machines or in
        runs.
        """
        found_later = ("crossfoot.doctor.", "crossfoot.runs.")
        if self.family in ("CF7", "CF8") or self.constructor.__module__.startswith(found_later):
            return ()
        return tuple(one for one in self.severities if one != "error" or self.error_is_opinion)

    @property
    def family(self) -> str:
        """A key of FAMILIES."""
        return self.code[:3]

    @property
    def page(self) -> str:
        """The manual page, dedented: a line `CODE: what it is`, and more below."""
        return self.text or inspect.cleandoc(self.constructor.__doc__ or "")

    @property
    def origin(self) -> tuple[str, str, str]:
        """What two rows for one code would differ in."""
        return self.constructor.__module__, self.constructor.__qualname__, self.text


_rows: dict[str, Code] = {}
_codes_by_name: dict[str, str] = {}


def add_code(row: Code) -> None:
    """One more row. A code or a name that another row has: RuntimeError. So is a family that does not exist,
    or a row without a page.
    """
    known = _rows.get(row.code)
    if known is not None and known.origin != row.origin:
        raise RuntimeError(f"{row.code} has two manual pages: {known.origin[:2]} and {row.origin[:2]}")
    if row.family not in FAMILIES:
        raise RuntimeError(f"{row.code} is of no family")
    if not row.page:
        raise RuntimeError(f"{row.code} has no manual page: {row.constructor.__qualname__} needs a docstring")
    if _codes_by_name.setdefault(row.name, row.code) != row.code:
        raise RuntimeError(f"{row.code} and {_codes_by_name[row.name]} are both called {row.name}")
    _rows[row.code] = row


def find_code(word: str) -> Code | None:
    """The row of a code or of a name, however its case; None when no imported module has one."""
    word = word.strip()
    return _rows.get(word.upper()) or _rows.get(_codes_by_name.get(word.lower().replace("_", "-"), ""))


def all_codes() -> tuple[Code, ...]:
    """Every row, by code, among the modules that are imported."""
    return tuple(_rows[code] for code in sorted(_rows))
