"""What is asked, in tokens, and what is written down of each answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from crossfoot.data.samples import Encoder
from crossfoot.evaluation.rows import Piece
from crossfoot.evaluation.scorer import Letters
from crossfoot.evaluation.scoring import Result
from crossfoot.scores.item_log import Origin
from crossfoot.scores.item_score import Key, Score, Scored, Work, prompt_sha256
from crossfoot.tasks.answers import judged
from crossfoot.tasks.items import Request
from crossfoot.tasks.questions import Question, letter_ids


@dataclass(frozen=True)
class Paper:
    """The same on every rank. indexes: of each question, its place in its task. origin: of what the scores
    are made.
    """

    questions: tuple[Question, ...]
    indexes: tuple[int, ...]
    encoder: Encoder
    origin: Origin

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """Of each question."""
        return tuple(Key(one.request.item.task, one.request.item.id) for one in self.questions)

    @property
    def asked(self) -> dict[Key, str]:
        """The digest of each prompt."""
        return {key: prompt_sha256(one.request) for key, one in zip(self.keys, self.questions, strict=True)}

    @cached_property
    def letters(self) -> Callable[[Request], Letters]:
        """Of a request whose answer is a letter."""

        @cache
        def ids(letters: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
            return letter_ids(self.encoder, letters)

        def of(request: Request) -> Letters:
            if request.decoding is None:
                raise ValueError("letters are read of processed scores")
            return Letters(*ids(request.item.letters), request.decoding)

        return of

    def is_generated(self, piece: Piece) -> bool:
        """Whether texts are the answers of its rows."""
        return self.questions[piece.rows[0].number].request.kind == "generate"

    def scored(self, result: Result, rank: int) -> Scored:
        """The line of an item. rank: that has computed it."""
        question = self.questions[result.number]
        request, item = question.request, question.request.item
        score = Score(
            task=item.task,
            index=self.indexes[result.number],
            subject=item.subject,
            groups=item.groups,
            id=item.id,
            kind=request.kind,
            shots=request.shots,
            prompt_sha256=prompt_sha256(request),
            shots_dropped=question.dropped,
            gold=item.gold,
            **self._told(question, result),
            bucket=result.bucket,
            prefix_tokens=result.prefix_tokens,
            is_rescored=result.is_rescored,
        )
        work = Work(
            place=item.place,
            rows_in_forward=result.rows,
            token_slots=result.token_slots,
            milliseconds=round(result.milliseconds, 3),
            peak_bytes=result.peak_bytes,
            rank=rank,
        )
        return Scored(score, work)

    def _told(self, question: Question, result: Result) -> dict[str, Any]:
        """The scores, and how much text each is of; or the answer."""
        request, tokens = question.request, tuple(len(after) for _, after in question.pairs)
        if request.kind == "generate":
            own = judged(result.text, request.item, self.origin.seed)
            counts = {"tokens": (result.tokens,), "characters": (len(result.text),)}
            return {"text": result.text, **counts, **vars(own)}
        totals = result.totals
        if request.kind == "letter":
            return {"scores": tuple(totals)}
        if request.kind == "loglikelihood":
            characters = tuple(len(one.lstrip()) for one in request.continuations)
            return {"scores": tuple(totals), "tokens": tokens, "characters": characters}
        text = request.context
        return {
            "scores": (math.fsum(totals),),
            "tokens": (sum(tokens),),
            "characters": (len(text),),
            "words": len(text.split()),
            "bytes": len(text.encode("utf-8", "surrogatepass")),
        }
