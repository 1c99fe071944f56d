"""The loop: pieces are computed forward by forward, as many rows at a time as the budget lets, and each
question is handed on as soon as all its rows are there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from crossfoot.evaluation.budget import Budget
from crossfoot.evaluation.findings import one_row_too_large, rows_disturb_each_other
from crossfoot.evaluation.memory import Memory, if_it_fits
from crossfoot.evaluation.rows import Piece, Row, Shape, shape_of
from crossfoot.evaluation.scorer import Found, Letters, Prefix, Scorer, continuations, letter_scores
from crossfoot.findings.finding import Finding, Refused
from crossfoot.tasks.items import Request
from crossfoot.tasks.questions import Question

NOISE: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.03}
"""By how much the difference of two log-probabilities may be off for each token, where the rows of a forward
are not equal to the last bit: twice what a logit between 16 and 32 is rounded by; of float32, an assumption.
"""


@dataclass
class Result:
    """What came of one question. found: by choice. bucket: tokens of its longest row, padding in. rows: in
    the largest of its forwards, those of other items counted. token_slots: computed for it. missing: rows yet
    to come. text, tokens: of a generated answer.
    """

    number: int
    prefix_tokens: int
    missing: int = 0
    found: dict[int, Found] = field(default_factory=dict)
    bucket: int = 0
    rows: int = 0
    token_slots: int = 0
    milliseconds: float = 0.0
    peak_bytes: int = 0
    is_rescored: bool = False
    text: str = ""
    tokens: int = 0

    def add(self, own: dict[int, Found], shape: Shape, rows: int, milliseconds: float, peak: int) -> None:
        """What one of its rows gave, in a forward of so many."""
        self.found |= own
        self.bucket = max(self.bucket, shape.padded)
        self.rows = max(self.rows, rows)
        self.token_slots += shape.padded
        self.milliseconds += milliseconds
        self.peak_bytes = max(self.peak_bytes, peak)
        self.missing -= 1

    @property
    def totals(self) -> list[float]:
        """Of each choice."""
        return [self.found[choice].total for choice in sorted(self.found)]

    @property
    def margin_a_token(self) -> float:
        """By how much the best choice is before the second one, for each token of the longest."""
        if len(self.found) < 2:
            return float("inf")
        second, best = sorted(self.totals)[-2:]
        return (best - second) / max(1, *(len(one.values) for one in self.found.values()))


@dataclass
class Scoring:
    """One rank's part. letters: of a letter question. take: gets each result. warn: gets what is found on the
    way. least_rows: a forward has so many, padding among them, and no more. noise: results whose margin is
    below are computed again at the end, in float32 and alone; 0: none is.
    """

    scorer: Scorer
    questions: Sequence[Question]
    letters: Callable[[Request], Letters]
    budget: Budget
    memory: Memory
    take: Callable[[Result], None]
    warn: Callable[[Finding], None]
    least_rows: int = 1
    noise: float = 0.0
    is_alone: bool = False
    rescored: int = 0
    _checked: set[Shape] = field(default_factory=set)
    _close: set[int] = field(default_factory=set)

    def run(self, pieces: Sequence[Piece]) -> None:
        """Raises Refused (CF878) where a single row does not fit."""
        self._run(pieces)
        if self._close:
            self.rescored, self.noise = len(self._close), 0.0
            self.is_alone, self.least_rows = True, 1
            self.scorer.to_float32()
            close = frozenset(self._close)
            rows = [(one.prefix, tuple(row for row in one.rows if row.number in close)) for one in pieces]
            self._run([Piece(prefix, own) for prefix, own in rows if own])

    def _run(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            prefix = self._prefix(piece)
            results = {row.number: Result(row.number, prefix.tokens) for row in piece.rows}
            shapes: dict[Shape, deque[Row]] = {}
            for row in piece.rows:
                results[row.number].missing += 1
                shapes.setdefault(shape_of(row, prefix.tokens), deque()).append(row)
            for shape in sorted(shapes, reverse=True):  # the largest first: what does not fit shows at once
                while shapes[shape]:
                    self._step(prefix, shape, shapes[shape], results)

    def _step(self, prefix: Prefix, shape: Shape, rows: deque[Row], results: Mapping[int, Result]) -> None:
        """Take as many of the rows as fit."""
        row_tokens = prefix.tokens + shape.padded
        batch = list(islice(rows, self._most(row_tokens)))
        held = max(len(batch), self.least_rows) * row_tokens
        began = time.monotonic()
        self.memory.begin()
        done = self._computed(prefix, batch, shape)
        if done is None:
            self._shrink(held, row_tokens, batch[0])
            return
        logits, found = done
        peak, taken = self.memory.taken()
        if self._is_disturbed(prefix, batch, shape, logits):
            self.is_alone, self.least_rows = True, 1
            self.warn(rows_disturb_each_other(len(batch), shape.padded))
            return
        self.budget.succeeded(held, taken)
        milliseconds = (time.monotonic() - began) * 1000 / len(batch)
        for row, own in zip(batch, found, strict=True):
            rows.popleft()
            result = results[row.number]
            result.add(own, shape, len(batch), milliseconds, peak)
            if not result.missing:
                self._hand_on(result)

    def _most(self, row_tokens: int) -> int:
        """Rows of a forward."""
        if self.is_alone:
            return 1
        return self.least_rows if self.least_rows > 1 else self.budget.rows(row_tokens)

    def _shrink(self, held: int, row_tokens: int, row: Row) -> None:
        """A forward did not fit: the next one is smaller."""
        self.memory.give_back()
        if held == row_tokens:
            raise Refused(one_row_too_large(row_tokens, self._place(row)))
        self.budget.failed(held)
        self.least_rows, _ = divmod(self.least_rows + 1, 2)

    def _hand_on(self, result: Result) -> None:
        is_choice = self.questions[result.number].request.kind != "rolling"
        if is_choice and result.margin_a_token < self.noise:
            self._close.add(result.number)
            return
        result.is_rescored = result.number in self._close
        self.take(result)

    def _computed(
        self, prefix: Prefix, batch: Sequence[Row], shape: Shape
    ) -> tuple[torch.Tensor, list[dict[int, Found]]] | None:
        """The logits, and what they say of each row. None: memory does not hold them."""

        def compute() -> tuple[torch.Tensor, list[dict[int, Found]]]:
            logits = self.scorer.logits(prefix, batch, shape, self.least_rows)
            return logits, self._read(batch, logits, prefix.tokens + shape.padded - shape.kept)

        return if_it_fits(compute)

    def _prefix(self, piece: Piece) -> Prefix:
        found = if_it_fits(lambda: self.scorer.prefix(piece.prefix))
        if found is None:
            raise Refused(one_row_too_large(len(piece.prefix), self._place(piece.rows[0])))
        return found

    def _place(self, row: Row) -> str:
        return self.questions[row.number].request.item.place

    def _is_disturbed(self, prefix: Prefix, batch: Sequence[Row], shape: Shape, logits: torch.Tensor) -> bool:
        """Whether the last row gives something else, by a single bit, when it is computed alone. Looked at
        once for each shape.
        """
        if len(batch) == 1 or shape in self._checked:
            return False
        self._checked.add(shape)
        alone = self._computed(prefix, batch[-1:], shape)
        return alone is not None and not torch.equal(alone[0][0].nan_to_num(), logits[-1].nan_to_num())

    def _read(self, batch: Sequence[Row], logits: torch.Tensor, before: int) -> list[dict[int, Found]]:
        requests = [self.questions[row.number].request for row in batch]
        with torch.inference_mode():
            if requests[0].kind == "letter":
                return letter_scores(logits, batch, before, [self.letters(one) for one in requests])
            return continuations(logits, batch, before)
