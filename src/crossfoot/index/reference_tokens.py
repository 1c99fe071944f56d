"""What one record must have become, worked out a second time: template, tokens, label mask, counts, digests.

Written from the definitions, one text at a time, and without the code that builds an index (`samples.py`,
`templates.py`, `encoders.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from crossfoot.index.reference_tokenizers import NotComparable, Piece, ReferenceTokenizer, Unusable, data
from crossfoot.index.store import DataIndex

SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"


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


def prompt_of(template: str | None, instruction: str, extra: str) -> list[Piece]:
    """The text before an answer. Raises NotComparable for a template that is not written down here."""
    if template != "alpaca2":
        raise NotComparable(f"the template {template} is known to the code that builds the index alone")
    opening = "\n".join(["[INST] <<SYS>>", SYSTEM, "<</SYS>>", "", ""])
    asked = [data(instruction), Piece("\n", True), data(extra)] if extra else [data(instruction)]
    return [Piece(opening, True), *asked, Piece(" [/INST]", True)]


def expected_answer(
    value: Any, template: str | None, max_seq_len: int, tokenizer: ReferenceTokenizer
) -> Expected:
    """The sample of an sft record: begin, prompt, answer, end; answer and end trained; cut at the window.

    Raises Unusable for a record that has none, NotComparable.
    """
    prompt = tokenizer.encode(prompt_of(template, text_of(value, "instruction"), _extra(value)))
    answer = tokenizer.encode([data(text_of(value, "output"))])
    masked = len(tokenizer.begin) + len(prompt)
    if masked >= max_seq_len:
        raise Unusable(f"its prompt has {masked} tokens of {max_seq_len}")
    ids = [*tokenizer.begin, *prompt, *answer, tokenizer.end]
    kept = ids[:max_seq_len]
    return Expected(kept, [at >= masked for at in range(len(kept))], len(ids) - len(kept))


def text_of(value: Any, field: str) -> str:
    """A text that a record must have. Raises Unusable."""
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise Unusable(f'it has no "{field}"')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Unusable(f'its "{field}" holds half of a character')
    return text


def _extra(value: dict[str, Any]) -> str:
    extra = value.get("input")
    if extra is not None and not isinstance(extra, str):
        raise Unusable('its "input" is not text')
    return extra or ""


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
