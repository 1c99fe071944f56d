"""items.jsonl: a line for each item as it is scored, and one for each change of the budget.

Rank 0 writes items.jsonl, rank N items-rankN.jsonl, each behind a line that says of what the scores are made.
All of them together are the log, in whatever order and however they are split; it is read before any rank
writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from crossfoot.documents import Malformed, plain, read_file, value_of
from crossfoot.findings.finding import Finding, Refused
from crossfoot.line_file import LineFile, lines_of
from crossfoot.phrases import reason_of
from crossfoot.scores.findings import (
    item_line_torn,
    item_log_damaged,
    item_log_unwritable,
    other_evaluation,
    scored_twice,
)
from crossfoot.scores.item_score import Key, Scored, scored_of

FORMAT = 1
_NAME = re.compile(r"items(-rank[0-9]+)?\.jsonl")
_MOST_BYTES = 1 << 32
"""Of a log; a million items have a quarter of it."""


@dataclass(frozen=True)
class Origin:
    """Of what scores are made. weights: a mark that no two models share. options: all else that decides the
    scores. model, crossfoot: how they are called; both may change while an evaluation goes on.
    """

    weights: str
    scorer: str
    seed: int
    dtype: str
    device: str
    torch: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    crossfoot: str = ""
    format: int = FORMAT

    def differences(self, other: Origin, here: str = "there", there: str = "now") -> Iterator[str]:
        """In words, what decides the scores and is not the same in both. here, there: where that is."""
        before, after = self._decisive(), other._decisive()
        for name in dict.fromkeys((*before, *after)):
            one, two = before.get(name, "-"), after.get(name, "-")
            if one != two:
                yield f"{name.replace('_', ' ')}: {shown(one)} {here}, {shown(two)} {there}"

    def _decisive(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(self) | plain(self.options)
        told = ("options", "model", "crossfoot")
        return {name: value for name, value in values.items() if name not in told}


def shown(value: object) -> str:
    """As people read it: a digest by its first letters."""
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{40,}", text) else text


@dataclass(frozen=True)
class BudgetChange:
    """The tokens that a forward may have, from here on. why: in words: `out of memory`. free_bytes: on the
    device, None where that is not known. seconds: of computing that this rank had done by then, which the
    reader adds.
    """

    budget_tokens: int
    why: str
    free_bytes: int | None = None
    rank: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class LogRead:
    """A log. folder: where it is. origin: None of an empty one. written: the items, each once, by rank and in
    the order of time; budgets likewise. told: what was left out of it.
    """

    folder: str
    origin: Origin | None
    written: tuple[Scored, ...]
    budgets: tuple[BudgetChange, ...]
    told: tuple[Finding, ...]

    @cached_property
    def items(self) -> tuple[Scored, ...]:
        """In the order of their scores."""
        return tuple(sorted(self.written, key=lambda item: item.score.order))

    def done(self, origin: Origin, asked: Mapping[Key, str]) -> dict[Key, Scored]:
        """The items that need not be computed again. asked: all items -> the digest of their prompt. Raises
        Refused (CF865) for a log of another evaluation.
        """
        if self.origin is not None and (changed := list(self.origin.differences(origin))):
            raise Refused(other_evaluation(self.folder, changed))
        here = {item.score.key: item for item in self.items}
        foreign = [str(key) for key in here if key not in asked]
        if foreign:
            raise Refused(other_evaluation(self.folder, ["items that are not asked now"], foreign))
        otherwise = [str(key) for key, item in here.items() if asked[key] != item.score.prompt_sha256]
        if otherwise:
            raise Refused(other_evaluation(self.folder, ["the prompts"], otherwise))
        return here


def log_files(folder: Path) -> list[Path]:
    """Those of the log, by rank. Raises OSError."""
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: (len(path.name), path.name))


def read_log(folder: str | Path) -> LogRead:
    """All files of a log; a folder without one is an empty log. Raises Refused (CF865, CF867, CF869)."""
    folder = Path(folder)
    try:
        files = log_files(folder) if folder.exists() else []
    except OSError as error:
        raise Refused(item_log_damaged(str(folder), 0, reason_of(error))) from error
    reading = _Reading(str(folder))
    for path in files:
        reading.take(path)
    written, budgets, told = reading.items.values(), reading.budgets, reading.told
    return LogRead(str(folder), reading.origin, tuple(written), tuple(budgets), tuple(told))


class _Reading:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.origin: Origin | None = None
        self.items: dict[Key, Scored] = {}
        self.budgets: list[BudgetChange] = []
        self.told: list[Finding] = []

    def take(self, path: Path) -> None:
        """One file more."""
        try:
            lines = lines_of(read_file(path, _MOST_BYTES))
            if lines.first is None:
                return
            self._compare(_origin_of(lines.first))
        except OSError as error:
            raise Refused(item_log_damaged(str(path), 0, reason_of(error))) from error
        except Malformed as error:
            raise Refused(item_log_damaged(str(path), error.line or 1, str(error))) from error
        if lines.torn_bytes:
            self.told.append(item_line_torn(str(path), len(lines.rest) + 2))
        milliseconds = 0.0
        for number, line in enumerate(lines.rest, start=2):
            try:
                if "budget_tokens" in line:
                    change = value_of(BudgetChange, line | {"seconds": milliseconds / 1000})
                    self.budgets.append(change)
                else:
                    item = scored_of(line)
                    milliseconds += item.work.milliseconds
                    self._add(item)
            except Malformed as error:
                raise Refused(item_log_damaged(str(path), number, str(error))) from error

    def _compare(self, origin: Origin) -> None:
        if self.origin is None:
            self.origin = origin
        elif changed := list(self.origin.differences(origin)):
            raise Refused(other_evaluation(self.folder, changed))

    def _add(self, item: Scored) -> None:
        known = self.items.setdefault(item.score.key, item)
        if known is not item and repr(known.score) != repr(item.score):  # to the last bit, NaN too
            raise Refused(scored_twice(self.folder, str(item.score.key), known.work.place))


def _origin_of(first: Mapping[str, Any]) -> Origin:
    found = first.get("format")
    if found != FORMAT:
        raise Malformed(f"its format is {found}, and {FORMAT} is read here", 1)
    return value_of(Origin, first)


class ItemLog:
    """The file of one rank, open to be written."""

    def __init__(self, folder: str | Path, origin: Origin, rank: int = 0) -> None:
        """Raises Refused (CF865, CF867, CF868)."""
        self.path = str(Path(folder) / (f"items-rank{rank}.jsonl" if rank else "items.jsonl"))
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._file = LineFile(self.path, plain(origin))
        except OSError as error:
            raise Refused(_unwritable(self.path, error)) from error
        except Malformed as error:
            raise Refused(item_log_damaged(self.path, error.line, str(error))) from error
        try:
            changed = list(_origin_of(self._file.first).differences(origin))
        except Malformed as error:
            self._file.close()
            raise Refused(item_log_damaged(self.path, 1, str(error))) from error
        if changed:
            self._file.close()
            raise Refused(other_evaluation(str(folder), changed))

    def add(self, items: Sequence[Scored]) -> None:
        """Keep what one forward, or several, have given. Raises Refused (CF868)."""
        self._write(item.line() for item in items)

    def budget(self, change: BudgetChange) -> None:
        """Keep that the budget is another one from here on. Raises Refused (CF868)."""
        self._write([{name: value for name, value in plain(change).items() if name != "seconds"}])

    def _write(self, lines: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
        try:
            for line in lines:
                self._file.append(line)
        except OSError as error:
            raise Refused(_unwritable(self.path, error)) from error

    def close(self) -> None:
        """All that was added outlives a power cut. Raises Refused (CF868)."""
        try:
            self._file.sync()
        except OSError as error:
            raise Refused(_unwritable(self.path, error)) from error
        finally:
            self._file.close()

    def __enter__(self) -> ItemLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unwritable(path: str, error: OSError) -> Finding:
    if isinstance(error, BlockingIOError):
        return item_log_unwritable(
            path, "another evaluation is writing it", "wait for it, or name another folder for this one"
        )
    return item_log_unwritable(path, reason_of(error), "make room for it and start the same command again")
