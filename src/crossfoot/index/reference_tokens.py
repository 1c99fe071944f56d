"""What one record must have become, worked out a second time: tokens, label mask, counts, digests.

Written from the definitions, one text at a time, and without the code that builds an index (`samples.py`,
`encoders.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from crossfoot.index.reference_chat import runs_of, said_in
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


def expected_answer(value: Any, header: IndexHeader, tokenizer: ReferenceTokenizer) -> Expected:
    """The sample of an sft record: what is trained of its texts, and the end token behind a trained answer;
    cut at the window.

    Raises Unusable for a record that has none, NotComparable.
    """
    ids: list[int] = []
    trained: list[bool] = []
    for run in runs_of(said_in(value, header.columns), header.template):
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
    if not any(trained[1 : header.max_seq_len]):
        raise Unusable(f"nothing of its first {header.max_seq_len} tokens is trained")
    kept = slice(header.max_seq_len)
    return Expected(ids[kept], trained[kept], sum(trained[header.max_seq_len :]))


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
