"""A task, its items, and the requests that a scorer makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from crossfoot.findings.finding import Finding

Kind = Literal["choice", "generate", "perplexity"]
Form = Literal["ceval", "cmmlu", "own", "text"]
Asking = Literal["loglikelihood", "letter", "generate", "rolling"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Of the choices, in their order."""


@dataclass(frozen=True)
class Item:
    """One question. id: unique in its task. place: `file:line`, for people. gold: the index of the right
    choice; None: hidden, or there are no choices. reference: what a generated answer is held against. Of a
    perplexity task question is the whole text. groups: that its subject belongs to.
    """

    task: str
    subject: str
    id: str
    place: str
    question: str
    choices: tuple[str, ...] = ()
    gold: int | None = None
    reference: str | None = None
    groups: tuple[str, ...] = ()

    @property
    def letters(self) -> str:
        """Of its choices: `ABCD`."""
        return LETTERS[: len(self.choices)]


@dataclass(frozen=True)
class Task:
    """name: unique in an evaluation. form: how it is written down, and with whose words it is asked. split:
    of which its items are; empty where there are none. shots: worked examples by subject, in their order.
    shots_from: in which file they are, or should be, by subject. warnings: what is odd about it, and does not
    stop.
    """

    name: str
    kind: Kind
    items: tuple[Item, ...]
    shots: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    form: Form = "own"
    split: str = ""
    shots_from: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """In the order of the items."""
        return tuple(dict.fromkeys(item.subject for item in self.items))


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen, by the names of transformers; top_k 0: off. until: texts that end an answer,
    which do not belong to it.
    """

    max_new_tokens: int
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    until: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a model is asked about one item.

    loglikelihood: the sum of the log-probabilities of each continuation behind the context. letter: the
    processed scores of the next token at the letters of the choices. generate: a text. rolling: the
    log-likelihood of the whole context, in windows.

    prefixes: what may stand before the question, by the number of shots in it: prefixes[0] has none. All
    items of a subject share this tuple, and each of them begins with the one before it, but that
    prefixes[0] may be empty. shots: how many stand in the context. continuations: one a choice; else ().
    decoding: of letter and generate.
    """

    item: Item
    kind: Asking
    prefixes: tuple[str, ...]
    shots: int
    question: str
    continuations: tuple[str, ...] = ()
    decoding: Decoding | None = None

    @property
    def prefix(self) -> str:
        """What the items of its subject have in common."""
        return self.prefixes[self.shots]

    @property
    def context(self) -> str:
        """All that is asked."""
        return self.prefix + self.question

    def shorter(self) -> Request | None:
        """The same with one shot less, the last of them; None where there is none left."""
        return replace(self, shots=self.shots - 1) if self.shots else None
