"""Requests in tokens: by the model's own encoder, begun as in training, cut into context and continuation as
lm-evaluation-harness cuts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from crossfoot.data.samples import Encoder
from crossfoot.tasks.items import Request

Ids = tuple[int, ...]
_AT_A_TIME = 256


@dataclass(frozen=True)
class Question:
    """A request in tokens. request: with the shots that fit. dropped: shots that were left out of it. pairs:
    of each choice the context and the continuation; of a letter one context, and nothing to go on with.
    """

    request: Request
    pairs: tuple[tuple[Ids, Ids], ...]
    dropped: int = 0

    @property
    def group(self) -> tuple[str, str, str, int]:
        """Questions of one group begin alike: of one task and subject, with as many shots."""
        item = self.request.item
        return item.task, item.subject, self.request.kind, self.request.shots

    @property
    def positions(self) -> int:
        """That the longest input of it takes: the last token is only predicted."""
        return max(len(context) + max(0, len(rest) - 1) for context, rest in self.pairs)


@dataclass(frozen=True)
class Asked:
    """All that is asked. over_long: what does not fit into the model's positions with any number of shots,
    and the tokens of each.
    """

    questions: tuple[Question, ...]
    over_long: tuple[tuple[Request, int], ...] = ()

    @property
    def dropped(self) -> tuple[Question, ...]:
        """Those that have lost shots."""
        return tuple(one for one in self.questions if one.dropped)


def ask(encoder: Encoder, requests: Sequence[Request], positions: int | None, *, drops: bool = True) -> Asked:
    """positions: of the model; None: not known. drops: leave out shots, the last first, until a prompt
    fits.
    """
    questions: list[Question] = []
    over_long: list[tuple[Request, int]] = []
    for question in in_tokens(encoder, requests):
        dropped = 0
        while positions is not None and question.positions > positions:
            shorter = question.request.shorter() if drops else None
            if shorter is None:
                over_long.append((question.request, question.positions))
                break
            dropped += 1
            (question,) = in_tokens(encoder, [shorter])
        else:
            questions.append(Question(question.request, question.pairs, dropped))
    return Asked(tuple(questions), tuple(over_long))


def in_tokens(encoder: Encoder, requests: Sequence[Request]) -> Iterator[Question]:
    """Of each request, in order."""
    begin = tuple(encoder.facts.bos_ids)
    rest = iter(requests)
    while batch := list(islice(rest, _AT_A_TIME)):
        texts = list(dict.fromkeys(text for request in batch for text in _texts(request)))
        ids = dict(zip(texts, map(tuple, encoder.encode(texts)), strict=True))
        for request in batch:
            pairs = [_cut(ids, request.context, one) for one in request.continuations or ("",)]
            started = [(begin + context or (encoder.facts.eos_id,), after) for context, after in pairs]
            yield Question(request, tuple(started))


def _texts(request: Request) -> Iterator[str]:
    for continuation in request.continuations or ("",):
        yield from _parts(request.context, continuation)


def _parts(context: str, continuation: str) -> tuple[str, str]:
    """(the context, all of it). Blanks at the end of a context belong to what follows: a token seldom ends
    with one.
    """
    return (context.rstrip() if continuation else context), context + continuation


def _cut(ids: Mapping[str, Ids], context: str, continuation: str) -> tuple[Ids, Ids]:
    """What is behind as many tokens as the context alone has. Where the continuation has become part of the
    context's last token, it begins with that token.
    """
    before, whole = (ids[text] for text in _parts(context, continuation))
    if len(whole) > len(before) or not continuation:
        return before, whole[len(before) :]
    return whole[:-1], whole[-1:]


def letter_ids(encoder: Encoder, letters: str) -> tuple[Ids, Ids]:
    """The tokens of the letters: each as a text of its own, and behind a colon (U+FF1A)."""
    alone = encoder.encode(list(letters))
    behind = encoder.encode([f"：{letter}" for letter in letters])
    return tuple(ids[0] for ids in alone), tuple(ids[-1] for ids in behind)
