"""The loop of texts: answers are generated for 16, 32 ... rows at a time, so that none depends on the others.

A prompt is padded on the left, by its own length, and by one place at least: without any padding transformers
computes attention another way. All prompts of a batch are padded alike, and copies of the last one fill it up
to a multiple of 16 rows, because each step multiplies matrices of as many rows as the batch has.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from transformers import GenerationConfig

from crossfoot.evaluation.budget import Budget
from crossfoot.evaluation.decoding import Until, Watch, draw_key, processors
from crossfoot.evaluation.findings import one_row_too_large, rows_disturb_each_other
from crossfoot.evaluation.memory import Memory, if_it_fits
from crossfoot.evaluation.rows import STEP, Piece, Row, rounded_up
from crossfoot.evaluation.scorer import Scorer
from crossfoot.evaluation.scoring import Result
from crossfoot.findings.finding import Finding, Refused
from crossfoot.tasks.items import Decoding
from crossfoot.tasks.questions import Question

_LOOKED_AT = 4
"""Steps that are held against those of a row alone."""


@dataclass(frozen=True)
class Form:
    """Prompts that can be one batch. padded: tokens of each."""

    padded: int
    decoding: Decoding

    @property
    def row_tokens(self) -> int:
        """That one row holds at its end."""
        return self.padded + self.decoding.max_new_tokens


@dataclass(frozen=True)
class Batch:
    """What was generated. ids: of each row, padding behind them. seen: of the last row, what its tokens were
    chosen by, step by step.
    """

    ids: list[list[int]]
    seen: list[bytes]


@dataclass
class Answering:
    """One rank's part. take: gets each result. warn: gets what is found on the way. is_fixed: every batch has
    16 rows, and no more. seed: of what is drawn.
    """

    scorer: Scorer
    questions: Sequence[Question]
    budget: Budget
    memory: Memory
    take: Callable[[Result], None]
    warn: Callable[[Finding], None]
    is_fixed: bool = False
    seed: int = 0
    is_alone: bool = False
    _checked: set[Form] = field(default_factory=set)

    def run(self, pieces: Sequence[Piece]) -> None:
        """Raises Refused (CF878) where 16 rows do not fit."""
        forms: dict[Form, deque[Row]] = {}
        for piece in pieces:
            for row in piece.rows:
                forms.setdefault(self._form(row), deque()).append(row)
        for form in sorted(forms, key=lambda one: -one.row_tokens):  # what does not fit shows at once
            while forms[form]:
                self._step(form, forms[form])

    def _form(self, row: Row) -> Form:
        decoding = self.questions[row.number].request.decoding
        if decoding is None:
            raise ValueError("nothing says how a text is generated")
        return Form(rounded_up(len(row.ids) + 1), decoding)

    def _step(self, form: Form, rows: deque[Row]) -> None:
        """Take as many of the rows as fit."""
        batch = list(islice(rows, self._most(form)))
        held = rounded_up(len(batch)) * form.row_tokens
        began = time.monotonic()
        self.memory.begin()
        done = self._generated(form, batch)
        if done is None:
            self.memory.give_back()
            if held == STEP * form.row_tokens:
                raise Refused(one_row_too_large(form.row_tokens, self._place(batch[0]), STEP))
            self.budget.failed(held)
            return
        peak, taken = self.memory.taken()
        if self._is_disturbed(form, batch, done):
            self.is_alone = True
            self.warn(rows_disturb_each_other(len(batch), form.padded))
            return
        self.budget.succeeded(held, taken)
        milliseconds = (time.monotonic() - began) * 1000 / len(batch)
        for row, ids in zip(batch, done.ids, strict=False):
            rows.popleft()
            text, tokens = self._answer(form, ids)
            slots = form.padded + len(ids)
            self.take(
                Result(
                    row.number,
                    0,
                    bucket=form.padded,
                    rows=len(batch),
                    token_slots=slots,
                    milliseconds=milliseconds,
                    peak_bytes=peak,
                    text=text,
                    tokens=tokens,
                )
            )

    def _most(self, form: Form) -> int:
        """Rows of a batch, those that fill it up left out."""
        if self.is_alone:
            return 1
        if self.is_fixed:
            return STEP
        rows = self.budget.rows(form.row_tokens)
        return max(STEP, rows - rows % STEP)

    def _generated(self, form: Form, batch: Sequence[Row], most: int | None = None) -> Batch | None:
        """most: tokens of an answer, if not all. None: memory does not hold them."""
        rows = [*batch, *[batch[-1]] * (rounded_up(len(batch)) - len(batch))]
        # padding by a token of the prompt: a penalty for what was said counts no new one
        ids = [[row.ids[0]] * (form.padded - len(row.ids)) + list(row.ids) for row in rows]
        mask = [[0] * (form.padded - len(row.ids)) + [1] * len(row.ids) for row in rows]
        keys = [draw_key(self.questions[row.number].request.item, self.seed) for row in rows]
        watch = Watch(len(batch) - 1, _LOOKED_AT)
        ends, until = self.scorer.end_ids, form.decoding.until
        config = GenerationConfig(
            max_new_tokens=most or form.decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=list(ends),
            pad_token_id=ends[0],
        )
        told = if_it_fits(
            lambda: self.scorer.generate(
                torch.tensor(ids),
                torch.tensor(mask),
                generation_config=config,
                logits_processor=processors(form.decoding, keys, form.padded, watch),
                stopping_criteria=[Until(until, self.scorer.text, form.padded)] if until else [],
            )
        )
        return None if told is None else Batch(told, watch.seen)

    def _is_disturbed(self, form: Form, batch: Sequence[Row], done: Batch) -> bool:
        """Whether the last row gives other logits in one of its first steps, by a single bit, with copies of
        itself alone. Looked at once for each form.
        """
        if len(batch) == 1 or form in self._checked:
            return False
        self._checked.add(form)
        alone = self._generated(form, batch[-1:], min(_LOOKED_AT, form.decoding.max_new_tokens))
        return alone is not None and alone.seen != done.seen[: len(alone.seen)]

    def _answer(self, form: Form, ids: Sequence[int]) -> tuple[str, int]:
        """(the text, up to what ends it; tokens that were generated, without an end token)."""
        ends = self.scorer.end_ids
        own = ids[: next((place for place, one in enumerate(ids) if one in ends), None)]
        text = self.scorer.text(own).replace("\0", "\N{REPLACEMENT CHARACTER}")  # a log cannot hold it
        return min((text.partition(one)[0] for one in form.decoding.until), key=len, default=text), len(own)

    def _place(self, row: Row) -> str:
        return self.questions[row.number].request.item.place
