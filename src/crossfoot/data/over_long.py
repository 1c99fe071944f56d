"""What becomes of a conversation that has more tokens than data.max_seq_len (data.over_long)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from crossfoot.data.conversation import NotTrainable
from crossfoot.data.findings import OVER_LONG, Problem
from crossfoot.data.samples import Coded, Encoder, Sample, Shape, Texts, coded_texts, untrainable
from crossfoot.data.templates import Template


class Measure(Protocol):
    """Tokens of a text, counted or estimated."""

    @property
    def trained(self) -> bytearray:
        """1 for each token that is trained."""

    @property
    def masked_tokens(self) -> int:
        """Tokens before the first trained one."""


T = TypeVar("T", bound=Measure)


def sft_samples(
    batch: Sequence[Texts], encoder: Encoder, shape: Shape
) -> Iterator[Sample | tuple[int, Problem]]:
    """The samples (or a file id and its Problem) of each record. One of which no trained token would be left
    is a Problem.
    """

    def code(texts: Texts) -> Coded:
        return next(coded_texts((texts,), encoder))

    for texts, coded in zip(batch, coded_texts(batch, encoder), strict=True):
        parts = parts_of(texts, coded, shape, code)
        if isinstance(parts, Problem):
            yield texts.file_id, parts
            continue
        problem = prompt_too_long(texts, parts, shape.max_seq_len)
        if problem := problem or untrainable(texts, coded, encoder):
            yield texts.file_id, problem
            continue
        for part in parts:
            yield truncated(part, texts, shape.max_seq_len)


def truncated(coded: Coded, texts: Texts, max_seq_len: int) -> Sample:
    """The sample of a record, or of a part of it, without what is beyond the window."""
    ids = np.array(coded.ids[:max_seq_len], dtype=np.int32)
    trained = np.frombuffer(coded.trained[:max_seq_len], dtype=np.uint8)
    return Sample(ids, trained, sum(coded.trained[max_seq_len:]), texts.file_id, texts.number)


def parts_of(texts: Texts, whole: T, shape: Shape, measure: Callable[[Texts], T]) -> list[T] | Problem:
    """What a record comes to before any cut: itself, or its parts, or why it is left out. whole: what
    `measure` makes of the record.
    """
    tokens = len(whole.trained)
    if tokens <= shape.max_seq_len or shape.over_long == "truncate" or shape.template is None:
        return [whole]
    if shape.over_long == "drop":
        return texts.problem(
            OVER_LONG, f"it has {tokens:,} tokens, data.max_seq_len is {shape.max_seq_len:,}"
        )
    try:
        return list(_split(texts, shape.template, shape.max_seq_len, measure))
    except NotTrainable as error:
        return texts.problem(error.code, error.reason)


def prompt_too_long(texts: Texts, parts: Sequence[Measure], max_seq_len: int) -> Problem | None:
    """CF509 where nothing of an answer would be trained, of the record or of one of its parts."""
    masked = max(part.masked_tokens for part in parts)
    if masked < max_seq_len:
        return None
    prompt = "the prompt" if len(parts) == 1 else "the prompt of a round"
    return texts.problem("CF509", f"{prompt} has {masked} tokens, data.max_seq_len is {max_seq_len}")


def _split(texts: Texts, template: Template, max_seq_len: int, measure: Callable[[Texts], T]) -> Iterator[T]:
    """Parts of whole rounds, a question and its answer, each with the system turn before them: as many as
    fit, one at least. A part of which no answer is trained is none. Raises NotTrainable.
    """
    turns = texts.turns
    trained = template.trained_answers(turns)
    first = int(turns[0].role == "system")

    def part(begin: int, end: int) -> T:
        places = [place - begin + first for place in trained if begin <= place < end]
        stretches = template.rendered((*turns[:first], *turns[begin:end]), places)
        return measure(replace(texts, stretches=stretches))

    begin = first
    while begin < len(turns):
        end = begin + 2
        found = part(begin, end)
        while end < len(turns) and len((longer := part(begin, end + 2)).trained) <= max_seq_len:
            found, end = longer, end + 2
        if any(begin <= place < end for place in trained):
            yield found
        begin = end
