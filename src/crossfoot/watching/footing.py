"""Whether a growing ledger foots so far, without adding up everything again with every line.

New lines are held against what the loop was told, as the receipt of a run of these lines alone would; beside
that only their order is kept. When every line stands that trial and the lines that count are the steps 0, 1,
2 and so on, what was trained is what was told. Whenever it is not as simple as that, the receipt itself is
asked; and it alone, at the end, holds the lines against the lock.

Why it is not the receipt at every look: over 100,000 steps of 8 ranks (148 MB) `read_run` takes 8 s of CPU
and the receipt 2 s more, in 570 MiB. Adding the lines up here takes 8.6 s once, in 20 MiB, spread over many
looks; a look then costs 1 ms, its new line included.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from crossfoot.ledger.entry import StepEntry
from crossfoot.receipts.receipt import make_receipt
from crossfoot.runs.attempts import Attempt, LiveLines
from crossfoot.runs.ending import Ending


class Footing:
    """Fed with all lines of a ledger, in file order; 17 bytes are kept of each."""

    def __init__(self) -> None:
        self._steps, self._of, self._skips = array("q"), array("q"), array("b")
        self._is_clean = True
        self._attempts: tuple[Attempt, ...] = ()
        self._looked = 0
        self._begin_again()

    def add(self, entries: Sequence[StepEntry], locks: Mapping[int, Mapping[str, Any]]) -> None:
        """Further lines. locks: by attempt, as far as they are known."""
        for attempt, lines in groupby(entries, key=lambda entry: entry.attempt):
            if self._is_clean:
                self._is_clean = _is_clean(list(lines), locks.get(attempt, {}))
        self._steps.extend(entry.step for entry in entries)
        self._of.extend(entry.attempt for entry in entries)
        self._skips.extend(entry.skipped is not None for entry in entries)

    def stand(self, attempts: tuple[Attempt, ...]) -> None:
        """Say which lines count, when these attempts have started."""
        if attempts != self._attempts:
            self._attempts = attempts
            self._begin_again()
        live_lines = LiveLines(attempts)
        limits = {attempt: live_lines.limit(attempt) for attempt in set(self._of[self._looked :])}
        begins = {attempt.attempt: attempt.first_step for attempt in attempts}
        new = (column[self._looked :] for column in (self._steps, self._of, self._skips))
        for step, attempt, is_skipped in zip(*new, strict=True):
            limit = limits[attempt]
            self.written[attempt] += 1
            if limit is not None and step >= limit:
                self.lost[attempt] += 1
                continue
            if step != self.counted or step < begins.get(attempt, 0):
                self._is_in_order = False
            self.counted += 1
            self.skipped += is_skipped
        self._looked = len(self._steps)

    def foots(self, asked_steps: int, ending: Ending | None) -> bool:
        """True: the receipt's `foots_so_far` is true, if the loop was told what the lock promises. False: it
        cannot be said from here.
        """
        done = 0 if ending is None else ending.step
        return self._is_clean and self._is_in_order and done <= self.counted <= asked_steps

    def _begin_again(self) -> None:
        self.written, self.lost = Counter[int](), Counter[int]()
        """Lines by attempt, and those of them that do not count."""
        self.counted = 0
        """Lines that count."""
        self.skipped = 0
        """Those of them whose update was left out on purpose."""
        self._is_in_order = True
        self._looked = 0


def _is_clean(entries: Sequence[StepEntry], lock: Mapping[str, Any]) -> bool:
    """Whether lines of one attempt, each by itself, are as planned: the receipt of a run that is made of them
    foots so far.
    """
    names = ("samples", "distinct_samples", "real_tokens", "trained_tokens", "forwards")
    expects = {"total_steps": len(entries), **dict.fromkeys(names, 0)}
    alone = {"name": "", "sha256": "", "expects": expects, "config": lock.get("config")}
    return make_receipt(alone, [replace(e, step=i, attempt=1) for i, e in enumerate(entries)]).foots_so_far
