"""What one record must have become, worked out a second time: tokens, label mask, counts, digests.

Written from the definitions, one text at a time, and without the code that builds an index (`samples.py`,
`encoders.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from crossfoot.index.reference_chat import Run, Said, runs_of, said_in
from crossfoot.index.reference_tokenizers import ReferenceTokenizer, Unusable
from crossfoot.index.store import DataIndex, IndexHeader


@dataclass(frozen=True)
class Expected:
    """A sample as it must be. trained[i]: whether token i is a label as written. lost_tokens: cut off."""

    ids: Sequence[int]
    trained: Sequence[bool]
    lost_tokens: int

    def digests(self) -> tuple[int, int]:
        """Of the ids, and of ids and labels; the first token is never a target."""
        ids = b"".join(int(one).to_bytes(4, "little", signed=True) for one in self.ids)
        labels = bytes([0, *map(int, self.trained[1:])])
        both = (blake2b(content, digest_size=8).digest() for content in (ids, ids + labels))
        tokens, whole = (int.from_bytes(digest, "little") for digest in both)
        return tokens, whole


def expected_answers(value: Any, header: IndexHeader, tokenizer: ReferenceTokenizer) -> list[Expected]:
    """The samples of an sft record: one, or those that data.over_long: split makes of it.

    Raises Unusable for a record that has none, NotComparable.
    """
    said, template, window = said_in(value, header.columns), header.template, header.max_seq_len
    found = [_tokens(runs_of(said, template), tokenizer)]
    if len(found[0][0]) > window and header.over_long == "drop":
        raise Unusable(f"it has {len(found[0][0]):,} tokens, and is left out as over-long")
    if len(found[0][0]) > window and header.over_long == "split":

        def fits(some: list[Said]) -> bool:
            return len(_tokens(runs_of(some, template), tokenizer)[0]) <= window

        found = [_tokens(runs_of(some, template), tokenizer) for some in _split(said, template, fits)]
    return [_cut(*one, window) for one in found]


def _split(said: Sequence[Said], template: Any, fits: Callable[[list[Said]], bool]) -> list[list[Said]]:
    """Rounds in a row behind the system turn, as many as fit together; a round that does not fit is alone.
    Without those in which no answer is trained.
    """
    own = [one for one in said if one.role == "system"]
    spoken = [one for one in said if one.role != "system"]
    groups: list[list[Said]] = []
    for at in range(0, len(spoken), 2):
        asked, answered = spoken[at : at + 2]
        if template.train_on == "last" and answered is not spoken[-1]:
            answered = answered._replace(counts=False)
        if groups and fits([*groups[-1], asked, answered]):
            groups[-1] += [asked, answered]
        else:
            groups.append([*own, asked, answered])
    return [some for some in groups if any(one.counts for one in some if one.role == "assistant")]


def _cut(ids: list[int], trained: list[bool], window: int) -> Expected:
    if not any(trained[1:window]):
        raise Unusable(f"nothing of its first {window} tokens is trained")
    return Expected(ids[:window], trained[:window], sum(trained[window:]))


def _tokens(runs: Iterable[Run], tokenizer: ReferenceTokenizer) -> tuple[list[int], list[bool]]:
    """Ids before any cut, and which of them are trained: of what is trained of the texts, and the end token
    behind a trained answer.
    """
    ids: list[int] = []
    trained: list[bool] = []
    for run in runs:
        if run.begins:
            ids += tokenizer.begin
            trained += [False] * len(tokenizer.begin)
        for token in tokenizer.encode(run.pieces):
            ids.append(token.id)
            reach = max(token.end, token.begin + 1)
            trained.append(any(begin < reach and token.begin < end for begin, end in run.trained))
        if run.ends:
            ids.append(tokenizer.end)
            trained.append(bool(run.trained))
    return ids, trained


def difference_of(index: DataIndex, i: int, expected: Expected) -> str | None:
    """How sample i of the index differs from what it must be, in words; None when it does not."""
    part = slice(int(index.offsets[i]), int(index.offsets[i + 1]))
    ids, trained = index.tokens[part].tolist(), [bool(one) for one in index.trained[part]]
    for at, (has, should) in enumerate(zip(ids, expected.ids, strict=False), start=1):
        if has != should:
            return f"token {at:,} is {has} in the index, and {should} by its file"
    if len(ids) != len(expected.ids):
        return f"it has {len(ids):,} tokens in the index, and {len(expected.ids):,} by its file"
    for at, (labelled, should) in enumerate(zip(trained, expected.trained, strict=True), start=1):
        if labelled != should:
            words = ("masked", "trained")
            return f"token {at:,} is {words[labelled]} in the index, and must be {words[should]}"
    tokens, whole = expected.digests()
    numbers = {
        "length": (index.lengths[i], len(expected.ids)),
        "number of trained tokens": (index.trained_tokens[i], sum(expected.trained[1:])),
        "number of lost tokens": (index.lost_tokens[i], expected.lost_tokens),
        "digest of tokens": (index.token_digests[i], tokens),
        "digest": (index.digests[i], whole),
    }
    for name, (has, should) in numbers.items():
        if int(has) != should:
            return f"its {name} is {int(has)} in the index, and must be {should}"
    return None
