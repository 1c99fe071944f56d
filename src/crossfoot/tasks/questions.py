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


WINDOW = 1024
"""Tokens that a model sees at most, when the perplexity of a text is measured."""


@dataclass(frozen=True)
class Question:
    """A request in tokens. request: with the shots that fit. dropped: shots that were left out of it. pairs:
    of each choice the context and the continuation; of a letter or an answer one context, and nothing to go
    on with; of a text its windows, each what stands before, and what is predicted.
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
        """That the longest input of it takes, with its answer: the last token is only predicted."""
        return self.later_tokens + max(len(context) + max(0, len(rest) - 1) for context, rest in self.pairs)

    @property
    def later_tokens(self) -> int:
        """Of a generated answer at most: those whose next one is predicted too."""
        decoding = self.request.decoding
        return decoding.max_new_tokens - 1 if decoding is not None else 0


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


@dataclass(frozen=True)
class Windows:
    """How a text longer than a model's positions is read. seen: tokens of a window. stride: of these, the
    last ones, are predicted; but for the first window, where all are.
    """

    seen: int
    stride: int

    def pairs(self, ids: Ids, begin: int) -> tuple[tuple[Ids, Ids], ...]:
        """Each token of `ids` is predicted once. begin: the token before the first one."""
        found: list[tuple[Ids, Ids]] = [((begin,), ids[: self.seen])]
        for start in range(self.seen, len(ids), self.stride):
            end = min(start + self.stride, len(ids))
            found.append((ids[end - self.seen - 1 : start], ids[start:end]))
        return tuple(found)


def windows_of(positions: int | None, window: int | None, stride: int | None) -> Windows:
    """positions: of the model. window, stride: as asked for; None: WINDOW, and half a window."""
    seen = min(window or WINDOW, positions or window or WINDOW)
    half, _ = divmod(seen + 1, 2)
    return Windows(seen, min(stride or half, seen))


def ask(
    encoder: Encoder,
    requests: Sequence[Request],
    positions: int | None,
    windows: Windows,
    *,
    drops: bool = True,
) -> Asked:
    """positions: of the model; None: not known. drops: leave out shots, the last first, until a prompt
    fits.
    """
    questions: list[Question] = []
    over_long: list[tuple[Request, int]] = []
    for question in in_tokens(encoder, requests, windows):
        dropped = 0
        while positions is not None and question.positions > positions:
            shorter = question.request.shorter() if drops else None
            if shorter is None:
                over_long.append((question.request, question.positions))
                break
            dropped += 1
            (question,) = in_tokens(encoder, [shorter], windows)
        else:
            questions.append(Question(question.request, question.pairs, dropped))
    return Asked(tuple(questions), tuple(over_long))


def in_tokens(encoder: Encoder, requests: Sequence[Request], windows: Windows) -> Iterator[Question]:
    """Of each request, in order."""
    begin = tuple(encoder.facts.bos_ids)
    before = begin or (encoder.facts.eos_id,)
    rest = iter(requests)
    while batch := list(islice(rest, _AT_A_TIME)):
        texts = list(dict.fromkeys(text for request in batch for text in _texts(request)))
        ids = dict(zip(texts, map(tuple, encoder.encode(texts)), strict=True))
        for request in batch:
            if request.kind == "rolling":
                yield Question(request, windows.pairs(ids[request.context], before[-1]))
                continue
            pairs = [_cut(ids, request.context, one) for one in request.continuations or ("",)]
            started = [(begin + context or before, after) for context, after in pairs]
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
