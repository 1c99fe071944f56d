"""Trials, and the file that keeps them: one line each, from which a search that was stopped goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from types import TracebackType
from typing import Any

from crossfoot.arithmetic.means import Estimate, estimate
from crossfoot.documents import Malformed, plain, value_of
from crossfoot.findings.finding import Refused
from crossfoot.line_file import LineFile
from crossfoot.tuning.findings import other_tuning, trials_damaged

TRIALS = "trials.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class Trial:
    """One set of values, and what came of it. number: from 1. values: what was chosen. scores, answers: of
    each repeat and prompt (a timed goal: one score a repeat). tokens, seconds: of each repeat. is_final:
    measured once more at the end, beside the best others. failed: why there are none.
    """

    number: int
    values: Mapping[str, Any]
    scores: tuple[tuple[float, ...], ...] = ()
    answers: tuple[tuple[str, ...], ...] = ()
    tokens: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    is_final: bool = False
    failed: str = ""

    @cached_property
    def units(self) -> tuple[float, ...]:
        """What is independent: the prompts, each the mean of its repeats; of one prompt, or of a timed goal,
        the repeats.
        """
        if len(self.scores[0]) == 1:
            return tuple(repeat[0] for repeat in self.scores)
        return tuple(fmean(column) for column in zip(*self.scores, strict=True))

    @cached_property
    def score(self) -> Estimate:
        """The mean, and how sure it is."""
        return estimate(self.units)

    @property
    def tokens_per_second(self) -> float:
        """Of new tokens, over all prompts and repeats."""
        return sum(self.tokens) / max(sum(self.seconds), 1e-9)

    @property
    def tokens_per_answer(self) -> float:
        """The mean."""
        return sum(self.tokens) / sum(map(len, self.answers))

    @property
    def samples(self) -> bool:
        """Whether tokens were drawn."""
        return bool(self.values.get("do_sample", False))

    def beside(self, again: Trial) -> Trial:
        """With the repeats of another measurement of the same values behind these."""
        return replace(
            self,
            scores=(*self.scores, *again.scores),
            answers=(*self.answers, *again.answers),
            tokens=(*self.tokens, *again.tokens),
            seconds=(*self.seconds, *again.seconds),
        )


@dataclass
class TrialFile:
    """FOLDER/trials.jsonl, opened to go on with. The first line says of what the trials are."""

    folder: str
    made_of: Mapping[str, Any]
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take in what is there. Raises Refused: CF819, CF820; OSError."""
        os.makedirs(self.folder, exist_ok=True)
        self.path = os.path.join(self.folder, TRIALS)
        try:
            self._file = LineFile(self.path, {"format": FORMAT, **self.made_of})
        except BlockingIOError as error:
            raise Refused(other_tuning(self.folder, ["another command is at work in it"])) from error
        except Malformed as error:
            raise Refused(trials_damaged(self.path, error.line, str(error))) from error
        try:
            self._take()
        except BaseException:
            self._file.close()
            raise

    def _take(self) -> None:
        number = 1
        try:
            self._compare(self._file.first)
            for number, value in enumerate(self._file.before.rest, start=2):  # noqa: B007 - said where it breaks
                self.trials.append(value_of(Trial, value))
        except Malformed as error:
            raise Refused(trials_damaged(self.path, number, str(error))) from error

    def _compare(self, first: Mapping[str, Any]) -> None:
        if first.get("format") != FORMAT:
            raise Malformed(f"its format is {first.get('format')}, and {FORMAT} is read here")
        now = json.loads(json.dumps(dict(self.made_of)))
        # what the model's own file says was taken over when the search began: it may be the best set by now
        self.made_of = {**self.made_of, "own_values": first.get("own_values", {})}
        now["own_values"] = first.get("own_values", {})
        if changed := list(_changes(first, now)):
            raise Refused(other_tuning(self.folder, changed))

    def add(self, trial: Trial) -> None:
        """Keep one. Raises OSError."""
        self._file.append(plain(trial))
        self.trials.append(trial)

    def __enter__(self) -> TrialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """In words, what differs between two first lines."""
    for name in now:
        old, new = before.get(name), now[name]
        if old == new:
            continue
        if name == "config" and isinstance(old, dict):
            yield from (f"{key} is changed" for key in new if old.get(key) != new[key])
        elif name == "versions" and isinstance(old, dict):
            changed = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
            yield f"it was begun with other versions ({', '.join(changed)})"
        else:
            yield f"{name.replace('_', ' ')} {'are' if name in ('prompts', 'weights') else 'is'} not the same"
